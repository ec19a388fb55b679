"""After an edit of stage code the stages that run it run again, and no others.

The plans of a sample say so, without an engine; one of them is built. At night every stage of the
samples runs alone in the real image, with its own closure and nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import SAMPLE, SAMPLES, VARIANTS, Kiln, Sample, copy_project

from kiln.core.store import Store
from kiln.images.lock import locked_image
from kiln.project.closures import read_stage_code
from kiln.project.folders import Project
from kiln.recipes.check_steps import DEVICE
from kiln.recipes.plan import make_plan
from kiln.recipes.recipe import discover, load
from kiln.running.engine import Engine
from kiln.running.executor import Runner
from kiln.running.limits import limits_of
from kiln.sources.model import acquire, with_images_to_check


def of(*stages: str) -> set[str]:
    """The steps of stages that run once a variant."""
    return {f"{stage}-{variant}" for stage in stages for variant in VARIANTS}


LIBRARIES = of("task-library", "litert", "mediapipe")
ALL = {"checkpoint", "export", "reference", "previews"} | LIBRARIES
ALL |= of("convert", "annotate", "check")
#: Edited module -> the steps that run, and those that would if what they read came out otherwise.
EDITS: dict[str, tuple[set[str], set[str]]] = {
    "gates/structure.py": (of("check"), LIBRARIES),
    "tflite/output_order.py": (of("annotate", "check"), LIBRARIES),
    "tflite/float_tail.py": (of("convert"), of("annotate", "check") | LIBRARIES),
    "steps/export.py": ({"export"}, of("convert", "annotate", "check") | LIBRARIES),
    "device/mediapipe_tasks.py": (of("mediapipe"), set()),
    "lite/model_maker.py": (set(), set()),
    "steps/adopt.py": (set(), set()),
    "protocol/runner.py": (ALL, set()),
}


@pytest.fixture
def edited(sample: Sample, tmp_path: Path) -> Kiln:
    """The sample's command in a checkout of its own, to be edited; everything is built."""
    return sample.kiln.but(project=copy_project(tmp_path / "checkout"), dist=tmp_path / "dist")


def comment(kiln: Kiln, module: str) -> None:
    with (kiln.project / "docker" / "stages" / module).open("a") as file:
        file.write("# a comment\n")


def test_what_a_comment_runs(edited: Kiln) -> None:
    kiln = edited.but(engine="unix:///nowhere/docker.sock")
    for module, (runs, follows) in EDITS.items():
        place = kiln.project / "docker" / "stages" / module
        text = place.read_text()
        comment(kiln, module)
        (plan,) = kiln("plan", SAMPLE, "--json").ok().events
        states = {step["id"]: step["state"] for step in plan["steps"]}
        assert states == {
            step: "runs" if step in runs else "follows" if step in follows else "stored"
            for step in ALL
        }, module
        place.write_text(text)


def test_an_export_that_changes_in_code_and_not_in_bytes(edited: Kiln, sample: Sample) -> None:
    comment(edited, "steps/export.py")
    ended = edited("build", SAMPLE, "--json").ok()
    states = {e["id"]: e["state"] for e in ended.events if e["event"] == "stage"}
    assert states == {step: "finished" if step == "export" else "cached" for step in ALL}
    print(f"a build after a comment in the export: {ended.seconds:.1f} s")
    edited("verify", edited.dist).ok()
    again = Sample(edited, edited.dist / SAMPLE)
    for variant in VARIANTS:
        assert again.artefact(variant).read_bytes() == sample.artefact(variant).read_bytes()
    before, after = sample.record, again.record
    assert before["stage_code"] != after["stage_code"]
    for step, said in before["stages"].items():
        here = after["stages"][step]
        for record in (said, here):
            del record["key"]
            if step == "export":
                del record["seconds"], record["peak_rss"]
        assert here == said, step
    assert "(0 stages run" in edited("build", SAMPLE).ok().out


@pytest.fixture
def empty(area: Path, tmp_path: Path) -> Iterator[Store]:
    store = Store(area / f"alone-{tmp_path.name}")
    yield store
    shutil.rmtree(store.root)


@pytest.mark.nightly  # some sixty containers, most of which import TensorFlow
@pytest.mark.parametrize("name", SAMPLES)
def test_each_stage_alone_with_its_own_code(
    name: str, samples: dict[str, Sample], engine: Engine, project: Path, empty: Store
) -> None:
    """A module that a closure lacks cannot be imported; the files are those of the whole build."""
    place = Project(project)
    recipe = load(discover(place.models)[name], place.models)
    acquired = with_images_to_check(acquire(recipe, empty), place.sample_images, empty)
    images = {image: locked_image(place.docker, image) for image in (recipe.image, DEVICE)}
    plan = make_plan(
        recipe,
        acquired.contents,
        recipe.variants,
        image=images[recipe.image].identity,
        code=read_stage_code(place.stages),
        device=images[DEVICE].identity,
    )
    runner = Runner(lambda: engine, empty, place.stages, lambda *_, **__: None)
    for step in plan.steps:
        made = runner.run(
            plan,
            limits_of(recipe),
            lambda: images[recipe.image].tag,
            files=[step.id],
            others=lambda image: images[image].tag,
        )
        files = {path: blob.sha256 for path, blob in made[step.id].files.items()}
        assert files == samples[name].record["stages"][step.id]["files"], step.id
