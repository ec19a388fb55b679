"""``kiln plan``: what a build would do, and job matrices."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from toy_project import DEVICE, SEALED, add_recipe, make_project, small_archive

from kiln.building.dry_run import forecast
from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import Store
from kiln.images.lock import read_lock
from kiln.project.closures import read_stage_code
from kiln.project.folders import Project
from kiln.recipes.plan import make_plan
from kiln.recipes.recipe import discover, load
from kiln.recipes.selection import for_release
from kiln.running.cutoff import remember
from kiln.sources.model import acquire, with_images_to_check


class Kiln:
    """Runs ``kiln plan`` in a small project."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project: Project = make_project(root / "project")
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "scripts"),
            "KILN_PROJECT": str(self.project.root),
            "KILN_STORE": str(root / "store"),
            "DOCKER_HOST": "unix:///nonexistent",
        }

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kiln.cli", "plan", *args],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def matrix(self, *args: str) -> list[dict[str, Any]]:
        found = self("--github-matrix", *args)
        assert found.returncode == 0, found.stderr
        assert found.stdout.count("\n") == 1
        include: list[dict[str, Any]] = json.loads(found.stdout)["include"]
        return include


@pytest.fixture
def kiln(tmp_path: Path) -> Kiln:
    return Kiln(tmp_path)


PIN = f'sha256 = "{"a" * 64}"\n'


def pin(path: Path) -> None:
    path.write_text(path.read_text().replace("[labels]", f"{PIN}[labels]"))


def test_the_matrix_holds_what_anyone_can_build(kiln: Kiln) -> None:
    pin(add_recipe(kiln.project, "pinned"))
    add_recipe(kiln.project, "trusted_on_sight")
    seed = add_recipe(kiln.project, "seed")
    pin(seed)
    text = seed.read_text().replace("sample = false", 'sample = false\nprofile = "seed"')
    seed.write_text(text.replace('["float32"]', '["dynamic"]'))
    assert kiln.matrix() == [
        {
            "model": "pinned",
            "image": "odapi",
            "other_images": ["device"],
            "variants": ["float32"],
        }
    ]
    named = kiln.matrix("seed", "trusted_on_sight")
    assert [item["model"] for item in named] == ["seed", "trusted_on_sight"]


def test_the_matrix_of_some_variants(kiln: Kiln) -> None:
    path = add_recipe(kiln.project, "two")
    pin(path)
    path.write_text(path.read_text().replace('["float32"]', '["float16", "float32"]'))
    assert kiln.matrix("--variant", "float16")[0]["variants"] == ["float16"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--github-matrix",), "No matching recipe can be built on another machine."),
        (("--github-matrix", "mine"), "is only on this machine"),
        (("--github-matrix", "--json"), "--github-matrix is JSON already."),
        (("min",), "Did you mean 'mine'?"),
        (("mine", "--variant", "int8"), "has no variant 'int8'"),
    ],
)
def test_what_is_refused(kiln: Kiln, args: tuple[str, ...], words: str) -> None:
    path = add_recipe(kiln.project, "mine")
    text = path.read_text().replace('kind = "archive"', 'kind = "local"')
    path.write_text(
        "".join(f"{x}\n" for x in text.splitlines() if not x.startswith(("url", "root")))
    )
    found = kiln(*args)
    assert found.returncode == 2
    assert words in (found.stdout if "--json" in args else found.stderr)


def test_a_broken_recipe_is_told(kiln: Kiln) -> None:
    add_recipe(kiln.project, "broken").write_text("schema = 1\n")
    assert kiln("--github-matrix").returncode == 10


def test_of_our_own_recipes() -> None:
    recipes = [load(path, ROOT / "models") for path in discover(ROOT / "models").values()]
    chosen = {recipe.name for recipe in recipes if for_release(recipe)}
    assert {recipe.name for recipe in recipes if recipe.sample} < chosen
    assert not any(name.endswith("_seed") for name in chosen)


