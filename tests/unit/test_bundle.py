"""Bundles: the same bytes for the same contents, whole at import or refused."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_offline import DEBS, WHEELS, Offline, filename, kiln, make_offline, pin

from kiln.bundle.contents import Contents, locked_images
from kiln.bundle.needs import needs_of
from kiln.bundle.reading import import_bundle, read_index
from kiln.bundle.writing import total_size, write
from kiln.core.digest import canonical_json, sha256_bytes
from kiln.core.errors import (
    ArchiveError,
    DigestMismatchError,
    ImageMismatchError,
    KilnError,
    SourceUnavailableError,
    StoreError,
    UsageError,
    VerificationError,
)
from kiln.core.project import Project
from kiln.core.store import Store
from kiln.images import archived, definition
from kiln.images.builder import Images
from kiln.recipes.recipe import HubSource, discover, load
from kiln.recipes.steps import Files, Output, Plan, StepList
from kiln.running.engine import Engine
from kiln.signing.dsse import bundle_bytes
from kiln.signing.statement_names import STATEMENT_TYPE, provenance_path
from kiln.sources import archive, pypi
from kiln.sources.model import acquire
from kiln.statements.plan_data import plan_as_data

ROOT = Path(__file__).resolve().parents[2]
HUB = "efficientdet_lite0_320x320_seed"


def without_engine() -> Engine:
    raise AssertionError("no engine is needed")


def silent(*_: object, **__: object) -> None:
    """Hears nothing."""


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Offline:
    root = tmp_path_factory.mktemp("offline")
    return make_offline(root / "project", root / "store")


def create(offline: Offline, target: Path, *, images: bool = True) -> Path:
    project = offline.project
    with ExitStack() as stack:
        contents = Contents(project, offline.store, silent, stack)
        contents.add_model(project.models / "toy" / "recipe.toml", project.models)
        contents.add_packages(project.docker, ["odapi"])
        if images:
            known = Images(project.docker, without_engine, offline.store)
            for locked in locked_images(project.docker, ["odapi"]):
                contents.add_image(known, locked)
        write(target, contents.index(), contents.readers, silent)
    return target


@pytest.fixture(scope="module")
def bundle(offline: Offline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with everything."""
    return create(offline, tmp_path_factory.mktemp("bundle") / "all.tar")


