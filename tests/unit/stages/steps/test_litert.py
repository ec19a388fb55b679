"""The stage that runs LiteRT's two APIs: the toy detectors in both, and every way of going wrong.

Their detection operator's outputs have no shape in the file, so CompiledModel runs only those
without it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from int8_toy import int8_toy
from int16_toy import int16_toy
from places import FIXTURES
from tflite_files import fixture, with_own_threshold, without_output_shapes

from stages.detect import detector
from stages.device import compiled_model
from stages.gates import runtimes
from stages.gates.result import Gate
from stages.steps import litert

pytest.importorskip("ai_edge_litert.compiled_model")

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
THRESHOLD = 0.5
PLAIN = "toy_centernet_annotated"
POSTPROCESSED = ("toy_ssd_annotated", "toy_ssd_uint8_annotated")


def picture(*quarters: tuple[int, int, int]) -> np.ndarray:
    """Of the toys' input size."""
    image = np.zeros((8, 8, 3), np.uint8)
    for index, colour in enumerate(quarters):
        row, column = divmod(index, 2)
        image[row * 4 :, column * 4 :][:4, :4] = colour
    return image


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name, quarters in (("a.png", (GREY, RED, BLUE, GREEN)), ("b.png", (BLUE, GREY, GREY, RED))):
        found[name] = tmp_path / f"{name}.npy"
        np.save(found[name], picture(*quarters))
    return found


