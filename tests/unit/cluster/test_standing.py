"""Which workers get a driver's orders, by words and by resources: both must say the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import toy_plan

from kiln.cluster.order import Order
from kiln.cluster.standing import Standing, slots_of
from kiln.running.limits import Limits

OTHER = f"sha256:{'9' * 64}"
DRIVER = Standing("1.0", 1, 1, "a" * 64, {"odapi": toy_plan.IMAGE, "device": OTHER}, ("store-1",))
WORKER = replace(DRIVER, slots=2)


def order(memory: int = 8 << 30) -> Order:
    return Order(toy_plan.plan(), Limits(memory=memory), (), (), "store-1")


def placed(worker: Standing, asked: Order) -> bool:
    """What a scheduler does with resources."""
    has = worker.resources()
    return all(has.get(name, 0) >= number for name, number in DRIVER.needs(asked).items())


def test_a_worker_like_the_driver_gets_orders() -> None:
    assert DRIVER.why_not(WORKER) == "" and DRIVER.lacks(WORKER, order()) == ""
    assert placed(WORKER, order())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kiln": "1.1"}, "it runs kiln 1.1, the driver 1.0"),
        ({"protocol": 2}, "another protocol"),
        ({"form": 2}, "another protocol"),
        ({"code": "b" * 64}, "its stage code is bbbbbbbbbbbbbbbb, the driver's aaaaaaaaaaaaaaaa"),
        ({"images": {"odapi": OTHER}}, "its image odapi is 9999"),
        ({"ways": ("store-2",)}, "another store"),
        ({"ways": ()}, "another store"),
    ],
)
def test_a_worker_that_differs_gets_none(change: dict[str, Any], words: str) -> None:
    worker = replace(WORKER, **change)
    assert words in DRIVER.why_not(worker)
    assert not placed(worker, order())


def test_a_worker_of_something_else_gets_none() -> None:
    assert "not one of `kiln worker`" in DRIVER.why_not(None)


def test_a_worker_without_the_image_gets_others() -> None:
    worker = replace(WORKER, images={"device": OTHER})
    assert DRIVER.why_not(worker) == ""
    assert DRIVER.lacks(worker, order()) == "it does not have the image odapi"
    assert not placed(worker, order())


def test_a_large_model_takes_the_place_of_several() -> None:
    assert [slots_of(Limits(memory=gib << 30)) for gib in (1, 8, 9, 12, 13)] == [1, 1, 3, 3, 4]
    large = order(12 << 30)
    assert "memory for 2 models" in DRIVER.lacks(WORKER, large)
    assert not placed(WORKER, large)
    assert placed(replace(WORKER, slots=3), large)


def test_it_comes_back_as_it_was() -> None:
    assert Standing.parse(WORKER.as_data()) == WORKER


@pytest.mark.parametrize("data", [None, 3, [], {}, {"kiln": "1"}, {**WORKER.as_data(), "ways": 3}])
def test_what_is_no_standing(data: Any) -> None:
    assert Standing.parse(data) is None
