"""Content keys: what they hold, and what they are not for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from toy_plan import CODE, IMAGE, plan

from kiln.core.stage_result import Blob, StageResult
from kiln.project.closures import Closure, StageCode
from kiln.recipes.steps import Files, Plan, lone_step
from kiln.running.cutoff import content_key, files_of

PLAN = plan()
STEP = PLAN.step("convert-int8")
FACTS = {"normalization": {"mean": [127.5], "std": [127.5]}, "feeding": {"fit": "stretch"}}
GRAPH = {"saved_model/saved_model.pb": "1" * 64, "saved_model/variables/v.index": "2" * 64}


def made(files: dict[str, str] = GRAPH, **facts: Any) -> dict[str, StageResult]:
    """The export's result."""
    blobs = {name: Blob(digest, 3) for name, digest in files.items()}
    return {"export": StageResult(PLAN.step("export").key, "export", blobs, FACTS | facts, 9.5, 7)}


def key(results: dict[str, StageResult], of: Plan = PLAN) -> str | None:
    return content_key(of, of.step(STEP.id), results)


def test_it_is_the_key_of_a_step_whose_inputs_all_come_from_the_store() -> None:
    images = STEP.inputs["images"]
    assert isinstance(images, Files)
    graph = Files({"saved_model.pb": "1" * 64, "variables/v.index": "2" * 64})
    inputs = {"saved_model": graph, "images": images}
    params = {**STEP.params, **FACTS}
    assert key(made()) == lone_step("x", "convert", params, inputs, image=IMAGE, code=CODE).key
    assert key(made()) != STEP.key


def test_what_is_not_read_does_not_count() -> None:
    more = made({**GRAPH, "decoding/x.json": "3" * 64}, roles={}, architecture="ssd")
    slow = {"export": replace(made()["export"], key="0" * 64, seconds=77.0, peak_rss=1)}
    assert key(made()) == key(more) == key(slow)


@pytest.mark.parametrize(
    "results",
    [
        made({**GRAPH, "saved_model/saved_model.pb": "3" * 64}),
        made({**GRAPH, "saved_model/more": "3" * 64}),
        made({"saved_model/saved_model.pb": "1" * 64}),
        made({"saved_model": "1" * 64}),
        made(feeding={"fit": "letterbox"}),
        made(feeding=None),
    ],
)
def test_what_is_read_counts(results: dict[str, StageResult]) -> None:
    assert key(results) not in (key(made()), None)


def test_so_do_image_and_code() -> None:
    other = StageCode(CODE.digest, {"convert": Closure("9" * 64, ("steps/convert.py",))})
    found = {key(made()), key(made(), plan(code=other)), key(made(), plan(image=f"sha256:{CODE}"))}
    assert len(found) == 3
    other = StageCode(CODE.digest, {"export": Closure("9" * 64, ("steps/export.py",))})
    assert key(made(), plan(code=other)) == key(made())


def test_who_has_none() -> None:
    assert content_key(PLAN, PLAN.step("export"), {}) is None  # reads from no step
    assert key({"export": replace(made()["export"], facts={})}) is None
    # Plans that do not say what their keys are made of.
    assert key(made(), replace(PLAN, identity="")) is None
    bare = replace(PLAN, steps=tuple(replace(step, code=Closure("")) for step in PLAN.steps))
    assert key(made(), bare) is None


def test_a_path_is_a_file_or_what_lies_below_it() -> None:
    found = made({"a": "1" * 64, "ab/c": "2" * 64, "ab/d/e": "3" * 64})["export"]
    assert files_of(found, "a") == {"": Blob("1" * 64, 3)}
    assert files_of(found, "ab") == {"c": Blob("2" * 64, 3), "d/e": Blob("3" * 64, 3)}
    assert files_of(found, "b") == {}
