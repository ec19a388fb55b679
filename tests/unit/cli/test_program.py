"""How programs end: closed pipes, missing streams, full disks, interrupts while they load."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import FIXTURES, ROOT
from small_release import make_release

from kiln.core.errors import DiskFullError, OutputClosedError, UsageError, VerificationError
from kiln.signing.keys import SigningKey

ONE, OTHER = FIXTURES / "toy_ssd.tflite", FIXTURES / "toy_centernet.tflite"
KILN = [sys.executable, "-m", "kiln.cli"]
CLOSED = OutputClosedError.exit_code


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory, key: SigningKey) -> Path:
    made = tmp_path_factory.mktemp("release") / "dist"
    make_release(made, key, 1)
    return made


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("KILN_SIGNING_KEY", str(key.private_path))


def start(*words: object, **streams: int | None) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "KILN_PROJECT": str(ROOT),
        "DOCKER_HOST": "unix:///nonexistent.sock",
        "PYTHONPATH": str(ROOT / "scripts"),
    }
    return subprocess.Popen([str(word) for word in words], env=environment, **streams)


def unread(*words: object, both: bool = False) -> tuple[int, bytes]:
    """Exit code and standard error of a program whose output nobody reads (nor its errors)."""
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*words, stdout=writer, stderr=writer if both else subprocess.PIPE)
    os.close(writer)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors or b""


COMMANDS = {
    "help": ["--help"],
    "help of a command": ["verify", "--help"],
    "version": ["--version"],
    "inspect": ["inspect", ONE],
    "inspect, JSON": ["inspect", ONE, "--json"],
    "diff of equal files": ["diff", ONE, ONE],
    "diff of other files": ["diff", ONE, OTHER],
    "diff, JSON": ["diff", ONE, OTHER, "--json"],
    "models": ["models"],
    "models, JSON": ["models", "--json"],
    "plan": ["plan", "--samples"],
    "plan, matrix": ["plan", "--samples", "--github-matrix"],
    "doctor": ["doctor"],
    "doctor, JSON": ["doctor", "--json"],
    "sbom": ["images", "sbom", "--check"],
    "keys": ["keys", "show"],
    "keys, JSON": ["keys", "show", "--json"],
    "clean": ["clean"],
    "clean, JSON": ["clean", "--json"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS.keys())
def test_output_that_nobody_reads(words: list[object]) -> None:
    """Quietly, with a code that neither says that all went well nor that files differ."""
    assert unread(*KILN, *words) == (CLOSED, b"")


def test_a_release_that_nobody_hears_of(dist: Path, key: SigningKey) -> None:
    words = ["verify", dist, "--key", key.public_path]
    for more in ([], ["--all"], ["--json"]):
        assert unread(*KILN, *words, *more) == (CLOSED, b"")
    assert unread(*KILN, "notes", dist) == (CLOSED, b"")


def test_work_is_done_though_nobody_hears_of_it(dist: Path, tmp_path: Path) -> None:
    together = tmp_path / "together"
    assert unread(*KILN, "collect", dist, "--dist", together) == (CLOSED, b"")
    assert (together / "SHA256SUMS").is_file()
    bundle = tmp_path / "bundle.tar"
    words = ["bundle", "create", "--samples", "--without-images", "--without-packages"]
    assert unread(*KILN, *words, "-o", bundle)[0] == CLOSED
    assert bundle.is_file()


def test_the_reader_goes_when_it_has_seen_enough(dist: Path, key: SigningKey) -> None:
    """As ``| head -1`` does it, of an output that is longer than what the pipe holds."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    words = [*KILN, "verify", dist, "--key", key.public_path, "--json"]
    process = start(*words, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert os.read(reader, 10)
    os.close(reader)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (CLOSED, b"")


def test_a_failure_keeps_its_code_though_nobody_reads_of_it(
    tmp_path: Path, key: SigningKey
) -> None:
    words = [*KILN, "verify", tmp_path / "nothing", "--key", key.public_path]
    assert unread(*words, both=True)[0] == VerificationError.exit_code
    assert unread(*words, "--json")[0] == VerificationError.exit_code
    assert unread(*KILN, "--nonsense", both=True)[0] == UsageError.exit_code


PROGRAMS = (
    "locks.lock_changes",
    "proofs.cpu_check",
    "proofs.reproducibility",
    "proofs.reproduce_demo",
    "samples.train",
    "benchmarks",
)


@pytest.mark.parametrize("module", PROGRAMS)
def test_programs_of_developers_end_the_same_way(module: str) -> None:
    assert unread(sys.executable, "-m", module, "--help") == (CLOSED, b"")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_is_not_there(stream: str, tmp_path: Path) -> None:
    """Started with ``>&-``: nothing else takes its place, and the rest works."""
    number = {"stdout": 1, "stderr": 2}[stream]
    found = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {number}>&-', "sh", *KILN, "inspect", ONE, "--json"],
        capture_output=True,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, b"")
    if stream == "stderr":
        assert json.loads(found.stdout)["event"] == "inspection"
    code = subprocess.call(
        ["/bin/sh", "-c", f'exec "$@" {number}>&-', "sh", *KILN, "inspect", tmp_path / "nothing"]
    )
    assert code == UsageError.exit_code


def test_a_full_disk_is_told() -> None:
    with Path("/dev/full").open("wb") as full:
        found = subprocess.run(
            [*KILN, "inspect", ONE], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert found.returncode == DiskFullError.exit_code
    assert found.stderr.startswith(b"kiln: No space left")
    assert b"Traceback" not in found.stderr and b"ignored" not in found.stderr


# -- interrupts ---------------------------------------------------------------------------------

# The command, which interrupts itself in the middle of loading its modules.
EARLY = """\
import os, signal, sys
from kiln.cli.__main__ import main

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv[1:] = ["--version"]
main()
"""


@pytest.mark.parametrize("module", ["kiln.cli.main", "click", "kiln.cli.verify"])
def test_an_interrupt_while_modules_are_loaded(module: str) -> None:
    """No traceback: the process ends as a shell expects of one that was interrupted."""
    code = EARLY.format(module=module)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (-signal.SIGINT, b"", b"")


def test_interrupts_that_are_ignored_stay_so() -> None:
    """A script's background job (``kiln ... &``) is not ended by the terminal's Ctrl-C."""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += EARLY.format(module="kiln.cli.verify")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (found.returncode, found.stderr) == (0, b"")


def test_an_interrupt_later_is_told() -> None:
    code = (
        "import sys, time\n"
        "from kiln.cli import program\n"
        "def wait():\n"
        "    print('there', flush=True)\n"
        "    time.sleep(60)\n"
        "program.run(wait, 'toy')\n"
    )
    process = start(sys.executable, "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith(b"toy: Stopped.")
    assert time.monotonic() - began < 30
