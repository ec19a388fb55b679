"""Releases, trust files and recipes that are made to fill the memory or never to end.

Each goes through the command, in a process of its own, and ends in its own error within seconds and
within a memory that the files' size does not reach.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from patience import PATIENCE
from small_release import MODELS, make_release

from kiln.core.errors import VerificationError
from kiln.core.files import remove
from kiln.core.listing import TooMuchError, list_tree
from kiln.release.verify import verify_by
from kiln.signing.keys import SigningKey
from kiln.signing.trust import trust_in_key
from kiln.statements.source_archive_reader import SourceArchive

#: Seconds of processor time and bytes of memory, interpreter and libraries included. Two seconds
#: are seen where others want the same cores; without the bounds that are tested it is minutes.
SECONDS, MEMORY = 10.0, 300 << 20

_RUN = """
import resource, sys
from kiln.cli.main import main
from peak_memory import peak_memory
sys.argv = ["kiln", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code or 0
used = resource.getrusage(resource.RUSAGE_SELF)
print(code, used.ru_utime + used.ru_stime, peak_memory(), file=sys.stderr)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    seconds: float
    memory: int
    words: str


def kiln(*arguments: str | Path) -> Ended:
    run = subprocess.run(
        [sys.executable, "-c", _RUN, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    *said, last = run.stderr.strip().split("\n")
    code, seconds, memory = last.split()
    words = run.stdout + "\n".join(said)
    assert "Traceback" not in words
    return Ended(int(code), float(seconds), int(memory), words)


def within(ended: Ended, seconds: float = SECONDS) -> None:
    assert ended.seconds < seconds
    assert ended.memory < MEMORY


@pytest.fixture
def dist(tmp_path: Path, key: SigningKey) -> Path:
    make_release(tmp_path / "dist", key, 1)
    return tmp_path / "dist"


def sparse(path: Path, size: int = MEMORY + (100 << 20)) -> None:
    """A file of zeros that takes no place on the disk, and more memory than may be taken."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


READ_WHOLE = [
    "release.sigstore.json",
    "SHA256SUMS",
    "kiln.pub",
    f"{MODELS[0]}/model.sig",
]


@pytest.mark.parametrize("path", READ_WHOLE)
def test_a_sparse_file_is_refused_by_its_size(dist: Path, key: SigningKey, path: str) -> None:
    """Its digest is still made, by pieces."""
    sparse(dist / path)
    ended = kiln("verify", dist, "--key", key.public_path)
    (line,) = [line for line in ended.words.split("\n") if line.startswith(f"  {path}: ")]
    assert ended.code == 41 and "is larger than" in line
    within(ended, 20)


def test_sparse_bundles_of_one_file(dist: Path, key: SigningKey) -> None:
    name = f"{MODELS[0]}_int8.tflite"
    for bundle in (dist / MODELS[0] / "attestations").glob(f"{name}.*"):
        sparse(bundle)
    ended = kiln("verify", dist / MODELS[0] / name, "--key", key.public_path)
    assert ended.code == 41 and "is larger than" in ended.words
    within(ended)


def test_sparse_keys_and_trust_files(dist: Path, tmp_path: Path) -> None:
    for option in ("--key", "--policy"):
        sparse(tmp_path / "file")
        ended = kiln("verify", dist, option, tmp_path / "file")
        assert ended.code == {"--key": 40, "--policy": 2}[option]
        assert "is larger than" in ended.words
        within(ended)


def test_pages_and_reproductions_read_within_bounds(dist: Path, tmp_path: Path) -> None:
    for name in ("conversion.json", "checks.json", "model.sig"):
        sparse(dist / MODELS[1] / name)
    sparse(dist / "latency.json")
    for path in (dist / MODELS[0]).glob("attestations/*"):
        sparse(path)
    ended = kiln("page", "--dist", dist, "--out", tmp_path / "index.html")
    assert ended.code == 0
    within(ended, 20)
    for command in (("reproduce", "--unverified"), ("inspect",)):
        target = next((dist / MODELS[0]).rglob("*.provenance.sigstore.json"))
        ended = kiln(*command, target)
        assert ended.code in (14, 41)
        within(ended)


def nested(dist: Path) -> None:
    """Far deeper than Python's recursion goes, and than a path may be long."""
    here = os.open(dist, os.O_RDONLY)
    for _ in range(3_000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def crowded(dist: Path) -> None:
    (dist / "many").mkdir()
    for number in range(10_001):
        (dist / "many" / str(number)).touch()


FOLDERS = {
    "depth": (nested, "more than 8 folders inside each other"),
    "number": (crowded, "more than 10,000 files"),
    "size": (lambda dist: sparse(dist / "x", 1 << 40), "bytes together"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_without_end(
    dist: Path, key: SigningKey, name: str, request: pytest.FixtureRequest
) -> None:
    make, words = FOLDERS[name]
    # pytest itself ends in a RecursionError when it comes to remove such a folder.
    request.addfinalizer(lambda: remove(dist))
    make(dist)
    with pytest.raises(TooMuchError, match=words):
        list_tree(dist)
    ended = kiln("verify", dist, "--key", key.public_path)
    assert ended.code == 41 and words in ended.words
    within(ended)


def test_many_models_and_many_damaged_lines(tmp_path: Path, key: SigningKey) -> None:
    """Work grew with models times files, and with the square of the lines."""
    dist = tmp_path / "dist"
    for number in range(4_000):
        (dist / str(number)).mkdir(parents=True)
        (dist / str(number) / "model.sig").touch()
    (dist / "SHA256SUMS").write_bytes(b"x\n" * 1_000_000)
    start = time.process_time()
    with pytest.raises(VerificationError, match="line 20 is damaged") as caught:
        verify_by(dist, trust_in_key(key.public_pem))
    assert time.process_time() - start < 30
    assert "line 21 is" not in caught.value.message


TOML = {
    "digits": "a = " + "9" * 5_000,
    "nested": "a = " + "[" * 2_000 + "]" * 2_000,
    "nested in lines": "a = " + "[\n" * 10_000 + "]\n" * 10_000,
    "dotted": ".".join(["a"] * 100_000) + " = 1",
    "many dotted": "\n".join(f"{'a.' * 60}b{number} = 1" for number in range(1_500)),
    "doubled": "schema = 1\nschema = 1",
    "surrogate": 'a = "\\ud800"',
    "tables": "\n".join(f"[{'a.' * 60}b{number}]" for number in range(1_500)),
    "large": "# x\n" * 100_000,
}


@pytest.mark.parametrize("name", TOML)
def test_trust_files_and_recipes(name: str, dist: Path, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    for path in (tmp_path / "trust.toml", tmp_path / "toy" / "recipe.toml"):
        path.write_text(TOML[name])
    for command, code in (
        (("verify", dist, "--policy", tmp_path / "trust.toml"), 2),
        (("build", "toy", "--models-dir", tmp_path), 10),
    ):
        ended = kiln(*command)
        assert ended.code == code
        within(ended)


JSON = {
    "digits": b"9" * 5_000,
    "nested": b"[" * 100_000,
    "doubled": b'{"mediaType": 1, "mediaType": 2}',
    "surrogate": b'{"mediaType": "\\ud800"}',
    "not finite": b'{"mediaType": 1e999}',
    "objects": b"[" + b'{"a":0},' * 500_000 + b"0]",
    "lists": b"[" + b"[]," * 1_300_000 + b"0]",
}


@pytest.mark.parametrize("name", JSON)
def test_bundles_of_any_json(name: str, dist: Path, key: SigningKey) -> None:
    assert len(JSON[name]) < 4 << 20
    for path in ("release.sigstore.json", f"{MODELS[0]}/model.sig", f"{MODELS[0]}/checks.json"):
        (dist / path).write_bytes(JSON[name])
    ended = kiln("verify", dist, "--key", key.public_path)
    assert ended.code == 41
    assert re.search(r"release\.sigstore\.json: is (damaged or )?not a sigstore", ended.words)
    within(ended, 20)


def tar_of(*headers: bytes) -> bytes:
    return b"".join(headers) + bytes(1024)


def long_name(number: int) -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 512
    return info.tobuf(tarfile.GNU_FORMAT) + (b"%d" % number).ljust(512, b"\0")


def with_global_headers() -> bytes:
    headers = {f"k{number}": "v" for number in range(50_000)}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        for number in range(4_000):
            info = tarfile.TarInfo("n" * 120 + str(number))  # long: an extended header of its own
            tar.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize(
    "make", [lambda: tar_of(*map(long_name, range(20_000))), with_global_headers]
)
def test_source_archives_of_headers(make: Callable[[], bytes]) -> None:
    data = make()
    start = time.process_time()
    with pytest.raises(VerificationError, match=r"source\.tar"):
        SourceArchive.read(data)
    assert time.process_time() - start < SECONDS
