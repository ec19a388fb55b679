from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_plan import CHECKPOINT, CODE, IMAGE, IMAGES, SOURCES, plan, recipe

from kiln.core.errors import UsageError
from kiln.project.closures import Closure, StageCode
from kiln.recipes.contents import Contents
from kiln.recipes.plan import SEED, Fact, Files, Output, Plan, Step, make_plan
from kiln.recipes.recipe import CONVERTED, Recipe, Variant
from kiln.recipes.steps import StepList, lone_step

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
variant_lists = st.lists(st.sampled_from(CONVERTED), min_size=1, max_size=4, unique=True)


def changed(new: Plan, old: Plan | None = None) -> set[str]:
    """The ids of the steps whose keys differ."""
    before = {step.id: step.key for step in (old or plan()).steps}
    after = {step.id: step.key for step in new.steps}
    assert before.keys() == after.keys()
    return {step_id for step_id in before if before[step_id] != after[step_id]}


ALL = {step.id for step in plan().steps}
ANNOTATE = {step_id for step_id in ALL if step_id.startswith("annotate-")}


# --- shape -----------------------------------------------------------------------------------


def test_one_export_feeds_every_variant() -> None:
    found = plan()
    assert [step.id for step in found.steps] == [
        "export",
        *(f"{stage}-{variant}" for stage in ("convert", "annotate") for variant in CONVERTED),
    ]
    assert found.artefacts == {variant: f"annotate-{variant}" for variant in CONVERTED}
    assert found.step("export").inputs == {"checkpoint": Files(CHECKPOINT)}
    for variant in CONVERTED:
        convert, annotate = found.step(f"convert-{variant}"), found.step(f"annotate-{variant}")
        assert convert.params == {"variant": variant}
        also = {"convert-float32"} if variant == "dynamic" else set()  # whose weights it keeps
        assert convert.upstream() == {"export", *also}
        assert annotate.upstream() == {"export", convert.id}
        assert annotate.inputs["label_map"] == Files({"": "f" * 64})
    assert (found.model, found.image) == ("toy", "odapi")


def test_only_calibrated_variants_see_the_calibration_images() -> None:
    found = plan()
    readers = {step.id for step in found.steps if "images" in step.inputs}
    assert readers == {"convert-int8", "convert-int16x8"}
    # Their representative data must become input as the model's own preprocessing does it.
    for reader in readers:
        assert found.step(reader).params_from == {
            name: Fact("export", name) for name in ("normalization", "feeding")
        }


def test_steps_come_after_what_they_need() -> None:
    seen: set[str] = set()
    for step in plan(stage_recipe(), stage_sources()).steps:
        assert step.upstream() <= seen
        seen.add(step.id)


def stage_recipe(**params: Any) -> Recipe:
    source = {
        "kind": "stage",
        "stage": "toy_checkpoint",
        "params": {"seed": 1, **params},
        "inputs": {"weights": {"path": "weights.bin", "sha256": "3" * 64}},
    }
    return recipe(source=source, labels={"in_source": "label_map.pbtxt"})


def stage_sources(weights: str = "3" * 64) -> Contents:
    return Contents(inputs={"weights": weights}, label_map_path="label_map.pbtxt", images=IMAGES)


def test_a_stage_source_makes_the_checkpoint_and_the_label_map() -> None:
    found = plan(stage_recipe(), stage_sources())
    first = found.steps[0]
    assert (first.id, first.stage, first.params) == ("checkpoint", "toy_checkpoint", {"seed": 1})
    assert first.inputs == {"weights": Files({"": "3" * 64})}
    assert found.step("export").inputs == {"checkpoint": Output("checkpoint", "model")}
    assert found.step("annotate-int8").inputs["label_map"] == Output(
        "checkpoint", "model/label_map.pbtxt"
    )


# --- the publisher's own file, and Model Maker ----------------------------------------------


def prebuilt_plan(variants: tuple[Variant, ...], prebuilt: str = "9" * 64) -> Plan:
    source = {**recipe().source.model_dump(), "prebuilt": "model.tflite"}
    made_of = recipe(variants=[*CONVERTED, "prebuilt"], source=source)
    return plan(made_of, replace(SOURCES, prebuilt=prebuilt), variants)


