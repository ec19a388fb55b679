"""What changed in locks and images, in words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from kiln.images.changes import describe as describe_files
from kiln.images.changes import group_of
from kiln.images.seal import FileFact
from kiln.sources import debian, pypi
from locks.changes import compare, describe, parse

PIP_LOCKS = [*ROOT.glob("docker/*/*requirements.lock"), ROOT / "docker/odapi/metadata.lock"]


def test_every_package_of_our_locks_is_seen() -> None:
    for path in PIP_LOCKS:
        found = parse(path.read_text("utf-8"))
        assert found == {
            pin.name: {"": (pin.version, {f"sha256:{item}" for item in pin.hashes})}
            for pin in pypi.read_lock(path)
        }
    path = ROOT / "docker/base/debian.lock"
    assert parse(path.read_text("utf-8")) == {
        pin.name: {"": (pin.version, {pin.sha256})} for pin in debian.read_lock(path)
    }


def test_versions_that_markers_choose() -> None:
    old = "uv==1 ; python_version < '3.11' \\\n    --hash=x:aa\n"
    more = "uv==2 ; python_version >= '3.11' \\\n    --hash=x:bb\n"
    assert describe(compare(old, old + more)) == [
        "uv: 1 (python_version < '3.11') -> "
        "1 (python_version < '3.11'), 2 (python_version >= '3.11')"
    ]
    assert describe(compare(old + more, old + more.replace("==2", "==3"))) == [
        "uv: 2 -> 3 (python_version >= '3.11')"
    ]


def test_each_kind_of_change() -> None:
    pin = "{} {} amd64 {} 9 debian pool/main/x.deb\n"
    old = pin.format("a", "1", "aa") + pin.format("b", "1", "aa") + pin.format("c", "1", "aa")
    new = pin.format("a", "2", "bb") + pin.format("b", "1", "bb") + pin.format("d", "1", "aa")
    changes = compare(old, new)
    assert changes.updated == (("a", "1", "2"),)
    assert changes.added == (("d", "1"),)
    assert changes.removed == (("c", "1"),)
    assert changes.rehashed == ("b",)
    assert not compare(old, old) and changes


LOCKS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True),
    st.tuples(
        st.from_regex(r"[0-9]\.[0-9]{1,3}", fullmatch=True),
        st.frozensets(st.from_regex(r"[0-9a-f]{8}", fullmatch=True), min_size=1, max_size=3),
    ),
    max_size=6,
)


@given(LOCKS, LOCKS)
def test_words_are_about_what_differs_and_nothing_else(
    old: dict[str, tuple[str, frozenset[str]]], new: dict[str, tuple[str, frozenset[str]]]
) -> None:
    def text(lock: dict[str, tuple[str, frozenset[str]]]) -> str:
        return "".join(
            f"{name}=={version} \\\n    "
            + " \\\n    ".join(f"--hash=sha256:{item}" for item in sorted(hashes))
            + "\n"
            for name, (version, hashes) in lock.items()
        )

    told = {line.partition(":")[0] for line in describe(compare(text(old), text(new)))}
    assert told == {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


# --- the program -------------------------------------------------------------------------------


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "locks.lock_changes", *args],
        env={"PYTHONPATH": str(ROOT / "scripts"), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "docker" / "image").mkdir(parents=True)
    (root / "scripts" / "locks").mkdir(parents=True)
    (root / "docker" / "image" / "requirements.lock").write_text("six==1.16.0 --hash=sha256:aa\n")
    (root / "docker" / "images.lock").write_text("not==1.0\n")
    (root / "scripts" / "locks" / "requirements.lock").write_text("rich==13.0 --hash=sha256:aa\n")
    for args in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *identity, *args], cwd=root, check=True)
    return root


def change(checkout: Path) -> None:
    (checkout / "docker" / "image" / "requirements.lock").write_text("six==1.17.0 --hash=x:bb\n")
    (checkout / "docker" / "images.lock").write_text("not==2.0\n")
    (checkout / "scripts" / "locks" / "new.lock").write_text("uv==1.0 --hash=sha256:aa\n")


SAID = """\
docker/image/requirements.lock
  six: 1.16.0 -> 1.17.0
scripts/locks/new.lock
  uv: added, 1.0
"""


def test_since_the_last_commit(checkout: Path) -> None:
    assert "the same packages" in run("--root", checkout).stdout
    change(checkout)
    assert run("--root", checkout).stdout == SAID


def test_since_a_copy(checkout: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", checkout, tmp_path / "before"], check=True)
    change(checkout)
    assert run("--root", checkout, "--before", tmp_path / "before").stdout == SAID


def test_without_a_history(tmp_path: Path) -> None:
    found = run("--root", tmp_path)
    assert found.returncode == 2
    assert "git cannot tell" in found.stderr and "Traceback" not in found.stderr


# --- images ------------------------------------------------------------------------------------

SITE = "opt/odapi/lib/python3.9/site-packages"


def file(path: str, content: str = "aa", size: int = 10) -> FileFact:
    return FileFact(path, "f", 0o644, "0:0", size, content)


def installed(version: str, content: str = "aa", size: int = 10) -> list[FileFact]:
    return [
        file(f"{SITE}/six.py", content, size),
        file(f"{SITE}/six-{version}.dist-info/METADATA", content),
    ]


def test_an_update_is_told_once_and_its_files_counted() -> None:
    assert describe_files(installed("1.16.0"), installed("1.17.0", "bb", 12)) == [
        "odapi: six: 1.16.0 -> 1.17.0",
        f"/{SITE}/six: 1 added, 1 removed (+0 bytes)",
        f"/{SITE}/six.py: 1 changed (+2 bytes)",
    ]


def test_packages_that_come_and_go() -> None:
    assert describe_files([], installed("1.17.0"))[0] == "odapi: six: added, 1.17.0"
    assert describe_files(installed("1.17.0"), [])[0] == "odapi: six: removed, was 1.17.0"
    assert describe_files(installed("1.17.0"), installed("1.17.0")) == []


def test_every_differing_path_is_counted() -> None:
    old = [file(f"usr/lib/x/{n}") for n in range(5)] + [file("bin/a"), file("usr/b")]
    new = [file(f"usr/lib/x/{n}", "bb") for n in range(2, 7)] + [file("bin/a")]
    assert describe_files(old, new) == [
        "/usr: 1 removed (-10 bytes)",
        "/usr/lib/x: 2 added, 3 changed, 2 removed (+0 bytes)",
    ]
    assert group_of("usr/b") == "/usr"