@pytest.fixture(scope="module")
def small(offline: Offline, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same without images, in memory."""
    target = tmp_path_factory.mktemp("small") / "small.tar"
    return create(offline, target, images=False).read_bytes()


def refused(data: bytes, tmp_path: Path, kind: type[KilnError] = ArchiveError) -> str:
    """The message; the store has whole contents and remembers nothing."""
    path = tmp_path / "damaged.tar"
    path.write_bytes(data)
    store = Store(tmp_path / "refusing")
    with pytest.raises(kind) as caught:
        import_bundle(path, store)
    assert caught.value.remedy
    assert store.verify() == []
    assert list(store.tmp.iterdir()) == []
    assert list((store.root / "refs").iterdir()) == []
    return caught.value.message


def test_the_same_contents_make_the_same_bytes(
    offline: Offline, bundle: Path, tmp_path: Path
) -> None:
    other = make_offline(tmp_path / "elsewhere", tmp_path / "store")
    # (The toy's recipe names its archive by a path, which is another there.)
    recipe = offline.project.models / "toy" / "recipe.toml"
    path = other.project.models / "toy" / "recipe.toml"
    path.write_bytes(recipe.read_bytes())
    url = load(recipe, offline.project.models).source.url  # type: ignore[union-attr]
    _, digest = archive.remembered(other.store, "toy") or ("", "")
    _, same = archive.remembered(offline.store, "toy") or ("", "")
    assert digest and same
    other.store.add_bytes(offline.store.path(same).read_bytes())
    archive.remember(other.store, "toy", url, same)
    again = create(other, tmp_path / "again.tar")
    assert again.read_bytes() == bundle.read_bytes()


def test_other_programs_can_read_it(bundle: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xf", bundle, "-C", tmp_path], check=True)
    index = json.loads((tmp_path / "bundle.json").read_bytes())["index"]
    found = {path.name: path for path in (tmp_path / "blobs" / "sha256").iterdir()}
    assert sorted(found) == [item["sha256"] for item in index["blobs"]]
    for name, path in found.items():
        assert sha256_bytes(path.read_bytes()) == name
    assert total_size(read_index(bundle)) == bundle.stat().st_size


def test_all_that_is_needed_is_in_it(offline: Offline, bundle: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    found = import_bundle(bundle, store)
    assert found.new == len(found.index.blobs)
    assert found.first_uses == ("toy",)
    docker = offline.project.docker
    for name in ("base", "odapi"):  # no index, no mirror: all is at hand
        item = definition.get(docker, name)
        assert definition.fetch(item, store) == definition.fetch(item, offline.store)
        digest = archived.stored(store, offline.locked(name))
        assert digest == archived.stored(offline.store, offline.locked(name))
    recipe = load(offline.project.models / "toy" / "recipe.toml", offline.project.models)
    assert acquire(recipe, store) == acquire(recipe, offline.store)
    again = import_bundle(bundle, store)
    assert (again.new, again.first_uses) == (0, ())
    assert store.verify() == []


def test_roles(offline: Offline, bundle: Path) -> None:
    uses = {(use.role, use.name) for blob in read_index(bundle).blobs for use in blob.uses}
    assert ("debian", "base/toyc_1.0_amd64.deb") in uses
    assert ("python", f"odapi/{filename('toy-tool')}") in uses
    assert {("source", "toy"), ("recipe", "toy/source.tar"), ("image", "base")} <= uses
    assert ("input", "toy/images/one.png") in uses
    assert len(DEBS) + len(WHEELS) == sum(role in {"debian", "python"} for role, _ in uses)


# -- damage -------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_is_seen(
    small: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    bit = data.draw(st.integers(0, len(small) * 8 - 1))
    damaged = bytearray(small)
    damaged[bit // 8] ^= 1 << bit % 8
    refused(bytes(damaged), tmp_path_factory.mktemp("flip"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_image_with_one_flipped_bit(
    bundle: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(bundle.read_bytes())
    bit = data.draw(st.integers(0, len(damaged) * 8 - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    refused(bytes(damaged), tmp_path_factory.mktemp("flip"))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_cut_off_anywhere(
    small: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    length = data.draw(st.integers(0, len(small) - 1))
    refused(small[:length], tmp_path_factory.mktemp("cut"))


def members(data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(info, (tar.extractfile(info) or io.BytesIO()).read()) for info in tar]


def packed_again(found: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in found:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_packing_alone_changes_nothing(small: bytes) -> None:
    """What the changes below do is what is refused, not how the tar is made."""
    assert packed_again(members(small)) == small


def extra(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def renamed(found: list[Any]) -> list[Any]:
    name = found[3][0].name
    found[3][0].name = name[:-1] + ("1" if name.endswith("0") else "0")
    return found


def linked(found: list[Any]) -> list[Any]:
    info = extra(found[2][0].name, tarfile.SYMTYPE, "/etc/passwd")
    return [*found[:2], (info, b""), *found[3:]]


CHANGES: dict[str, Callable[[list[Any]], list[Any]]] = {
    "renamed": renamed,
    "a member more": lambda found: [*found, (extra("blobs/sha256/x"), b"")],
    "a member more inside": lambda found: [found[0], (extra("../../etc/x"), b""), *found[1:]],
    "one twice": lambda found: [*found, found[-1]],
    "one twice inside": lambda found: [*found[:2], found[1], *found[2:]],
    "one missing": lambda found: found[:-1],
    "another order": lambda found: [found[0], found[2], found[1], *found[3:]],
    "a link": linked,
    "a hard link more": lambda found: [
        *found,
        (extra("x", tarfile.LNKTYPE, found[1][0].name), b""),
    ],
    "a folder": lambda found: [found[0], (extra("blobs", tarfile.DIRTYPE), b""), *found[1:]],
    "no index": lambda found: found[1:],
    "index last": lambda found: [*found[1:], found[0]],
    "two indexes": lambda found: [found[0], *found],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_other_members(
    small: bytes, change: Callable[[list[Any]], list[Any]], tmp_path: Path
) -> None:
    refused(packed_again(change(members(small))), tmp_path)


@pytest.mark.parametrize("data", [b"", b"x", bytes(10240), b"PK\3\4" + bytes(2000)])
def test_no_bundle_at_all(data: bytes, tmp_path: Path) -> None:
    assert "is not a bundle" in refused(data, tmp_path)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.tar", tmp_path):
        with pytest.raises(UsageError):
            import_bundle(path, Store(tmp_path / "store"))


def test_what_was_whole_before_the_damage_stays_and_helps(small: bytes, tmp_path: Path) -> None:
    damaged = bytearray(small)
    with tarfile.open(fileobj=io.BytesIO(small)) as tar:
        damaged[tar.getmembers()[-1].offset_data] ^= 1
    refused(bytes(damaged), tmp_path)
    store = Store(tmp_path / "refusing")
    path = tmp_path / "whole.tar"
    path.write_bytes(small)
    assert import_bundle(path, store).new == 1


KILLED = """\
import os, signal, sys
from pathlib import Path
from kiln.bundle.reading import import_bundle
from kiln.core.store import Store

def kill(done, total):
    if done > total * float(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

import_bundle(Path(sys.argv[1]), Store(Path(sys.argv[2])), kill)
"""


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_killed_in_the_middle(bundle: Path, share: float, tmp_path: Path) -> None:
    root = tmp_path / "store"
    ended = subprocess.run([sys.executable, "-c", KILLED, bundle, root, str(share)], check=False)
    assert ended.returncode == -signal.SIGKILL
    store = Store(root)
    store.sweep()
    assert store.verify() == []
    assert list(store.tmp.iterdir()) == list((root / "refs").iterdir()) == []
    found = import_bundle(bundle, store)
    # Early on there may be nothing whole yet.
    assert 0 < found.new < len(found.index.blobs) + (share < 0.5)


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
    "a size": (lambda index: index["blobs"][0].update(size=7), "unexpected data"),
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
    archive.remember(store, "toy", url, store.add_bytes(b"the first one"))
    path = tmp_path / "bundle.tar"
    path.write_bytes(small)
    with pytest.raises(DigestMismatchError, match="first used"):
        import_bundle(path, store)
    assert archive.remembered(store, "toy") == (url, sha256_bytes(b"the first one"))
    assert len(list((store.root / "blobs").rglob("*/*/*"))) == 1  # nothing was taken


def test_an_archive_from_another_address_is_not_forgotten(small: bytes, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = ("https://elsewhere.example/toy.tar.gz", store.add_bytes(b"the first one"))
    archive.remember(store, "toy", *first)
    path = tmp_path / "bundle.tar"
    path.write_bytes(small)
    assert import_bundle(path, store).kept == ("toy",)
    assert archive.remembered(store, "toy") == first


def image_lies() -> dict[str, Callable[[dict[str, Any]], object]]:
    def swap(index: dict[str, Any]) -> None:
        one, two = index["images"]
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


# -- making -------------------------------------------------------------------------------------


def test_a_damaged_store_makes_no_bundle(tmp_path: Path) -> None:
    offline = make_offline(tmp_path / "project", tmp_path / "store")
    place = offline.store.path(sha256_bytes(DEBS["toyc"]))
    place.chmod(0o644)
    place.write_bytes(DEBS["toyc"][:-1] + b"?")
    with pytest.raises(StoreError, match=r"toyc_1\.0_amd64\.deb\) is damaged"):
        create(offline, tmp_path / "bundle.tar")
    assert not list(tmp_path.glob("*.tar")) and not list(tmp_path.glob(".*"))


def release(offline: Offline, dist: Path, contents: dict[str, bytes], identity: str) -> Path:
    """A release of the model ``toy`` whose one stage read ``contents``."""
    files = {name: sha256_bytes(data) for name, data in contents.items()}
    steps = StepList(identity, "c" * 64)
    steps.add("export", "export", {}, {})
    read = {"images": Files(files), "model": Output("export", "saved_model")}
    steps.add("convert", "convert", {}, read)
    plan = Plan("toy", "odapi", tuple(steps.steps.values()), {}, (), identity, "c" * 64)
    build = {
        "internalParameters": {"plan": plan_as_data(plan, "convert")},
        "resolvedDependencies": [
            {"name": "image/odapi", "digest": {"sha256": identity.removeprefix("sha256:")}}
        ],
    }
    statement = {"_type": STATEMENT_TYPE, "predicate": {"buildDefinition": build}}
    path = dist / "toy" / provenance_path("toy_float32.tflite")
    path.parent.mkdir(parents=True)
    # (Nobody looks at the signature here.)
    path.write_bytes(bundle_bytes(canonical_json(statement), b"x", {"publicKey": {"hint": "x"}}))
    return path


def test_what_a_release_was_made_from(tmp_path: Path) -> None:
    offline = make_offline(tmp_path / "project", tmp_path / "store")
    identity = offline.locked("odapi").identity
    path = release(offline, tmp_path / "dist", {"a.png": b"one", "b.png": b"two"}, identity)
    (needs,) = needs_of(tmp_path / "dist")
    assert (needs.model, needs.images) == ("toy", {identity})
    with ExitStack() as stack:
        contents = Contents(offline.project, offline.store, silent, stack)
        with pytest.raises(SourceUnavailableError, match=r"2 contents .* convert/images/a\.png"):
            contents.add_needs(needs)
        offline.store.add_bytes(b"one")
        offline.store.add_bytes(b"two")
        contents.add_needs(needs)
        assert contents.docker_of(needs) == offline.project.docker
        uses = {use.name for blob in contents.index().blobs for use in blob.uses}
        assert uses == {"toy/convert/images/a.png", "toy/convert/images/b.png"}
    other = canonical_json({"_type": STATEMENT_TYPE, "predicate": {}})
    for data in (b"{}", b"[1]", b"\xff", bundle_bytes(other, b"x", {})):
        path.write_bytes(data)
        with pytest.raises(VerificationError, match=r"provenance\.sigstore\.json"):
            needs_of(tmp_path / "dist")


def test_a_release_of_other_images_brings_their_definitions(tmp_path: Path) -> None:
    offline = make_offline(tmp_path / "project", tmp_path / "store")
    identity = f"sha256:{'e' * 64}"
    release(offline, tmp_path / "dist", {}, identity)
    with ExitStack() as stack:
        contents = Contents(offline.project, offline.store, silent, stack)
        (needs,) = needs_of(tmp_path / "dist")
        with pytest.raises(ImageMismatchError, match="other images"):
            contents.docker_of(needs)
        lock = (offline.project.docker / "images.lock").read_bytes()
        old = lock.replace(offline.locked("odapi").identity.encode(), identity.encode())
        with tarfile.open(tmp_path / "dist" / "toy" / "source.tar", "w") as tar:
            info = tarfile.TarInfo("docker/images.lock")
            info.size = len(old)
            tar.addfile(info, io.BytesIO(old))
        (needs,) = needs_of(tmp_path / "dist")
        assert (contents.docker_of(needs) / "images.lock").read_bytes() == old


def test_no_release(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no release with provenance"):
        needs_of(tmp_path)


def test_a_hub_module_out_of_a_cache(
    offline: Offline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no archive of it, so one is packed; where there is no cache, it is used."""
    models = ROOT / "models"
    path = discover(models)[HUB]
    recipe = load(path, models)
    assert isinstance(recipe.source, HubSource)
    name = hashlib.sha1(recipe.source.handle.encode(), usedforsecurity=False).hexdigest()
    (tmp_path / "cache" / name / "variables").mkdir(parents=True)
    for place in ("saved_model.pb", "variables/variables.index"):
        (tmp_path / "cache" / name / place).write_bytes(place.encode())
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    cached = acquire(recipe, here).sources
    target = tmp_path / "hub.tar"
    with ExitStack() as stack:
        contents = Contents(Project(ROOT), here, silent, stack)
        contents.add_model(path, models)
        write(target, contents.index(), contents.readers, silent)
    import_bundle(target, there)
    monkeypatch.delenv("TFHUB_CACHE_DIR")
    assert acquire(recipe, there).sources == cached


# -- the command --------------------------------------------------------------------------------


def test_created_imported_created_again(offline: Offline, bundle: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    made = kiln(offline, offline.store.root, "bundle", "create", "-o", one)
    assert made.returncode == 0, made.stderr
    assert one.read_bytes() == bundle.read_bytes()
    assert "images: base, odapi" in made.stdout
    store = tmp_path / "store"
    came = kiln(offline, store, "bundle", "import", one, "--json")
    assert came.returncode == 0, came.stderr
    events = [json.loads(line) for line in came.stdout.splitlines()]
    assert events[-1]["event"] == "imported"
    assert events[-1]["new"] == events[-1]["contents"] == len(read_index(one).blobs)
    notes = [event["message"] for event in events if event["event"] == "note"]
    assert sum("no engine answers" in note for note in notes) == 2
    assert sum("is trusted from now on" in note for note in notes) == 1
    again = kiln(offline, store, "bundle", "create", "toy", "-o", two)
    assert again.returncode == 0, again.stderr
    assert two.read_bytes() == one.read_bytes()


def test_parts_left_out(offline: Offline, tmp_path: Path) -> None:
    target = tmp_path / "least.tar"
    made = kiln(
        offline, offline.store.root, "bundle", "create", "-o", target, "--without-images",
        "--without-packages",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    roles = {use.role for blob in read_index(target).blobs for use in blob.uses}
    assert roles == {"input", "recipe", "source"}


def test_bad_arguments(offline: Offline, tmp_path: Path) -> None:
    store = offline.store.root
    for code, arguments in (
        (2, ["create", "no_such_model", "-o", tmp_path / "x.tar"]),
        (2, ["create", "-o", tmp_path / "nowhere" / "x.tar"]),
        (2, ["create", "-o", tmp_path]),
        (2, ["create", "-o", tmp_path / "x.tar", "--release", tmp_path]),
        (2, ["import", tmp_path / "missing.tar"]),
        (13, ["import", offline.project.docker / "images.lock"]),
    ):
        ended = kiln(offline, store, "bundle", *arguments)
        assert ended.returncode == code, ended.stderr
        assert "Traceback" not in ended.stderr
        assert len(ended.stderr.splitlines()) >= 2
    assert not list(tmp_path.iterdir())