def test_the_prebuilt_file_is_adopted_annotated_and_compared() -> None:
    found = prebuilt_plan(("float32", "prebuilt"))
    ids = [step.id for step in found.steps]
    assert ids == [
        "export",
        *("convert-float32", "adopt"),
        *("annotate-float32", "annotate-prebuilt", "compare-prebuilt"),
    ]
    adopt = found.step("adopt")
    assert adopt.inputs == {
        "model": Files({"": "9" * 64}),
        "checkpoint": Files(CHECKPOINT),
        "images": Files(IMAGES),
    }
    annotate = found.step("annotate-prebuilt")
    # Everything about it is what its behaviour says, and nothing is the export's.
    assert annotate.params_from == {
        name: Fact("adopt", name)
        for name in ("architecture", "num_classes", "normalization", "feeding", "roles")
    }
    assert found.step("compare-prebuilt").upstream() == {"annotate-prebuilt", "annotate-float32"}
    assert found.reports == ("compare-prebuilt",)


def test_the_prebuilt_file_alone_needs_no_export() -> None:
    found = prebuilt_plan(("prebuilt",))
    assert [step.id for step in found.steps] == ["adopt", "annotate-prebuilt"]
    assert found.reports == ()


def test_outputs_are_named_where_the_file_is_our_own() -> None:
    found = prebuilt_plan(("float32", "prebuilt"))
    assert found.step("annotate-float32").params["role_names"] is True
    assert "role_names" not in found.step("annotate-prebuilt").params
    seed = plan(recipe(profile="seed", variants=["dynamic"]), variants=("dynamic",))
    assert "role_names" not in seed.step("annotate-dynamic").params


def test_another_prebuilt_file_is_adopted_again_and_nothing_else_changes() -> None:
    both: tuple[Variant, ...] = ("float32", "prebuilt")
    assert changed(prebuilt_plan(both, "8" * 64), prebuilt_plan(both)) == {
        "adopt",
        "annotate-prebuilt",
        "compare-prebuilt",
    }


LITE = {
    "architecture": "efficientdet",
    "image": "modelmaker",
    "efficientdet": {"spec": "efficientdet_lite2"},
}


def lite_recipe(**changes: Any) -> Recipe:
    source = {"kind": "archive", "url": "http://127.0.0.1/x", "root": "x", "checkpoint": "."}
    return recipe(**{**LITE, "source": source, **changes})


def test_model_maker_has_an_export_of_its_own_and_the_same_conversion() -> None:
    found = plan(lite_recipe())
    assert found.image == "modelmaker"
    export = found.step("export")
    assert export.stage == "modelmaker_export"
    assert export.params["spec"] == "efficientdet_lite2"
    assert {step.stage for step in found.steps} == {"modelmaker_export", "convert", "annotate"}


def test_the_seed_profile_of_model_maker_is_one_stage() -> None:
    hub = {"kind": "hub", "handle": "https://127.0.0.1/lite2/1"}
    made_of = lite_recipe(source=hub, profile="seed", variants=["int8"])
    module = {"saved_model.pb": "7" * 64}
    found = plan(made_of, replace(SOURCES, checkpoint=module), ("int8",))
    (create,) = found.steps
    assert (create.stage, found.artefacts) == ("modelmaker_seed", {"int8": "create"})
    assert create.inputs["hub_module"] == Files(module)
    assert create.params == {"spec": "efficientdet_lite2", "seed": SEED}


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        plan(recipe(variants=["float32", "dynamic"]), variants=("int8",))
    assert "'toy' has no variant 'int8'" in caught.value.message
    assert "float32, dynamic" in caught.value.remedy


# --- the seed profile --------------------------------------------------------------------------


def test_the_seed_profile_is_the_default_one_with_its_three_faults() -> None:
    both = [
        plan(recipe(variants=["dynamic"], profile=profile), variants=("dynamic",))
        for profile in ("default", "seed")
    ]
    default, seed = both
    assert [step.id for step in seed.steps] == ["export", "convert-dynamic", "annotate-dynamic"]
    assert set(default.ids()) == {*seed.ids(), "convert-float32"}  # whose weights seed leaves alone
    assert seed.step("convert-dynamic").params == {"variant": "dynamic", "plain": True}
    assert (default.step("export").params["exact_batch_norm"]) is True
    assert (seed.step("export").params["exact_batch_norm"]) is False
    made = seed.step("annotate-dynamic")
    assert made.params["profile"] == "seed"
    assert made.params["label_file_name"] == "labels.pbtxt"  # the raw label map goes in
    assert "normalization" not in made.params_from  # a constant, not the model's own
    assert "label_file_name" not in default.step("annotate-dynamic").params
    assert not {step.key for step in seed.steps} & {step.key for step in default.steps}


# --- keys: what changes what -------------------------------------------------------------------


def test_planning_twice_gives_the_same_keys() -> None:
    assert plan() == plan()
    assert len({step.key for step in plan().steps}) == len(plan().steps)


def test_image_and_stage_code_change_every_key() -> None:
    assert changed(plan(image=f"sha256:{'9' * 64}")) == ALL
    assert changed(plan(code=StageCode("9" * 64))) == ALL


