"""Orders and answers: plain data, the same for whoever asks, and refused when they are not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import toy_plan

from kiln.cluster.order import Answer, Order, key_of_text
from kiln.core.errors import ClusterError, LabelMapError, StageFailedError
from kiln.recipes.plan import Plan
from kiln.running.limits import Limits

DEVICE = f"sha256:{'3' * 64}"


def plan() -> Plan:
    recipe = toy_plan.recipe()
    images = {"cat.png": "d" * 64}
    sources = replace(toy_plan.SOURCES, check_images=images)
    return toy_plan.make_plan(
        recipe, sources, ("float32", "int8"),
        image=toy_plan.IMAGE, code=toy_plan.CODE, device=DEVICE,
    )  # fmt: skip


def order(**changes: Any) -> Order:
    made = plan()
    return replace(
        Order(made, Limits(timeout=9.5), tuple(made.published()), tuple(made.ids()), "store-1"),
        **changes,
    )


def test_it_comes_back_as_it_was() -> None:
    sent = order()
    got = Order.parse(sent.text)
    assert got.plan.steps == sent.plan.steps
    assert (got.plan.identity, got.plan.code) == (sent.plan.identity, sent.plan.code)
    assert got.plan.others == {DEVICE: "device"}
    assert [got.plan.image_of(step) for step in got.plan.steps] == [
        sent.plan.image_of(step) for step in sent.plan.steps
    ]
    assert got.limits == sent.limits
    assert set(got.files) == set(sent.files) and set(got.facts) == set(sent.facts)
    assert got.text == sent.text and got.key == sent.key == key_of_text(sent.text)
    assert got.images == {toy_plan.IMAGE, DEVICE}


def test_what_is_asked_for_decides_the_key_and_its_order_does_not() -> None:
    one = order()
    assert order(files=tuple(reversed(one.files))).key == one.key
    others = [
        order(limits=Limits(timeout=10)),
        order(files=one.files[:1]),
        order(way="store-2"),
        order(attempt=2),
    ]
    assert len({one.key, *(item.key for item in others)}) == 5


def changed(change: Any) -> str:
    data = json.loads(order().text)
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(form=2),
        lambda data: data.pop("plan"),
        lambda data: data["plan"].update(code="x"),
        lambda data: data["plan"]["steps"][0].update(key="0" * 64),
        lambda data: data["plan"]["steps"][0]["params"].update(more=1),
        lambda data: data.update(images={}),
        lambda data: data.update(images=[]),
        lambda data: data["files"].append("nothing"),
        lambda data: data.update(files=3),
        lambda data: data["limits"].pop("memory"),
        lambda data: data["limits"].update(memory="all"),
        lambda data: data["limits"].update(timeout=-1),
        lambda data: data.update(attempt=None),
    ],
)
def test_what_is_no_order(change: Any) -> None:
    with pytest.raises(ClusterError):
        Order.parse(changed(change))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
def test_what_is_no_order_at_all(text: str) -> None:
    with pytest.raises(ClusterError):
        Order.parse(text)


def test_an_answer_comes_back_as_it_was() -> None:
    sent = Answer("w1", {"export": {"a": "1" * 64}}, {"export": (1.5, 7)})
    assert Answer.parse(sent.as_text()) == sent


def test_a_failure_keeps_its_class_and_words() -> None:
    sent = Answer("w1", error=LabelMapError("Bad.", "Do."), here=True)
    got = Answer.parse(sent.as_text())
    assert isinstance(got.error, LabelMapError)
    assert (got.error.message, got.error.remedy, got.here) == ("Bad.", "Do.", True)


def test_an_answer_s_words_are_safe_to_show_and_its_kind_is_one_of_ours() -> None:
    data = json.loads(Answer("w1", error=LabelMapError("x")).as_text())
    data["worker"] = "w\x1b[2J"
    data["error"]["message"] = "\x1b[31mred"
    data["error"]["kind"] = "SystemExit"
    got = Answer.parse(json.dumps(data))
    assert type(got.error) is StageFailedError
    assert "\x1b" not in f"{got.worker}{got.error}"


@pytest.mark.parametrize(
    "said",
    [
        None, b"{}", 3, "", "{}", '{"form": 2}',
        '{"form": 1, "worker": "w", "files": {"a": 3}, "ran": {}, "error": null, "here": false}',
        '{"form": 1, "worker": "w", "files": {}, "ran": {"a": 1}, "error": null, "here": false}',
        '{"form": 1, "worker": "w", "files": {}, "ran": {}, "error": "bad", "here": false}',
    ],
)  # fmt: skip
def test_what_is_no_answer(said: Any) -> None:
    with pytest.raises(ClusterError):
        Answer.parse(said)
