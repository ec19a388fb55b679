"""Bundles: all that building needs, the same bytes for the same contents."""

from __future__ import annotations

import hashlib
import json
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from places import ROOT
from toy_bundle import HUB, create, silent
from toy_offline import DEBS, WHEELS, Offline, filename, kiln, make_offline

from kiln.bundle.contents import Contents
from kiln.bundle.reading import import_bundle, read_index
from kiln.bundle.writing import total_size, write
from kiln.core.digest import sha256_bytes
from kiln.core.errors import StoreError
from kiln.core.store import Store
from kiln.images import archived, definition
from kiln.project.folders import Project
from kiln.recipes.recipe import discover, load
from kiln.recipes.source import HubSource
from kiln.sources import packed
from kiln.sources.model import acquire


def test_the_same_contents_make_the_same_bytes(
    offline: Offline, bundle: Path, tmp_path: Path
) -> None:
    other = make_offline(tmp_path / "elsewhere", tmp_path / "store")
    # (The toy's recipe names its archive by a path, which is another there.)
    recipe = offline.project.models / "toy" / "recipe.toml"
    path = other.project.models / "toy" / "recipe.toml"
    path.write_bytes(recipe.read_bytes())
    url = load(recipe, offline.project.models).source.url  # type: ignore[union-attr]
    _, digest = packed.remembered(other.store, "toy") or ("", "")
    _, same = packed.remembered(offline.store, "toy") or ("", "")
    assert digest and same
    other.store.add_bytes(offline.store.path(same).read_bytes())
    packed.remember(other.store, "toy", url, same)
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


# -- making -------------------------------------------------------------------------------------


def test_a_damaged_store_makes_no_bundle(tmp_path: Path) -> None:
    offline = make_offline(tmp_path / "project", tmp_path / "store")
    place = offline.store.path(sha256_bytes(DEBS["toyc"]))
    place.chmod(0o644)
    place.write_bytes(DEBS["toyc"][:-1] + b"?")
    with pytest.raises(StoreError, match=r"toyc_1\.0_amd64\.deb\) is damaged"):
        create(offline, tmp_path / "bundle.tar")
    assert not list(tmp_path.glob("*.tar")) and not list(tmp_path.glob(".*"))


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
    cached = acquire(recipe, here).contents
    target = tmp_path / "hub.tar"
    with ExitStack() as stack:
        contents = Contents(Project(ROOT), here, silent, stack)
        contents.add_model(recipe)
        write(target, contents.index(), contents.readers, silent)
    import_bundle(target, there)
    monkeypatch.delenv("TFHUB_CACHE_DIR")
    assert acquire(recipe, there).contents == cached


# -- the command --------------------------------------------------------------------------------


def test_created_imported_created_again(offline: Offline, bundle: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    made = kiln(offline, offline.store.root, "bundle", "create", "-o", one)
    assert made.returncode == 0, made.stderr
    assert one.read_bytes() == bundle.read_bytes()
    assert "images: base, device, odapi" in made.stdout
    store = tmp_path / "store"
    came = kiln(offline, store, "bundle", "import", one, "--json")
    assert came.returncode == 0, came.stderr
    events = [json.loads(line) for line in came.stdout.splitlines()]
    assert events[-1]["event"] == "imported"
    assert events[-1]["new"] == events[-1]["contents"] == len(read_index(one).blobs)
    notes = [event["message"] for event in events if event["event"] == "note"]
    assert sum("no engine answers" in note for note in notes) == 3
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