def test_nothing_is_downloaded_to_tell(kiln: Kiln) -> None:
    add_recipe(kiln.project, "toy", small_archive(kiln.root / "toy.tar.gz"))
    found = kiln("toy")
    assert found.returncode == 0, found.stderr
    assert "archive, to be downloaded" in found.stdout
    assert f"  image   odapi, {SEALED.identity}" in found.stdout
    assert f"  and     device, {DEVICE.identity}" in found.stdout
    assert not list((kiln.root / "store").rglob("blobs/*/*/*"))


def test_what_is_stored_and_what_runs(kiln: Kiln) -> None:
    name = "ssd_mobilenet_v2_oidv4"
    project, store = Project(ROOT), Store(kiln.root / "store")
    recipe = load(discover(project.models)[name], project.models)
    first = forecast(project, store, recipe, ("dynamic",))
    assert first.at_hand
    assert {step.state for step in first.steps} == {"runs"}
    stored = {step.id for step in first.steps if step.id in ("convert-dynamic", "previews")}
    for step in first.steps:
        if step.id in stored:
            store.put_result(StageResult(step.key, step.stage, {}, {}, 1.0, 0))
    second = forecast(project, store, recipe, ("dynamic",))
    assert [step.key for step in second.steps] == [step.key for step in first.steps]
    states = {step.id: step.state for step in second.steps}
    assert {step_id for step_id, state in states.items() if state == "stored"} == stored
    assert states["export"] == "runs"  # the annotation needs its facts
    lost = Blob(store.add_bytes(b"variables"), len(b"variables"))
    for step in second.steps:
        if step.id != "checkpoint":
            files = {"variables": lost} if step.id == "export" else {}
            store.put_result(StageResult(step.key, step.stage, files, {}, 1.0, 0))
    store.discard(lost.sha256)
    third = forecast(project, store, recipe, ("dynamic",))
    # Nothing reads the export's files again; the record needs to know what the checkpoint was.
    assert {step.id for step in third.steps if step.state == "spare"} == {"export"}
    assert {step.id for step in third.steps if step.state == "runs"} == {"checkpoint"}


def test_what_runs_only_if_what_it_reads_changes(kiln: Kiln, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    shutil.copytree(ROOT / "models", tmp_path / "models")
    project, store = Project(tmp_path), Store(kiln.root / "store")
    recipe = load(discover(project.models)["ssd_mobilenet_v2_oidv4"], project.models)
    acquired = with_images_to_check(acquire(recipe, store), project.sample_images, store)
    identity, device = (read_lock(project.docker)[name].identity for name in ("odapi", "device"))
    plan = make_plan(
        recipe,
        acquired.contents,
        ("dynamic",),
        image=identity,
        code=read_stage_code(project.stages),
        device=device,
    )
    made: dict[str, StageResult] = {}
    facts = dict.fromkeys(fact.name for step in plan.steps for fact in step.params_from.values())
    for step in plan.steps:
        made[step.id] = StageResult(step.key, step.stage, {}, facts)
        store.put_result(made[step.id])
        remember(store, plan, step, made[step.id], made)
    with (project.stages / "gates" / "label_proof.py").open("a") as file:
        file.write("# a comment\n")
    found = forecast(project, store, recipe, ("dynamic",))
    states = {step.id: step.state for step in found.steps if step.state != "stored"}
    after = ("task-library-dynamic", "litert-dynamic", "mediapipe-dynamic")
    assert states == {"check-dynamic": "runs", **dict.fromkeys(after, "follows")}


def test_words_and_json_say_the_same(kiln: Kiln) -> None:
    kiln.environment["KILN_PROJECT"] = str(ROOT)
    found = kiln("ssd_mobilenet_v2_oidv4", "--variant", "int8", "--json")
    event = json.loads(found.stdout)
    assert (event["event"], event["variants"]) == ("plan", ["int8"])
    shown = kiln("ssd_mobilenet_v2_oidv4", "--variant", "int8").stdout
    locked = read_lock(ROOT / "docker")
    others = [{"name": "device", "identity": locked["device"].identity}]
    assert event["other_images"] == others
    assert (event["image"], event["identity"]) == ("odapi", locked["odapi"].identity)
    for step in event["steps"]:
        assert f"{step['id']} " in shown and step["key"][:16] in shown
