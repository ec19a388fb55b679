"""What each layer loses: the plan, reading the stage's result, and what is refused before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from toy_plan import plan, recipe

from kiln.core.errors import StageFailedError, UnsupportedModelError, UsageError
from kiln.measure import quantisation
from kiln.recipes.recipe import Recipe
from kiln.recipes.values import tuples

LAYER = {
    "name": "net/a", "operator": "CONV_2D", "rmse": 0.5, "max_error": 2, "scale": 0.25,
    "rmse_by_scale": 2.0,
}  # fmt: skip
WRITTEN = {
    "layers": [LAYER, {**LAYER, "name": "net/b", "rmse_by_scale": 3.0}],
    "float": ["net/c"],
    "pictures": 6,
}


def read(written: Any) -> quantisation.Explanation:
    return quantisation.read("toy", json.dumps(written).encode())


def test_the_plan_is_that_of_a_build_up_to_the_conversion() -> None:
    options = {"int8": {"float_layers": ["net/a"]}, "export": {"regular_nms": True}}
    built = plan(recipe(**options), variants=("int8",))
    found = quantisation.explaining(built)
    assert found.ids() == ["export", "explain-int8"]
    assert found.step("export") == built.step("export")
    convert, explain = built.step("convert-int8"), found.step("explain-int8")
    assert explain.stage == "explain_int8"
    assert explain.params == {"float_layers": ["net/a"]}
    assert (explain.inputs, explain.params_from) == (convert.inputs, convert.params_from)
    assert explain.key != convert.key
    assert (found.artefacts, found.reports) == ({}, ("explain-int8",))


def test_layers_keep_their_order_and_can_be_ranked() -> None:
    found = read(WRITTEN)
    assert [layer.name for layer in found.layers] == ["net/a", "net/b"]
    assert [layer.name for layer in found.worst()] == ["net/b", "net/a"]
    assert (found.pictures, found.in_float) == (6, ("net/c",))
    assert found.as_json()["layers"][0] == LAYER


@pytest.mark.parametrize(
    "written",
    [
        {},
        {**WRITTEN, "layers": [{**LAYER, "rmse": "much"}]},
        {**WRITTEN, "layers": [{}]},
        {**WRITTEN, "float": 3},
        {**WRITTEN, "pictures": None},
        [],
    ],
)
def test_what_the_stage_does_not_write_is_refused(written: Any) -> None:
    with pytest.raises(StageFailedError, match=r"unusable layers\.json"):
        read(written)


@pytest.mark.parametrize("calibration", [{}, {"calibration": None}])
def test_a_model_without_int8(calibration: Any) -> None:
    model = recipe(variants=["float32"], **calibration)
    with pytest.raises(UsageError, match="'toy' has no variant 'int8'") as caught:
        quantisation.refuse_without_int8(model)
    assert ("[calibration]" in caught.value.remedy) == bool(calibration)


def test_a_model_whose_int8_is_not_converted_here() -> None:
    table = recipe().model_dump(by_alias=True, exclude_none=True)
    hub = {"kind": "hub", "handle": "https://127.0.0.1/lite0/1"}
    changes = {
        "variants": ["int8"], "profile": "seed", "image": "modelmaker", "source": hub,
        "architecture": "efficientdet", "efficientdet": {"spec": "efficientdet_lite0"},
    }  # fmt: skip
    model = Recipe.model_validate(tuples({**table, **changes}))
    with pytest.raises(UnsupportedModelError, match="hub module"):
        quantisation.refuse_without_int8(model)
    quantisation.refuse_without_int8(recipe())