def test_a_stage_of_its_own_code_changes_its_keys_and_those_after_it() -> None:
    apart = StageCode(CODE.digest, {"annotate": Closure("9" * 64, ("steps/annotate.py",))})
    assert changed(plan(code=apart)) == {name for name in ALL if name.startswith("annotate")}
    apart = StageCode("8" * 64, {step.stage: Closure(CODE.digest) for step in plan().steps})
    assert not changed(plan(code=apart))


@pytest.mark.parametrize("path", sorted(CHECKPOINT))
def test_a_checkpoint_file_changes_everything(path: str) -> None:
    other = replace(SOURCES, checkpoint={**CHECKPOINT, path: "9" * 64})
    assert changed(plan(sources=other)) == ALL


def test_a_checkpoint_file_of_another_name_changes_everything() -> None:
    renamed = {path.replace("ckpt-0", "ckpt-1"): digest for path, digest in CHECKPOINT.items()}
    assert changed(plan(sources=replace(SOURCES, checkpoint=renamed))) == ALL


def test_an_export_override_changes_everything() -> None:
    assert changed(plan(recipe(export={"max_detections": 10}))) == ALL
    assert changed(plan(recipe(export={"image_size": [320, 320]}))) == ALL


def test_the_order_of_outputs_changes_annotation_alone() -> None:
    assert changed(plan(recipe(export={"output_order": "tf1"}))) == ANNOTATE
    assert changed(plan(recipe(export={"output_order": "tf2"}))) == set()


@pytest.mark.parametrize(
    "option",
    [{"regular_nms": True}, {"nms_score_threshold": 0.05}, {"nms_iou_threshold": 0.4}],
)
def test_suppression_changes_everything(option: dict[str, Any]) -> None:
    new = plan(recipe(export=option))
    assert changed(new) == ALL
    assert option.items() <= new.step("export").params.items()


def test_regular_suppression_is_told_to_the_conversion() -> None:
    options = {"regular_nms": True, "max_detections_per_class": 7}
    for made_of in (recipe(export=options), lite_recipe(export=options)):
        found = plan(made_of)
        assert options.items() <= found.step("export").params.items()
        for variant in CONVERTED:
            told = found.step(f"convert-{variant}").params_from
            assert told["suppression"] == Fact("export", "suppression")


def test_the_source_knows_the_suppression() -> None:
    options = {"nms_score_threshold": 0.05, "nms_iou_threshold": 0.4}
    sources = replace(SOURCES, check_images=IMAGES)
    for made_of in (recipe(export=options), lite_recipe(export=options)):
        found = make_plan(made_of, sources, CONVERTED, image=IMAGE, code=CODE)
        assert options.items() <= found.step("reference").params.items()
    plain = make_plan(recipe(), sources, CONVERTED, image=IMAGE, code=CODE)
    alone = {"max_detections", "image_size", "crops", "enough"}
    assert set(plain.step("reference").params) == alone


def test_an_int8_input_changes_int8_alone() -> None:
    new = plan(recipe(export={"inference_io": "int8"}))
    assert changed(new) == {"convert-int8", "annotate-int8"}
    sources = replace(SOURCES, check_images=IMAGES)
    checked = make_plan(
        recipe(export={"inference_io": "int8"}), sources, CONVERTED, image=IMAGE, code=CODE
    )
    told = {step.id for step in checked.steps if "inference_io" in step.params}
    assert told == {"convert-int8", "check-int8"}


CALIBRATED = {
    f"{stage}-{variant}" for stage in ("convert", "annotate") for variant in ("int8", "int16x8")
}


def test_calibration_images_change_calibrated_variants_alone() -> None:
    for images in ({**IMAGES, "cat.png": "9" * 64}, {"cat.png": "d" * 64}):
        assert changed(plan(sources=replace(SOURCES, images=images))) == CALIBRATED


def test_how_many_pictures_are_made_changes_calibrated_variants_alone() -> None:
    new = plan(recipe(calibration={"images": "images", "number": 24}))
    assert changed(new) == CALIBRATED
    for variant in ("int8", "int16x8"):
        params = {"variant": variant, "calibration_number": 24}
        assert new.step(f"convert-{variant}").params == params


def test_float_layers_change_calibrated_variants_alone() -> None:
    new = plan(recipe(int8={"float_layers": ["b", "a"]}))
    assert changed(new) == CALIBRATED
    assert new.step("convert-int8").params == {"variant": "int8", "float_layers": ["b", "a"]}


def test_the_label_map_changes_annotation_alone() -> None:
    assert changed(plan(sources=replace(SOURCES, label_map="9" * 64))) == ANNOTATE


