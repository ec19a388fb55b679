"""Where the checks run: what an artefact does in today's runtimes is found in another image."""

from __future__ import annotations

from dataclasses import replace

from toy_plan import CODE, IMAGE, IMAGES, SOURCES, recipe

from kiln.recipes.plan import Plan, images_of, make_plan
from kiln.recipes.recipe import CONVERTED

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
