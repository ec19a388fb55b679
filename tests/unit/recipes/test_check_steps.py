"""What the checks of a plan are held against, and where they run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_plan import CODE, IMAGE, IMAGES, SOURCES, plan, recipe

from kiln.recipes.check_steps import choose
from kiln.recipes.plan import Fact, Output, Plan, images_of, make_plan
from kiln.recipes.recipe import CONVERTED, Recipe, Variant

DEVICE = f"sha256:{'d' * 64}"


def in_runtimes(device: str = DEVICE) -> Plan:
    sources = replace(SOURCES, check_images=IMAGES)
    return make_plan(recipe(), sources, CONVERTED, image=IMAGE, code=CODE, device=device)


def test_today_s_runtimes_come_last_and_in_an_image_of_their_own() -> None:
    found = in_runtimes()
    assert found.others == {DEVICE: "device"}
    assert (found.image, *found.others.values()) == images_of(recipe())
    own = found.steps[-2 * len(CONVERTED) :]
    assert {step.id for step in own} == {
        f"{stage}-{variant}" for stage in ("litert", "mediapipe") for variant in CONVERTED
    }
    assert {step.id for step in own} <= set(found.reports)
    for step in found.steps:
        assert found.image_of(step) == ("device" if step in own else "odapi")
    for step in own:
        # They are given what the check fed, and judged by what it compared with.
        variant = step.id.partition("-")[2]
        assert step.upstream() == {f"annotate-{variant}", f"check-{variant}"}


def test_another_image_of_runtimes_changes_their_keys_alone() -> None:
    plain, found, other = in_runtimes(""), in_runtimes(), in_runtimes(f"sha256:{'e' * 64}")
    assert plain.others == {}
    for step in found.steps:
        if step.image:
            assert step.key != other.step(step.id).key
        else:
            assert step == other.step(step.id) == plain.step(step.id)


SHOWN = {f"photo_{number:02}.jpg": f"{number:064}" for number in range(20)}


def checked_plan(made_of: Recipe | None = None, **more: Any) -> Plan:
    return plan(made_of or recipe(), replace(SOURCES, check_images=SHOWN, **more))


def test_every_variant_is_held_against_the_checkpoint() -> None:
    found = checked_plan()
    assert [step.stage for step in found.steps[-12:]] == [
        "previews", "reference", *["check"] * 5, *["task_library"] * 5,
    ]  # fmt: skip
    assert set(found.reports) == {"previews"} | {
        f"{what}-{variant}" for what in ("check", "task-library") for variant in CONVERTED
    }
    for variant in CONVERTED:
        check = found.step(f"check-{variant}")
        assert check.inputs["model"] == Output(f"annotate-{variant}", "model.tflite")
        assert check.inputs["source"] == Output("reference", "detections.json")
        # What it is held against is the export's and the checkpoint's, not the artefact's word.
        assert check.params_from["normalization"] == Fact("export", "normalization")
        threshold = "nms_score_threshold"
        assert check.params_from[threshold] == Fact("export", threshold)
        library = found.step(f"task-library-{variant}")
        assert library.params_from[threshold] == Fact(f"check-{variant}", threshold)
    # The source is run by nothing that the export made.
    assert found.step("reference").upstream() == set()


@given(st.sets(st.sampled_from(CONVERTED), min_size=1))
def test_a_check_s_key_is_the_same_whatever_else_is_built(chosen: set[Variant]) -> None:
    """Else a variant built later would push those that are published out of dist."""
    variants: list[Variant] = [variant for variant in CONVERTED if variant in chosen]
    alone = make_plan(
        recipe(), replace(SOURCES, check_images=SHOWN), variants, image=IMAGE, code=CODE
    )
    together = checked_plan()
    for variant in variants:
        for step_id in (f"check-{variant}", f"task-library-{variant}"):
            assert alone.step(step_id).key == together.step(step_id).key


def test_checks_change_no_key_of_what_they_check() -> None:
    with_, without = checked_plan(), plan()
    for step in without.steps:
        assert with_.step(step.id) == step


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 20])
def test_images_to_check_on_are_few_and_spread_evenly(count: int) -> None:
    images = dict(list(SHOWN.items())[:count])
    found = choose(images, ["photo_03.jpg", "elsewhere.jpg"], 6)
    assert len(found) == min(count, 6)
    assert found.items() <= images.items()
    assert ("photo_03.jpg" in found) == (count > 3)
    if count == 20:
        numbers = sorted(int(name[6:8]) for name in found)
        assert numbers[0] < 3
        assert numbers[-1] > 14


def test_expected_objects_keep_their_images() -> None:
    expect = [{"image": "photo_13.jpg", "label": "cat"}]
    made_of = recipe(check={"expect": expect}, calibration={"images": "images"})
    check = checked_plan(made_of).step("check-int8")
    assert "photo_13.jpg" in check.inputs["images"].files  # type: ignore[union-attr]
    assert check.params["expect"] == [{"image": "photo_13.jpg", "label": "cat", "least_score": 0.3}]


def test_the_recipe_s_own_limits_are_passed_on() -> None:
    made_of = recipe(check={"limits": {"int8": {"iou": 0.5}}, "score_threshold": 0.4})
    found = checked_plan(made_of)
    assert found.step("check-int8").params["limits"] == {"iou": 0.5}
    assert found.step("check-float32").params["limits"] == {}
    assert found.step("check-float32").params["score_threshold"] == 0.4


def test_an_adopted_file_is_held_against_what_its_checkpoint_found() -> None:
    source = {**recipe().source.model_dump(), "prebuilt": "model.tflite"}
    made_of = recipe(variants=["prebuilt"], source=source)
    sources = replace(SOURCES, prebuilt="9" * 64, check_images=IMAGES)
    found = plan(made_of, sources, ("prebuilt",))
    check = found.step("check-prebuilt")
    assert check.inputs["source"] == Output("adopt", "detections.json")
    assert check.params_from["roles"] == Fact("adopt", "roles")
    assert "reference" not in {step.id for step in found.steps}
