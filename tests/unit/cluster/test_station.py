"""A station refuses, and says whose fault it is; whole orders are run in ``test_cluster``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from toy_container import Container, Doorman
from toy_project import SEALED, make_project

from kiln.cluster import station as module
from kiln.cluster.order import Answer, Order
from kiln.cluster.standing import Standing
from kiln.cluster.station import Station
from kiln.cluster.transfer import transfers
from kiln.core.errors import (
    CancelledError,
    ClusterError,
    EngineUnavailableError,
    StageFailedError,
)
from kiln.core.store import Store
from kiln.project.closures import read_stage_code
from kiln.recipes.steps import Files, Plan, lone_step
from kiln.running.limits import Limits, Outcome


class Bench:
    """A station in a project of its own, and an order that it can run."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project = make_project(root / "project")
        self.store = Store(root / "store")
        self.told: list[tuple[str, Mapping[str, Any]]] = []
        self.way, *_ = ways = transfers(self.store, print)
        standing = Standing.here(self.project.stages, {"odapi": SEALED.identity}, ways, 1)
        self.station = Station(self.project, self.store, standing, ways, "w1")
        self.door = Doorman(self.play)
        self.door.sweep = lambda: 0  # type: ignore[attr-defined]
        monkeypatch.setattr(module.Engine, "find", lambda: self.door)
        monkeypatch.setattr(module.Images, "ensure", lambda _, name: _Tagged)

    def play(self, container: Container) -> Outcome:
        container.finish("a", {"file": b"content"}, fact=1)
        return Outcome(0, False, False, "")

    def order(self, image: str = SEALED.identity, content: str = "", way: str = "") -> Order:
        code = read_stage_code(self.project.stages)
        files = Files({"x": content or self.store.add_bytes(b"x")})
        step = lone_step("a", "convert", {}, {"files": files}, image=image, code=code)
        plan = Plan("toy", "odapi", (step,), {}, (), image, code)
        return Order(plan, Limits(), ("a",), ("a",), way or self.way)

    def run(self, order: Order | str) -> Answer:
        text = order if isinstance(order, str) else order.text
        return Answer.parse(
            self.station.run(text, lambda key, event, fields: self.told.append((event, fields)))
        )


class _Tagged:
    tag = "toy:1"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_an_order_that_it_can_run(bench: Bench) -> None:
    order = bench.order()
    answer = bench.run(order)
    assert answer.error is None and set(answer.files["a"]) == {"file"}
    assert answer.ran == {"a": (1.5, 1 << 20)}
    result = bench.store.get_result(order.plan.step("a").key)
    assert result is not None and result.files["file"].sha256 == answer.files["a"]["file"]
    assert [fields["state"] for event, fields in bench.told if event == "stage"] == ["finished"]
    again = bench.run(order)
    assert again.files == answer.files and again.ran == {}


def refused(answer: Answer, kind: type[Exception], words: str) -> None:
    assert type(answer.error) is kind and words in str(answer.error)
    assert answer.here


def test_code_that_was_edited_since_it_started(bench: Bench) -> None:
    order = bench.order()
    (bench.project.stages / "__main__.py").write_text("print(1)\n")
    refused(bench.run(order), ClusterError, "stage code")


def test_an_image_that_is_locked_otherwise(bench: Bench) -> None:
    refused(bench.run(bench.order(image=f"sha256:{'7' * 64}")), ClusterError, "image odapi")


def test_contents_that_it_does_not_see(bench: Bench) -> None:
    refused(bench.run(bench.order(way="store-else")), ClusterError, "KILN_STORE")
    refused(bench.run(bench.order(content="5" * 64)), ClusterError, "a/files/x")


@pytest.mark.parametrize("text", ["", "{}", "null"])
def test_what_is_no_order(bench: Bench, text: str) -> None:
    refused(bench.run(text), ClusterError, "An order")


def test_no_engine_is_its_own_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise EngineUnavailableError("None.", "Start one.")

    monkeypatch.setattr(module.Engine, "find", none)
    refused(bench.run(bench.order()), EngineUnavailableError, "None.")


def test_a_stage_that_fails_is_not(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.door, "play", lambda _: Outcome(1, False, False, "log"))
    answer = bench.run(bench.order())
    assert type(answer.error) is StageFailedError and not answer.here


def test_after_it_was_closed_it_runs_nothing(bench: Bench) -> None:
    bench.station.close()
    answer = bench.run(bench.order())
    assert type(answer.error) is CancelledError
    assert not bench.door.calls
