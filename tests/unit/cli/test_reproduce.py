"""``kiln reproduce`` as it is called."""

from __future__ import annotations

import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from toy_reproduce import Machine, ToyRelease

from kiln.bundle.contents import Contents
from kiln.bundle.needs import needs_of
from kiln.bundle.writing import write
from kiln.cli.reproduce import reproduce
from kiln.core.errors import (
    CannotReproduceError,
    EngineUnavailableError,
    UsageError,
    VerificationError,
)


@pytest.fixture
def release(tmp_path: Path) -> ToyRelease:
    return ToyRelease(tmp_path)


def invoked(release: ToyRelease, *words: str | Path) -> BaseException | None:
    """How the command ended that was told what to trust, in an empty store."""
    return (
        CliRunner()
        .invoke(
            reproduce, [str(word) for word in words], env={"KILN_STORE": str(release.root / "s")}
        )
        .exception
    )


@pytest.fixture
def public(release: ToyRelease) -> Path:
    path = release.root / "their.pub"
    path.write_bytes(release.key.public_pem)
    return path


def test_what_a_trust_file_asks_for(release: ToyRelease, public: Path) -> None:
    policy = release.root / "trust.toml"
    policy.write_text(f'schema = 1\n[[signer]]\nkey = "{public}"\n[require]\nclean_git = true\n')
    release.write()
    ended = invoked(release, release.folder, "--policy", policy)
    assert isinstance(ended, VerificationError)
    assert "not committed" in ended.message

    def commit(statement: dict[str, Any]) -> None:
        materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        next(item for item in materials if item["name"] == "repository")["annotations"] = {
            "dirty": False
        }

    release.edit = commit
    release.write()
    ended = invoked(release, release.folder, "--policy", policy)
    assert isinstance(ended, CannotReproduceError), "it is trusted, and its inputs are missing"


def test_a_release_in_an_archive(release: ToyRelease, public: Path) -> None:
    dist = release.write()
    (dist / "SHA256SUMS").write_text("")
    packed = release.root / "release.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(dist, "release-1")
    ended = invoked(release, packed, "--key", public)
    assert isinstance(ended, CannotReproduceError)
    assert "2 cannot be rebuilt" in ended.message


def test_what_does_not_go_together(release: ToyRelease, public: Path) -> None:
    release.write()
    for words in (
        ("--key", public, "--unverified"),
        ("--source", release.root / "gone.tar", "--key", public),
        ("--inputs", release.root / "gone", "--key", public),
        ("--variant", "int9", "--key", public),
    ):
        assert isinstance(invoked(release, release.folder, *words), UsageError), words


def test_inputs_and_code_out_of_a_bundle(
    release: ToyRelease, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the release's bundle brings is enough: only an engine is missing then."""
    dist = release.write()
    theirs = Machine(release.root / "theirs").store
    packed = release.root / "release-1.tar"
    with ExitStack() as stack:
        contents = Contents(release.project, theirs, lambda *_, **__: None, stack)
        for needs in needs_of(dist):
            contents.add_needs(needs)
        write(packed, contents.index(), contents.readers, lambda done, total: None)
    (release.folder / "source.tar").unlink()
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    words = (release.folder, "--key", public)
    assert isinstance(invoked(release, *words), CannotReproduceError)
    assert isinstance(invoked(release, *words, "--bundle", packed), EngineUnavailableError)
