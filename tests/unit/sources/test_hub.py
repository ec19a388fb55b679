"""TF-Hub modules: from a cache, packed, and what is refused."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from kiln.core.digest import sha256_file
from kiln.core.errors import ArchiveError, DigestMismatchError, SourceUnavailableError
from kiln.core.store import Store
from kiln.recipes.recipe import discover, load
from kiln.recipes.source import HubSource
from kiln.recipes.values import tuples
from kiln.sources.fetcher import Options
from kiln.sources.hub import CACHE_VARIABLE, HubFetcher, cache_folder

HANDLE = "https://tfhub.dev/tensorflow/efficientdet/lite0/feature-vector/1"
RECIPE = load(discover(ROOT / "models")["efficientdet_lite0_320x320_seed"])
FILES = {"saved_model.pb": b"graph", "variables/variables.index": b"index"}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)


def source(**changes: Any) -> HubSource:
    table = {"kind": "hub", "handle": HANDLE, "url": "file:///nowhere.tar.gz", **changes}
    return HubSource.model_validate(tuples(table))


def cached(root: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes] = FILES) -> Path:
    """A hub cache that holds the module, laid out as tensorflow_hub does."""
    folder = root / "cache" / hashlib.sha1(HANDLE.encode()).hexdigest()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "assets").mkdir(exist_ok=True)
    (root / "cache" / f"{folder.name}.descriptor.txt").write_text("module")
    monkeypatch.setenv(CACHE_VARIABLE, str(root / "cache"))
    return folder


def packed(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def fetcher(store: Store, of: HubSource) -> HubFetcher:
    return HubFetcher(RECIPE.model_copy(update={"source": of}), of, store)


def get(store: Store, of: HubSource, archive: Path | None = None) -> dict[str, str]:
    fetched = fetcher(store, of).fetch(Options(archive=archive))
    assert (fetched.record["kind"], fetched.record["handle"]) == ("hub", HANDLE)
    assert fetched.contents.checkpoint == fetched.files == fetched.record["files"]
    return dict(fetched.files)


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_the_folder_in_a_cache_is_tensorflow_hub_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder(HANDLE) is None
    folder = cached(tmp_path, monkeypatch)
    assert folder.name == "0771ebbebbfa831cd20c20680920ec4ad9deb2bd"
    assert cache_folder(HANDLE) == folder
    assert cache_folder(HANDLE + "0") is None


def test_a_module_from_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    assert not fetcher(store, source()).at_hand()
    cached(tmp_path, monkeypatch)
    assert fetcher(store, source()).at_hand()
    assert get(store, source()) == digests(FILES)


def test_a_packed_module_is_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert get(store, source(), packed(tmp_path / "m.tar.gz")) == digests(FILES)
    assert fetcher(store, source()).at_hand()
    assert get(store, source()) == digests(FILES)


def test_another_module_than_the_first_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    get(store, source(), packed(tmp_path / "m.tar.gz"))
    cached(tmp_path, monkeypatch, {**FILES, "variables/variables.index": b"other"})
    with pytest.raises(DigestMismatchError, match=r"variables\.index differs"):
        get(store, source())


def test_pins_hold_for_a_cache_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cached(tmp_path, monkeypatch)
    pin = {"path": "saved_model.pb", "sha256": sha256_file(folder / "saved_model.pb")}
    store = Store(tmp_path / "store")
    assert get(store, source(files=[pin])) == digests(FILES)
    wrong = {**pin, "sha256": "0" * 64}
    with pytest.raises(DigestMismatchError, match=r"saved_model\.pb"):
        get(Store(tmp_path / "other"), source(files=[wrong]))


def test_a_cache_cannot_stand_in_for_a_pinned_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(tmp_path, monkeypatch)
    with pytest.raises(SourceUnavailableError):
        get(Store(tmp_path / "store"), source(sha256="0" * 64))


def test_a_module_without_a_graph_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "m.tar.gz", {"folder/saved_model.pb": b"graph"})
    with pytest.raises(ArchiveError, match=r"no saved_model\.pb at its top"):
        get(Store(tmp_path / "store"), source(), path)


def test_a_link_in_a_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cached(tmp_path, monkeypatch) / "extra").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveError, match="symbolic link"):
        get(Store(tmp_path / "store"), source())