def found_in(data: bytes, pictures: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """What this process's interpreter finds, from half the threshold on."""
    model = detector.Detector(data)
    return {name: model.detect(np.load(path), THRESHOLD / 2) for name, path in pictures.items()}


def question(data: bytes, expected: Any, *, own_threshold: float = 0.0) -> runtimes.Question:
    limits = runtimes.LIMITS[runtimes.LITERT, runtimes.arithmetic(data)]
    return runtimes.Question(expected, THRESHOLD, own_threshold, runtimes.room_of(data), limits)


@pytest.fixture
def interpreter_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what both APIs are judged by alike."""
    monkeypatch.setattr(litert, "APIS", {litert.INTERPRETER: detector.make_interpreter})


def examine(data: bytes, pictures: dict[str, Path], expected: Any = None, **more: Any) -> Gate:
    wanted = found_in(data, pictures) if expected is None else expected
    gate = litert.examine(data, pictures, question(data, wanted, **more))
    assert json.loads(json.dumps(gate.as_json(), allow_nan=False)) == gate.as_json()
    return gate


@pytest.mark.parametrize("name", [PLAIN, "toy_raw_annotated", *POSTPROCESSED])
def test_both_apis_find_the_same(pictures: dict[str, Path], name: str) -> None:
    gate = examine(fixture(name), pictures)
    assert gate.status == "passed", gate
    assert "by either API (Interpreter and CompiledModel)" in gate.summary
    for figures in (gate.figures, gate.figures["compiled_model"]):
        assert (figures["pairs"], figures["missed"], figures["extra"]) == (5, 0, 0)
        assert (figures["min_iou"], figures["max_score_difference"]) == (1.0, 0.0)
    assert gate.figures["runtime"] == "ai-edge-litert" and gate.figures["version"][0].isdigit()


@pytest.mark.parametrize("name", POSTPROCESSED)
def test_an_output_without_a_shape_fails_in_one_api_alone(
    pictures: dict[str, Path], name: str
) -> None:
    gate = examine(without_output_shapes(fixture(name)), pictures)
    (problem,) = gate.problems
    assert problem.code == "refused" and "CompiledModel: " in problem.seen
    assert "has no shape in the file" in problem.seen and "has no shape" in gate.summary
    assert gate.figures["pairs"] == 5 and "compiled_model" not in gate.figures


@pytest.mark.usefixtures("interpreter_alone")
def test_an_int8_input(pictures: dict[str, Path]) -> None:
    gate = examine(int8_toy(), pictures)
    assert (gate.status, gate.figures["pairs"]) == ("passed", 5)


@pytest.mark.usefixtures("interpreter_alone")
def test_what_the_model_s_own_threshold_may_have_cut_off_is_not_missed(
    pictures: dict[str, Path],
) -> None:
    strict = with_own_threshold(fixture("toy_ssd_annotated"), 0.6)
    for score, status in ((0.605, "passed"), (0.8, "failed")):
        found = found_in(strict, pictures)
        found["a.png"].append({**found["a.png"][0], "box": [0.0, 0.0, 0.5, 0.5], "score": score})
        gate = examine(strict, pictures, found, own_threshold=0.6)
        assert gate.status == status, gate
        assert gate.figures["pairs"] == 5


def test_what_is_missed_and_what_is_extra_is_told_of_each_api(pictures: dict[str, Path]) -> None:
    data = fixture(PLAIN)
    right = found_in(data, pictures)
    blue = next(item for item in right["a.png"] if item["label"] == "blue")
    blue["class_id"], blue["label"] = 2, "green"
    gate = examine(data, pictures, right)
    assert gate.status == "failed"
    assert (gate.figures["pairs"], gate.figures["missed"], gate.figures["extra"]) == (4, 1, 1)
    assert [problem.code for problem in gate.problems] == ["missed", "extra"] * 2
    missed, extra, *of_compiled = gate.problems
    assert "Interpreter: 1 missed: green" in missed.seen and "a.png" in missed.seen
    assert "blue" in extra.seen and missed.seen in gate.summary
    assert all("CompiledModel: " in problem.seen for problem in of_compiled)


@pytest.mark.usefixtures("interpreter_alone")
@pytest.mark.parametrize(("code", "change"), [("score", "score"), ("boxes", "box")])
def test_other_scores_and_boxes(pictures: dict[str, Path], code: str, change: str) -> None:
    data = fixture("toy_ssd_annotated")
    wanted = found_in(data, pictures)
    item = wanted["b.png"][0]
    item[change] = item["score"] - 0.05 if change == "score" else [v * 0.96 for v in item["box"]]
    gate = examine(data, pictures, wanted)
    assert {problem.code for problem in gate.problems} == {code}
    assert gate.figures["pairs"] == 5


@pytest.mark.usefixtures("interpreter_alone")
def test_a_near_miss_is_seen_to_be_one(pictures: dict[str, Path]) -> None:
    data = fixture("toy_ssd_annotated")
    right = found_in(data, pictures)
    for item in right["a.png"]:
        item["score"] -= 0.0100001
    [problem] = examine(data, pictures, right).problems
    assert problem.expected == "at most 0.01"
    seen = float(problem.seen.rpartition("score difference ")[2])
    assert seen == pytest.approx(0.0100001) and seen > 0.01


def test_a_model_that_finds_nothing_says_so(pictures: dict[str, Path]) -> None:
    for path in pictures.values():
        np.save(path, picture(GREY, GREY, GREY, GREY))
    gate = examine(fixture(PLAIN), pictures)
    assert gate.status == "passed" and "nothing to find in 2 images" in gate.summary
    assert gate.figures["pairs"] == 0 and gate.figures["min_iou"] is None


def test_a_damaged_file_is_refused_by_both(pictures: dict[str, Path]) -> None:
    whole = fixture(PLAIN)
    gate = examine(whole[: len(whole) // 2], pictures, found_in(whole, pictures))
    assert [problem.code for problem in gate.problems] == ["refused", "refused"]
    assert all("truncated or damaged" in problem.seen for problem in gate.problems)


def test_a_crash_of_one_api_is_named(
    pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGABRT)

    monkeypatch.setitem(litert.APIS, litert.COMPILED, crash)
    gate = examine(fixture(PLAIN), pictures)
    (problem,) = gate.problems
    assert problem.code == "crashed"
    assert "CompiledModel did not survive the model: its process was ended by SIGABRT" in (
        gate.summary
    )
    assert gate.figures["pairs"] == 5


class _Off(compiled_model.CompiledInterpreter):
    """An API that computes something else."""

    def get_tensor(self, index: int) -> Any:
        values = super().get_tensor(index)
        return values * np.float32(0.985) if self._tensors[index].name == self.wanted else values

    wanted = ""


def test_apis_that_differ_are_told(
    pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may be as far from TensorFlow as an 8-bit file's, but not from the other."""
    data = fixture(PLAIN)
    names = detector.Detector(data)._details[detector.Detector(data)._positions["score"]]
    monkeypatch.setattr(_Off, "wanted", names["name"])
    off: Callable[..., Any] = lambda data, reference, threads: (_Off(data, threads), "off")  # noqa: E731
    monkeypatch.setitem(litert.APIS, litert.COMPILED, off)
    asked = question(data, found_in(data, pictures))
    loose = runtimes.Question(asked.expected, asked.threshold, 0.0, asked.room, runtimes.INTEGER)
    gate = litert.examine(data, pictures, loose)
    assert {problem.code for problem in gate.problems} == {"apis-differ"}
    assert "score difference" in gate.summary


def test_the_stage_writes_gate_and_facts(pictures: dict[str, Path], tmp_path: Path) -> None:
    data = fixture(PLAIN)
    place = {"model": tmp_path / "m.tflite", "found": tmp_path / "check.json", "pixels": tmp_path}
    place["model"].write_bytes(data)
    place["found"].write_text(json.dumps({"rounded": found_in(data, pictures)}))
    out = tmp_path / "out"
    out.mkdir()
    facts = litert.run({**litert.PARAMS, "score_threshold": THRESHOLD}, place, out, None)
    assert facts["gates"] == {"runtime-litert": "passed"}
    assert facts["runtime"].startswith("ai-edge-litert 2.")
    (gate,) = json.loads((out / "check.json").read_text())["gates"]
    assert gate["figures"]["pairs"] == 5


def test_detections_that_cannot_be_told_apart_are_not_compared(pictures: dict[str, Path]) -> None:
    data = fixture(PLAIN)
    alike = runtimes.Question({name: [] for name in pictures}, 1.0, 0.0, 4, runtimes.EXACT)
    gate = litert.examine(data, pictures, alike)
    assert gate.status == "passed" and "cannot be told apart" in gate.summary


def test_arithmetic_and_room() -> None:
    names = ("toy_ssd", "toy_ssd_uint8")
    assert [runtimes.arithmetic(fixture(name)) for name in names] == ["float", "integer"]
    assert runtimes.arithmetic(b"no model") == "float"
    assert runtimes.arithmetic(int16_toy()) == "integer-16"
    assert runtimes.room_of(fixture("toy_raw_annotated")) == 4
    assert runtimes.room_of(fixture("toy_ssd")) == runtimes.room_of(fixture("toy_ssd_uint8")) == 4
    assert runtimes.room_of(b"no model") is None
    assert (FIXTURES / "toy_ssd.tflite").exists()
