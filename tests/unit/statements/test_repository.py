"""Which commit the checkout is at, asked of a real git."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kiln.statements import repository
from kiln.statements.repository import public_address, repository_of

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.com")
    done = subprocess.run(
        ["git", "-C", str(root), *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "docker").mkdir(parents=True)
    (root / "docker" / "a").write_text("a")
    (root / "README.md").write_text("r")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def test_a_checkout(checkout: Path) -> None:
    state = repository_of(checkout)
    assert state is not None
    assert state.commit == git(checkout, "rev-parse", "HEAD")
    assert (state.uri, state.dirty) == ("git+unknown", False)
    git(checkout, "remote", "add", "origin", "https://me:secret@example.com/kiln.git")
    state = repository_of(checkout)
    assert state is not None and state.uri == "git+https://example.com/kiln.git"


def test_dirty_is_what_a_build_can_see(checkout: Path) -> None:
    (checkout / "README.md").write_text("changed")
    (checkout / "dist").mkdir()
    (checkout / "dist" / "x").write_text("x")
    state = repository_of(checkout)
    assert state is not None and not state.dirty
    (checkout / "docker" / "new").write_text("x")
    state = repository_of(checkout)
    assert state is not None and state.dirty


def test_nothing_is_written(checkout: Path) -> None:
    os.utime(checkout / "docker" / "a", (1, 1))  # git would like to refresh its index
    before = (checkout / ".git" / "index").stat().st_mtime_ns
    assert repository_of(checkout) is not None
    assert (checkout / ".git" / "index").stat().st_mtime_ns == before


def test_no_checkout_no_word(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repository_of(tmp_path) is None
    inside = checkout / "docker"  # of a checkout, but none itself
    assert repository_of(inside) is None
    (tmp_path / "damaged" / ".git").mkdir(parents=True)
    assert repository_of(tmp_path / "damaged") is None
    (tmp_path / "new").mkdir()
    git(tmp_path / "new", "init", "--quiet")
    assert repository_of(tmp_path / "new") is None, "no commit yet"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert repository_of(checkout) is None


def test_a_git_that_hangs_is_left(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = checkout.parent / "bin"
    tools.mkdir()
    (tools / "git").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tools / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(repository, "PATIENCE", 0.2)
    assert repository_of(checkout) is None


def test_the_repository_of_a_hook_is_not_asked(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert repository_of(checkout) is not None


@pytest.mark.parametrize(
    ("remote", "public"),
    [
        ("https://example.com/a/b.git", "https://example.com/a/b.git"),
        ("https://token@example.com:8443/a?x=1#y", "https://example.com:8443/a"),
        ("ssh://git@example.com/a", "ssh://example.com/a"),
        ("git@example.com:a/b.git", "ssh://example.com/a/b.git"),
        ("example.com:/a/b", "ssh://example.com/a/b"),
        ("file:///home/me/a", ""),
        ("../a", ""),
        ("/home/me:secret/a", ""),
        ("https://[broken", ""),
        ("https://example.com:port/", ""),
        ("", ""),
    ],
)
def test_addresses_without_secrets(remote: str, public: str) -> None:
    assert public_address(remote) == public
