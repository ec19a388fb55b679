"""Bundles that are whole, and say what is not so."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_bundle import members, packed_again, refused
from toy_offline import WHEELS, Offline, pin

from kiln.bundle.reading import import_bundle
from kiln.core.digest import canonical_json, sha256_bytes
from kiln.core.errors import DigestMismatchError
from kiln.core.store import Store
from kiln.sources import packed, pypi

# -- lies ---------------------------------------------------------------------------------------


def forged(
    data: bytes,
    change: Callable[[dict[str, Any]], object],
    contents: dict[str, bytes] | None = None,
    schema: object = 1,
) -> bytes:
    """A bundle with another index, in itself in order; ``contents`` are added to the blobs."""
    (_, head), *rest = members(data)
    index = json.loads(head)["index"]
    blobs = {info.name.rpartition("/")[2]: blob for info, blob in rest} | (contents or {})
    for digest, blob in (contents or {}).items():
        uses = [{"name": "forged", "role": "input"}]
        index["blobs"].append({"sha256": digest, "size": len(blob), "uses": uses})
    index["blobs"].sort(key=lambda item: item["sha256"])
    change(index)
    told = canonical_json(
        {"schema": schema, "index": index, "sha256": sha256_bytes(canonical_json(index))}
    )
    first = tarfile.TarInfo("bundle.json")
    first.size = len(told)
    found = [(first, told)]
    for item in index["blobs"]:
        info = tarfile.TarInfo(f"blobs/sha256/{item['sha256']}")
        blob = blobs.get(item["sha256"], b"")
        info.size = len(blob)
        found.append((info, blob))
    return packed_again(found)


def test_forging_alone_changes_nothing(small: bytes) -> None:
    assert forged(small, lambda index: None) == small


EVIL = b"evil"
EVIL_DIGEST = sha256_bytes(EVIL)


def ref_of(index: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(item for item in index["refs"] if item["kind"] == kind)
    return found


def lie(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(index: dict[str, Any]) -> None:
        kind, key = path.split(".")
        ref_of(index, kind)[key] = value

    return change


def other_size(index: dict[str, Any]) -> None:
    """In as many blocks as before: the bundle's own length still fits."""
    smallest = min(index["blobs"], key=lambda blob: int(blob["size"]))
    assert smallest["size"] <= 512
    smallest["size"] = smallest["size"] % 512 + 1


LIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a wheel that the pin does not name": (
        lie("pypi.sha256", EVIL_DIGEST),
        "the pin allows",
    ),
    "a file of another package": (
        lie("pypi.filename", "pip-1.0-py3-none-any.whl"),
        "is not a file of",
    ),
    "a file of another version": (
        lie("pypi.filename", "Toy_One-9-py3-none-any.whl"),
        "not a file of",
    ),
    "a path for a name": (lie("pypi.filename", "../Toy_One-1.0.tar.gz"), "is not a file of"),
    "a pin of nothing": (lie("pypi.hashes", []), "hashes"),
    "no digest": (lie("archive.sha256", "../../../etc/passwd"), "sha256"),
    "an archive that is not there": (
        lie("archive.sha256", "0" * 64),
        "is used but not in the list",
    ),
    "a model with a path for a name": (lie("archive.model", "../x"), "model"),
    "a ref of another kind": (
        lambda index: index["refs"].append({"kind": "archive-tree", "files": {}}),
        "archive-tree",
    ),
    "a word more": (lambda index: index.update(results=[]), "results"),
    "a size": (other_size, "unexpected data"),
    "a much larger size": (lambda index: index["blobs"][0].update(size=10**9), "bytes instead of"),
    "no order": (lambda index: index["blobs"].reverse(), "not in order"),
    "a number that is text": (lambda index: index["blobs"][0].update(size="7"), "size"),
    "a negative size": (lambda index: index["blobs"][0].update(size=-1), "size"),
    "no use": (lambda index: index["blobs"][0].update(uses=[]), "uses"),
}


@pytest.mark.parametrize(("change", "word"), LIES.values(), ids=LIES.keys())
def test_lies(
    small: bytes, change: Callable[[dict[str, Any]], object], word: str, tmp_path: Path
) -> None:
    assert word in refused(forged(small, change, {EVIL_DIGEST: EVIL}), tmp_path)


