"""Plans as data: written, read back, and refused where anything in them is not so."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_plan import CODE, IMAGE, plan, recipe

from kiln.core.digest import canonical_json
from kiln.core.errors import VerificationError
from kiln.project.closures import Closure, StageCode
from kiln.recipes.steps import StepList
from kiln.statements.plan_data import plan_as_data, plan_from_data

DATA = plan_as_data(plan(), "annotate-int8")


def test_a_plan_comes_back(variant: str = "int8") -> None:
    whole = plan()
    data = json.loads(canonical_json(plan_as_data(whole, f"annotate-{variant}")))
    back = plan_from_data(data, model="toy", image="odapi", variant=variant)
    assert [step.id for step in back.steps] == ["export", "convert-int8", "annotate-int8"]
    assert {step.id: step.key for step in back.steps} == {
        step.id: step.key for step in whole.steps if step.id in {s.id for s in back.steps}
    }
    assert (back.model, back.image, back.identity, back.code) == ("toy", "odapi", IMAGE, CODE)
    assert back.artefacts == {"int8": "annotate-int8"}
    assert plan_as_data(back, "annotate-int8") == data


def test_of_every_kind_of_source() -> None:
    stage = {"kind": "stage", "stage": "packed_checkpoint", "params": {"a": [1, 2.5, None, True]}}
    made = plan(recipe(source=stage))
    for step_id in made.artefacts.values():
        data = plan_as_data(made, step_id)
        assert data["steps"][0]["id"] == "checkpoint"
        assert plan_as_data(plan_from_data(data), step_id) == data


APART = StageCode(
    CODE.digest,
    {
        "convert": Closure("7" * 64, ("__main__.py", "steps/convert.py")),
        "annotate": Closure("8" * 64, ("steps/annotate.py",)),
        "check": Closure("9" * 64, ("steps/check.py",)),
    },
)


def test_the_code_that_each_stage_runs_is_in_it() -> None:
    whole = plan(code=APART)
    data = plan_as_data(whole, "annotate-int8")
    assert data["code"] == CODE.digest
    assert data["closures"] == {
        "convert": {"code": "7" * 64, "files": ["__main__.py", "steps/convert.py"]},
        "annotate": {"code": "8" * 64, "files": ["steps/annotate.py"]},
    }
    back = plan_from_data(json.loads(canonical_json(data)))
    assert [step.code for step in back.steps] == [APART.of(step.stage) for step in back.steps]
    assert [step.key for step in back.steps] == [whole.step(step.id).key for step in back.steps]
    assert plan_as_data(back, "annotate-int8") == data


def test_a_plan_of_an_older_kiln_has_none_of_that() -> None:
    """Its keys were made with the whole stage code, and still are."""
    assert "closures" not in DATA
    back = plan_from_data(DATA)
    assert back.code == CODE and {step.code for step in back.steps} == {Closure(CODE.digest)}


BAD_CLOSURES: list[Callable[[Any], Any]] = [
    lambda data: data.update(closures={}),
    lambda data: data.update(closures=[]),
    lambda data: data.pop("closures"),
    lambda data: data["closures"].pop("convert"),
    lambda data: data["closures"].update(export=data["closures"]["convert"]),
    lambda data: data["closures"].update(check={"code": "9" * 64, "files": ["steps/check.py"]}),
    lambda data: data["closures"]["convert"].update(code="6" * 64),
    lambda data: data["closures"]["convert"].update(code="x"),
    lambda data: data["closures"]["convert"].update(code=None),
    lambda data: data["closures"]["convert"].update(more=1),
    lambda data: data["closures"]["convert"].update(files=[]),
    lambda data: data["closures"]["convert"].update(files={"steps/convert.py": 1}),
    lambda data: data["closures"]["convert"].update(files=None),
    lambda data: data["closures"]["convert"].update(files=["steps/convert.py", "__main__.py"]),
    lambda data: data["closures"]["convert"].update(files=["steps/convert.py"] * 2),
    lambda data: data["closures"]["convert"].update(files=["/x", "steps/convert.py"]),
    lambda data: data["closures"]["convert"].update(files=["../x", "steps/convert.py"]),
    lambda data: data["closures"]["convert"].update(files=[1, "steps/convert.py"]),
    lambda data: data["closures"]["convert"]["files"].extend(f"z{n:05}" for n in range(5_000)),
]


@pytest.mark.parametrize("change", BAD_CLOSURES)
def test_impossible_code_is_refused(change: Callable[[Any], Any]) -> None:
    data = plan_as_data(plan(code=APART), "annotate-int8")
    change(data)
    with pytest.raises(VerificationError) as caught:
        plan_from_data(data)
    assert caught.value.message.startswith("The recorded plan ") and caught.value.remedy


def test_no_checks_are_in_it() -> None:
    stages = {step["stage"] for step in DATA["steps"]}
    assert stages == {"export", "convert", "annotate"}


CHANGES: list[Callable[[Any], Any]] = [
    lambda data: data.update(protocol=2),
    lambda data: data.update(protocol=True),
    lambda data: data.update(image="sha256:" + "3" * 64),
    lambda data: data.update(image="1" * 64),
    lambda data: data.update(image=None),
    lambda data: data.update(code="3" * 64),
    lambda data: data.update(code="../x"),
    lambda data: data.update(artefact="convert-int8"),
    lambda data: data.update(artefact="nothing"),
    lambda data: data.update(artefact=[]),
    lambda data: data.update(more=1),
    lambda data: data.pop("code"),
    lambda data: data["steps"].reverse(),
    lambda data: data["steps"].pop(0),
    lambda data: data["steps"].append(data["steps"][0]),
    lambda data: data["steps"][0].update(more=1),
    lambda data: data["steps"][0].update(id="../x"),
    lambda data: data["steps"][0].update(stage="adopt"),
    lambda data: data["steps"][0]["params"].update(x=1),
    lambda data: data["steps"][0].update(params=[]),
    lambda data: data["steps"][0]["params"].update(x=float("nan")),
    lambda data: data["steps"][0]["inputs"]["checkpoint"]["files"].update(more="1" * 64),
    lambda data: data["steps"][0]["inputs"]["checkpoint"]["files"].update({"../x": "1" * 64}),
    lambda data: data["steps"][0]["inputs"]["checkpoint"]["files"].update({"": "1" * 64}),
    lambda data: data["steps"][0]["inputs"]["checkpoint"]["files"].update(x="1"),
    lambda data: data["steps"][0]["inputs"]["checkpoint"].update(step="export"),
    lambda data: data["steps"][1]["inputs"]["saved_model"].update(path="/etc"),
    lambda data: data["steps"][1]["inputs"]["saved_model"].update(step="annotate-int8"),
    lambda data: data["steps"][1].update(params_from={}),
    lambda data: data["steps"][1]["params_from"]["normalization"].update(fact="num_classes"),
    lambda data: data["steps"][1].update(key="0" * 64),
    lambda data: data["steps"][1].update(key=None),
]


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_refused(change: Callable[[Any], Any]) -> None:
    data = copy.deepcopy(DATA)
    change(data)
    with pytest.raises(VerificationError) as caught:
        plan_from_data(data)
    assert caught.value.message.startswith("The recorded plan ") and caught.value.remedy


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a//b", "./a", "a\\b", "a\n"])
def test_paths_that_leave_their_folder_are_refused_though_their_keys_hold(path: str) -> None:
    """Whoever writes such a plan computes its keys, too."""
    from kiln.recipes.steps import Files

    steps = StepList(IMAGE, CODE)
    steps.add("export", "export", {}, {"checkpoint": Files({path: "a" * 64})})
    (step,) = steps.steps.values()
    data = {
        "protocol": 1,
        "image": IMAGE,
        "code": CODE.digest,
        "artefact": "export",
        "steps": [
            {
                "id": "export",
                "stage": "export",
                "params": {},
                "inputs": {"checkpoint": {"files": {path: "a" * 64}}},
                "params_from": {},
                "key": step.key,
            }
        ],
    }
    with pytest.raises(VerificationError, match="impossible path"):
        plan_from_data(data)


def test_a_step_that_is_not_needed_is_refused() -> None:
    data = copy.deepcopy(DATA)
    other = plan_as_data(plan(), "annotate-float32")
    data["steps"][1:1] = [step for step in other["steps"] if step["id"] == "convert-float32"]
    with pytest.raises(VerificationError, match="does not need"):
        plan_from_data(data)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
)


@settings(max_examples=300)
@given(junk, st.data())
def test_junk_anywhere_is_refused_without_a_traceback(value: Any, draw: st.DataObject) -> None:
    data = copy.deepcopy(DATA)
    place: Any = data
    while True:
        names = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        name = draw.draw(st.sampled_from(names))
        if not isinstance(place[name], dict | list) or not place[name] or draw.draw(st.booleans()):
            break
        place = place[name]
    if type(place[name]) is type(value) and place[name] == value:
        return
    place[name] = value
    with pytest.raises(VerificationError):
        plan_from_data(data)
    with pytest.raises(VerificationError):
        plan_from_data(value)
