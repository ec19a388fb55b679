"""Where inputs come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from local_server import serving
from toy_project import make_project, small_archive
from toy_reproduce import COMMIT, IMAGE, REPOSITORY, WEIGHTS, Machine, ToyRelease, emptied, outcomes

from kiln.core.digest import sha256_bytes, sha256_file
from kiln.core.errors import UsageError
from kiln.core.store import Store
from kiln.reproduce.inputs import Inputs
from kiln.reproduce.recorded import Archive
from kiln.sources.http import make_session


def looking(store: Store, scratch: Path, *folders: Path, **options: Any) -> Inputs:
    return Inputs(store, folders, options.pop("checkout", None), scratch, lambda *_, **__: None,
                  **options)  # fmt: skip


def test_missing_inputs_are_listed_with_where_they_could_come_from(
    release: ToyRelease, machine: Machine
) -> None:
    release.write()
    machine.store.discard(sha256_bytes(IMAGE))
    found = machine.run(release)
    assert outcomes(found) == {
        "toy_float32.tflite": "identical",
        "toy_int8.tflite": "cannot be rebuilt",
    }
    (missing,) = found["toy_int8.tflite"].missing
    assert missing.name == "input convert-int8/images/cat.png"
    assert missing.sha256 == sha256_bytes(IMAGE)
    assert missing.uri == f"{REPOSITORY}@{COMMIT}"
    assert "cat.png" in "\n".join(found["toy_int8.tflite"].lines())


def test_a_damaged_content_of_the_store_is_not_used(
    release: ToyRelease, machine: Machine, tmp_path: Path
) -> None:
    release.write()
    path = machine.store.path(sha256_bytes(WEIGHTS))
    path.chmod(0o644)
    path.write_bytes(b"WEIGHTS")
    assert set(outcomes(machine.run(release)).values()) == {"cannot be rebuilt"}
    assert any("damaged" in note for note in machine.notes())
    folder = emptied(tmp_path / "mine" / "deep")
    (folder / "any-name").write_bytes(WEIGHTS)
    assert set(outcomes(machine.run(release, folders=[folder.parent])).values()) == {"identical"}


def test_files_of_a_checkout_by_digest_and_said(
    release: ToyRelease, machine: Machine, tmp_path: Path
) -> None:
    release.write()
    machine.store.discard(sha256_bytes(WEIGHTS))
    other = make_project(tmp_path / "other")
    (other.models / "weights").write_bytes(WEIGHTS)
    (other.stages / "__main__.py").write_text("raise SystemExit('not from a checkout')\n")
    assert set(outcomes(machine.run(release, checkout=other)).values()) == {"identical"}
    assert any("files of this kiln" in note for note in machine.notes())
    assert machine.door.calls[0]["code"]["__main__.py"] == b"print()\n", "the release's own code"


def test_an_archive_by_its_digest(tmp_path: Path) -> None:
    small_archive(tmp_path / "toy.tar.gz")
    digest = sha256_file(tmp_path / "toy.tar.gz")
    wanted = {sha256_bytes(b"abc"): "checkpoint/ckpt-0.data"}
    store = Store(tmp_path / "store")
    with serving({"toy.tar.gz": (tmp_path / "toy.tar.gz").read_bytes()}) as site:
        by_mirror = Archive(site.url("gone.tar.gz"), digest, (site.url("toy.tar.gz"),))
        here = {"session": make_session()}  # one that may ask this machine
        found = looking(store, emptied(tmp_path / "1"), **here).find(wanted, by_mirror)
        assert [path.read_bytes() for path in found.values()] == [b"abc"]
        assert store.has(digest), "what was downloaded is there for the next time"
        none = looking(Store(tmp_path / "s2"), emptied(tmp_path / "2"), fetch=False)
        assert none.find(wanted, by_mirror) == {}
        other = looking(Store(tmp_path / "s3"), emptied(tmp_path / "3"), **here)
        assert other.find(wanted, Archive(site.url("toy.tar.gz"), "e" * 64)) == {}
    folder = emptied(tmp_path / "mine")
    (tmp_path / "toy.tar.gz").rename(folder / "renamed")
    local = looking(Store(tmp_path / "s4"), emptied(tmp_path / "4"), folder, fetch=False)
    assert set(local.find(wanted, by_mirror)) == set(wanted)


def test_no_such_folder_of_inputs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        looking(Store(tmp_path / "store"), tmp_path, tmp_path / "gone")
