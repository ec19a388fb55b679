"""A plan whose steps run in more than one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toy_container import OK, Container, Doorman

from kiln.core.store import Store
from kiln.project.closures import StageCode
from kiln.recipes.steps import Files, Output, Plan, StepList
from kiln.running.engine import Outcome
from kiln.running.executor import Runner
from kiln.running.limits import Limits

OTHER = f"sha256:{'3' * 64}"


def play(container: Container) -> Outcome:
    container.finish_all()
    return OK


def test_each_image_has_a_container_of_its_own(tmp_path: Path) -> None:
    """As few as possible; what one needs of another's is laid out like any content."""
    store, code = Store(tmp_path / "store"), tmp_path / "stages"
    code.mkdir()
    steps = StepList(f"sha256:{'1' * 64}", StageCode("2" * 64))
    data = Files({"": store.add_bytes(b"data")})
    steps.add("first", "convert", {}, {"saved_model": data})
    steps.add("near", "convert", {}, {"model": Output("first", "model.tflite")}, image=OTHER)
    steps.add("alone", "convert", {}, {"saved_model": data}, image=OTHER)
    steps.add("second", "convert", {}, {"model": Output("first", "model.tflite")})
    steps.add("last", "convert", {}, {"model": Output("near", "model.tflite")})
    ordered = tuple(steps.steps.values())
    wanted = {step.id: step.id for step in ordered}
    plan = Plan("toy", "odapi", ordered, wanted, (), others={OTHER: "device"})
    asked: list[str] = []

    def tag(name: str) -> str:
        asked.append(name)
        return f"{name}:2"

    door: Any = Doorman(play)
    runner = Runner(lambda: door, store, code, lambda *_, **__: None)
    found = runner.run(plan, Limits(), lambda: "toy:1", others=tag)
    assert set(found) == set(wanted)
    assert [
        (call["image"], [stage["id"] for stage in call["request"]["stages"]])
        for call in door.calls
    ] == [
        ("toy:1", ["first", "second"]), ("device:2", ["near", "alone"]), ("toy:1", ["last"]),
    ]  # fmt: skip
    assert asked == ["device"]
    assert door.calls[1]["tree"]["near/model"] == b"a model"
    # All is known now: nobody is asked for an image.
    runner.run(plan, Limits(), lambda: "toy:1", others=tag)
    assert (len(door.calls), asked) == (3, ["device"])