def test_a_content_under_a_false_digest(small: bytes, tmp_path: Path) -> None:
    assert "is damaged" in refused(forged(small, lambda index: None, {"0" * 64: EVIL}), tmp_path)
    assert not Store(tmp_path / "refusing").has("0" * 64)


def test_a_later_schema(small: bytes, tmp_path: Path) -> None:
    assert "schema 2" in refused(forged(small, lambda index: None, schema=2), tmp_path)


def test_a_later_choice_does_not_replace_ours(
    offline: Offline, small: bytes, tmp_path: Path
) -> None:
    """What stands for a pin here is not changed by a bundle, even where both may."""
    store = Store(tmp_path / "store")
    wanted = pypi.Pin("toy-two", "2.0", pin("toy-two").hashes | {EVIL_DIGEST})
    ours = pypi.Chosen("toy_two-2.0-py3-none-any.whl", store.add_bytes(WHEELS["toy-two"]))
    pypi.remember(store, wanted, ours)

    def change(index: dict[str, Any]) -> None:
        for item in index["refs"]:
            if item.get("name") == "toy-two":
                item.update(hashes=sorted(wanted.hashes), sha256=EVIL_DIGEST)
                item["filename"] = "toy_two-2.0.tar.gz"

    path = tmp_path / "bundle.tar"
    path.write_bytes(forged(small, change, {EVIL_DIGEST: EVIL}))
    import_bundle(path, store)
    assert pypi.recall(store, wanted) == ours


def test_another_archive_than_the_first_used(small: bytes, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    url = ref_of(json.loads(members(small)[0][1])["index"], "archive")["url"]
    packed.remember(store, "toy", url, store.add_bytes(b"the first one"))
    path = tmp_path / "bundle.tar"
    path.write_bytes(small)
    with pytest.raises(DigestMismatchError, match="first used"):
        import_bundle(path, store)
    assert packed.remembered(store, "toy") == (url, sha256_bytes(b"the first one"))
    assert len(list((store.root / "blobs").rglob("*/*/*"))) == 1  # nothing was taken


def test_an_archive_from_another_address_is_not_forgotten(small: bytes, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = ("https://elsewhere.example/toy.tar.gz", store.add_bytes(b"the first one"))
    packed.remember(store, "toy", *first)
    path = tmp_path / "bundle.tar"
    path.write_bytes(small)
    assert import_bundle(path, store).kept == ("toy",)
    assert packed.remembered(store, "toy") == first


def image_lies() -> dict[str, Callable[[dict[str, Any]], object]]:
    def swap(index: dict[str, Any]) -> None:
        one, two, _ = index["images"]
        one["sha256"], two["sha256"] = two["sha256"], one["sha256"]

    def other(index: dict[str, Any]) -> None:
        index["images"][0]["sha256"] = index["blobs"][0]["sha256"]

    return {
        "each other's": swap,
        "any content": other,
        "identity": lambda index: index["images"][0].update(identity=f"sha256:{'0' * 64}"),
        "layer": lambda index: index["images"][0].update(layer=f"sha256:{'0' * 64}"),
        "configuration": lambda index: index["images"][0].update(config="{}"),
        "name": lambda index: index["images"][0].update(name="../x"),
        "size": lambda index: index["images"][0].update(size=0),
    }


@pytest.mark.parametrize("change", image_lies().values(), ids=image_lies().keys())
def test_lies_about_images(
    bundle: Path, change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    refused(forged(bundle.read_bytes(), change), tmp_path)


def test_an_image_that_is_in_itself_in_order_but_another(bundle: Path, tmp_path: Path) -> None:
    """A layer with one file changed, of the same size: only its digest tells."""
    found = members(bundle.read_bytes())
    index = json.loads(found[0][1])["index"]
    image = next(item for item in index["images"] if item["name"] == "odapi")
    data = next(data for info, data in found if info.name.endswith(image["sha256"]))
    evil = data.replace(b"odapi\0", b"evil!\0", 1)
    assert evil != data and len(evil) == len(data)
    digest = sha256_bytes(evil)

    def change(index: dict[str, Any]) -> None:
        for item in index["images"]:
            if item["name"] == "odapi":
                item["sha256"] = digest

    message = refused(forged(bundle.read_bytes(), change, {digest: evil}), tmp_path)
    assert "'odapi'" in message and "its layer is" in message