@pytest.mark.parametrize("field", ["title", "description", "version", "author", "licence"])
def test_a_word_about_the_model_changes_annotation_alone(field: str) -> None:
    assert changed(plan(recipe(**{field: "Something else"}))) == ANNOTATE


def test_what_no_stage_sees_changes_nothing() -> None:
    other = recipe(name="other", limits={"memory": "2GiB", "timeout": "1h"}, sample=True)
    assert changed(plan(other)) == set()


def test_a_source_stage_s_inputs_and_parameters_change_everything() -> None:
    old = plan(stage_recipe(), stage_sources())
    everything = {step.id for step in old.steps}
    assert changed(plan(stage_recipe(), stage_sources("9" * 64)), old) == everything
    assert changed(plan(stage_recipe(seed=2), stage_sources()), old) == everything
    assert changed(plan(stage_recipe(seed=1.0), stage_sources()), old) == everything


@given(variant_lists)
def test_a_step_s_key_does_not_depend_on_its_company(chosen: list[Variant]) -> None:
    whole = {step.id: step.key for step in plan().steps}
    part = {step.id: step.key for step in plan(variants=tuple(chosen)).steps}
    assert part == {step_id: whole[step_id] for step_id in part}


@given(st.permutations(sorted(CHECKPOINT.items())), st.permutations(sorted(IMAGES.items())))
def test_the_order_of_files_does_not_matter(
    checkpoint: list[tuple[str, str]], images: list[tuple[str, str]]
) -> None:
    other = replace(SOURCES, checkpoint=dict(checkpoint), images=dict(images))
    assert changed(plan(sources=other)) == set()


@given(st.dictionaries(st.sampled_from(["a", "b/c", "d"]), digests, min_size=1), digests)
def test_any_other_checkpoint_means_other_keys(files: dict[str, str], label_map: str) -> None:
    other = plan(sources=Contents(checkpoint=files, label_map=label_map, images=IMAGES))
    assert changed(other) == ALL  # CHECKPOINT has none of these names
    without = plan(sources=Contents(checkpoint=files, label_map=label_map))
    assert changed(other, without) == CALIBRATED


def test_taking_another_fact_is_another_key() -> None:
    """In today's plans a fact's stage is upstream by its files as well; keys do not rely on it."""

    def key(**facts: Fact) -> str:
        steps = StepList(IMAGE, CODE)
        for name in ("one", "two"):
            steps.add(name, "export", {"name": name}, {})
        steps.add("last", "annotate", {}, {}, facts)
        return steps.steps["last"].key

    keys = [
        key(),
        key(mean=Fact("one", "mean")),
        key(mean=Fact("two", "mean")),
        key(mean=Fact("one", "std")),
        key(std=Fact("one", "mean")),
    ]
    assert len(set(keys)) == len(keys)


# --- closure -----------------------------------------------------------------------------------


def ids(steps: list[Step]) -> list[str]:
    return [step.id for step in steps]


def test_closure_of_one_artefact() -> None:
    found = plan()
    assert ids(found.closure(["annotate-float16"], [])) == [
        "export",
        "convert-float16",
        "annotate-float16",
    ]
    assert ids(found.closure(["annotate-float16"], ["convert-float16"])) == [
        "export",  # its facts are wanted
        "annotate-float16",
    ]
    assert ids(found.closure(["annotate-float16"], ["convert-float16", "export"])) == [
        "annotate-float16"
    ]
    assert found.closure(["annotate-float16"], ["annotate-float16"]) == []


@given(st.sets(st.sampled_from(sorted(ALL))), st.sets(st.sampled_from(sorted(ALL))))
def test_closure_is_what_is_needed_and_no_more(wanted: set[str], have: set[str]) -> None:
    found = plan()
    todo = ids(found.closure(wanted, have))
    assert todo == [step.id for step in found.steps if step.id in todo]  # the plan's order
    assert not have & set(todo)
    assert wanted <= have | set(todo)
    for step_id in todo:
        assert found.step(step_id).upstream() <= have | set(todo)
        # Someone asked for it: the user or another step that runs.
        assert step_id in wanted or any(step_id in found.step(s).upstream() for s in todo)


def test_a_lone_step_has_the_key_that_a_plan_would_give_it() -> None:
    found = plan().step("export")
    inputs = {name: item for name, item in found.inputs.items() if isinstance(item, Files)}
    assert inputs == found.inputs
    again = lone_step("export", found.stage, found.params, inputs, image=IMAGE, code=CODE)
    assert again == found
    other = lone_step(
        "export", found.stage, found.params, inputs, image=IMAGE, code=StageCode("f" * 64)
    )
    assert other.key != found.key
