"""The gates on the toy detectors, with mistakes put in by hand.

A quarter of the picture that is red, green or blue is class 1, 2 or 3 (see
``fixtures/make_toy_detectors.py``); what it finds in its proper form stands for its source.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from int8_toy import int8_toy
from PIL import Image
from places import FIXTURES, ROOT
from tflite_files import fixture, with_own_threshold

from stages.detect import detector
from stages.files import pixels
from stages.gates import feeding_cost, label_proof, parity, structure
from stages.gates.result import beside
from stages.protocol.events import Emitter, EventStream
from stages.protocol.failures import StageError
from stages.protocol.request import complete_params
from stages.steps import check, reference
from stages.tflite import packed_files

pytest.importorskip("ai_edge_litert")

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}
NAMES = ("toy_ssd_annotated", "toy_centernet_annotated", "toy_ssd_uint8_annotated")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, quarters in enumerate(
        [("grey", "red", "blue", "green"), ("red", "blue", "grey", "grey")]
    ):
        picture = np.zeros((32, 32, 3), np.uint8)
        for index, color in enumerate(quarters):
            row, column = divmod(index, 2)
            picture[row * 16 :, column * 16 :][:16, :16] = COLORS[color]
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def check_of(
    data: bytes, images: Path, tmp_path: Path, name: str = "toy_ssd_annotated", **params: Any
) -> dict[str, dict[str, Any]]:
    """The gates' results for ``data``, by name; ``name`` is the proper one of its kind."""
    proper = detector.Detector(
        with_own_threshold(fixture(name), params["nms_score_threshold"])
        if "nms_score_threshold" in params
        else fixture(name)
    )
    seen = pixels.pictures(images, crops=True)
    reference.write(tmp_path, reference.Found({name: proper.detect(image) for name, image in seen}))
    (tmp_path / "model.tflite").write_bytes(data)
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    norm = proper.metadata.inputs[0]
    given = {
        "variant": "int8" if "uint8" in name else "float32",
        "architecture": "centernet" if "centernet" in name else "ssd",
        "num_classes": 3,
        "normalization": {"mean": list(norm.mean), "std": list(norm.std)},
        **params,
    }
    inputs = {
        "model": tmp_path / "model.tflite",
        "images": images,
        "label_map": FIXTURES / "toy_labels.pbtxt",
        "source": tmp_path / "detections.json",
    }
    if params.get("source", True) is None:
        del inputs["source"], given["source"]
    reading, writing = os.pipe()
    try:
        emit = Emitter(EventStream(writing), "check")
        facts = check.run(complete_params(given, check.PARAMS, "check"), inputs, out, emit)
    finally:
        os.close(writing)
        os.close(reading)
    gates = json.loads((out / "check.json").read_text("utf-8"))["gates"]
    assert facts["gates"] == {gate["gate"]: gate["status"] for gate in gates}
    return {gate["gate"]: gate for gate in gates}


def proper(name: str = "toy_ssd_annotated") -> bytes:
    return (FIXTURES / f"{name}.tflite").read_bytes()


def with_labels(text: str) -> bytes:
    bare, files = packed_files.split(proper())
    return packed_files.pack(bare, dict.fromkeys(files, text.encode()))


def codes(gate: dict[str, Any]) -> set[str]:
    return {problem["code"] for problem in gate["problems"]}


@pytest.mark.parametrize("name", NAMES)
def test_proper_ones_pass(images: Path, tmp_path: Path, name: str) -> None:
    # The toys have hardly any weights, whatever type they are in.
    gates = check_of(proper(name), images, tmp_path, name)
    failed = {name: gate["problems"] for name, gate in gates.items() if gate["status"] == "failed"}
    if "uint8" in name:
        assert set(failed) <= {"structure"}
        assert codes(gates["structure"]) <= {"weights-type"}
    else:
        assert failed == {}
    assert gates["parity"]["figures"]["pairs"] == 5 + 5  # in the images, and in crops of them


def test_an_int8_input(images: Path, tmp_path: Path) -> None:
    """As for uint8, with pixels minus 128; and it must be what was asked for."""
    name = "toy_ssd_uint8_annotated"
    gates = check_of(int8_toy(), images, tmp_path, name, inference_io="int8")
    failed = {name for name, gate in gates.items() if gate["status"] == "failed"}
    assert failed <= {"structure"}
    assert codes(gates["structure"]) <= {"weights-type"}
    assert gates["parity"]["figures"]["pairs"] == 5 + 5  # in the images, and in crops of them
    assert gates["normalization"]["figures"]["pixel_error"] == 0.5

    assert "input" in codes(check_of(int8_toy(), images, tmp_path, name)["structure"])
    uint8 = check_of(proper(name), images, tmp_path, name, inference_io="int8")
    assert "input" in codes(uint8["structure"])


def test_an_int8_input_that_reads_pixels_wrongly(images: Path, tmp_path: Path) -> None:
    wrong = int8_toy(zero_point=-128)
    gates = check_of(wrong, images, tmp_path, "toy_ssd_uint8_annotated", inference_io="int8")
    assert codes(gates["normalization"]) == {"normalization"}
    assert gates["normalization"]["figures"]["pixel_error"] == 127.5


def test_the_seed_s_metadata_is_caught_in_both_its_mistakes(images: Path, tmp_path: Path) -> None:
    gates = check_of(proper("toy_ssd_seed"), images, tmp_path)
    assert codes(gates["labels"]) == {"labels-pbtxt"}
    assert codes(gates["normalization"]) == {"normalization"}
    assert codes(gates["parity"]) == {"normalization"}
    assert "0 to 1" in gates["normalization"]["problems"][0]["seen"]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one whenever an artefact runs."""
    made: list[Any] = []
    run = detector.Detector.run

    def counted(self: detector.Detector, values: Any) -> Any:
        made.append(values)
        return run(self, values)

    monkeypatch.setattr(detector.Detector, "run", counted)
    return made


def test_an_input_that_takes_long_is_run_no_more_than_needed(
    images: Path, tmp_path: Path, runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images, one of another shape, and one in whole pixels: their verdict is the same."""
    source = 4  # of these runs are the source's: of the images, and of two crops
    every = check_of(proper(), images, tmp_path)
    assert len(runs) - source > 15
    monkeypatch.setattr(pixels, "_LARGE", 1)
    runs.clear()
    few = check_of(proper(), images, tmp_path)
    assert len(runs) - source == 3
    assert {name: gate["status"] for name, gate in few.items()} == {
        name: gate["status"] for name, gate in every.items()
    }
    told = json.loads((tmp_path / "out" / "check.json").read_text("utf-8"))
    assert set(told["rounded"]) == {*told["detections"]} == {"0.png"}  # the other is a crop
    assert set(told["source"]) == {"0.png", "1.png"}
    assert few["feeding"]["figures"]["images"] == ["0.png (16:9)"]

    runs.clear()
    gates = check_of(proper("toy_ssd_seed"), images, tmp_path)
    assert len(runs) - source > 8  # now others can be better
    for name in ("normalization", "parity"):
        assert codes(gates[name]) == {"normalization"}
    expected = {"image": "1.png", "label": "red", "least_score": 0.5}
    gates = check_of(proper(), images, tmp_path, expect=[expected])
    assert gates["labels"]["status"] == "passed"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("background\nred\ngreen\n", "labels-shifted"),
        ("green\nblue\n???\n", "labels-shifted"),
        ("green\nred\nblue\n", "labels-shuffled"),
        ("red\ngreen\n", "labels-count"),
        ("rot\ngelb\nblau\n", "labels-differ"),
        ("item {\n  id: 1\n  name: 'red'\n}\n", "labels-pbtxt"),
    ],
)
def test_wrong_labels(images: Path, tmp_path: Path, text: str, code: str) -> None:
    gates = check_of(with_labels(text), images, tmp_path)
    assert codes(gates["labels"]) == {code}
    assert gates["parity"]["status"] == "passed"  # numbers are not names


def test_labels_without_gaps() -> None:
    gate = label_proof.examine(["a", "b", "d"], ["a", "b", "???", "d"], {}, {}, (), 0.3)
    assert [problem.code for problem in gate.problems] == ["labels-gaps"]


def test_known_objects(images: Path, tmp_path: Path) -> None:
    red = {"image": "0.png", "label": "red", "least_score": 0.5}
    assert check_of(proper(), images, tmp_path, expect=[red])["labels"]["status"] == "passed"
    gates = check_of(proper(), images, tmp_path, expect=[{**red, "label": "cat"}])
    [problem] = gates["labels"]["problems"]
    assert problem["code"] == "known-object"
    assert "'cat' in 0.png" in problem["expected"]
    assert "does not find it either" in problem["cause"]


@pytest.mark.parametrize("mean", [0.0, 127.0, 255.0])
def test_any_other_declared_mean_is_caught(images: Path, tmp_path: Path, mean: float) -> None:
    data = bytearray(proper())
    declared = np.asarray([127.5], "<f4").tobytes()
    places = [match.start() for match in re.finditer(re.escape(declared), data)]
    wrong = []
    for place in places:  # std is the same number
        changed = data[:]
        changed[place : place + 4] = np.asarray([mean], "<f4").tobytes()
        with contextlib.suppress(StageError):
            if detector.Detector(bytes(changed)).metadata.inputs[0].mean == (mean,):
                wrong.append(bytes(changed))
    [one] = wrong
    assert "normalization" in codes(check_of(one, images, tmp_path)["normalization"])


def test_an_input_of_another_size_or_variant(images: Path, tmp_path: Path) -> None:
    gates = check_of(proper(), images, tmp_path, input={"height": 64, "width": 64})
    assert codes(gates["structure"]) == {"input"}
    gates = check_of(proper(), images, tmp_path, weights=10_000_000)
    assert codes(gates["structure"]) == {"near-empty"}
    gates = check_of(proper("toy_ssd_uint8_annotated"), images, tmp_path)
    assert "input" in codes(gates["structure"])


def test_bare_and_broken_files_are_findings(images: Path, tmp_path: Path) -> None:
    gates = check_of(proper("toy_ssd"), images, tmp_path)
    assert codes(gates["structure"]) == {"no-metadata", "output-shapes"}
    assert gates["runtime-tensorflow"]["status"] == "failed"
    assert "parity" not in gates
    gates = check_of(proper()[:1000], images, tmp_path)
    assert codes(gates["structure"]) == {"unreadable"}


def test_without_a_source_the_file_alone_is_judged(images: Path, tmp_path: Path) -> None:
    gates = check_of(proper(), images, tmp_path, source=None, untrained=["all biases are zero"])
    skipped = {name for name, gate in gates.items() if gate["status"] == "skipped"}
    assert skipped == {"parity", "normalization", "feeding"}
    assert codes(gates["trained"]) == {"untrained-heads"}
    assert gates["labels"]["status"] == "passed"


def test_slow_variants_see_no_crops_and_say_so(images: Path, tmp_path: Path) -> None:
    gate = check_of(proper(), images, tmp_path, reference_kernels=True)["feeding"]
    assert gate["status"] == "passed"
    assert "on no image of other proportions" in gate["summary"]


def test_ways_of_feeding_are_compared_in_crops_of_square_images(
    images: Path, tmp_path: Path
) -> None:
    gate = check_of(proper(), images, tmp_path)["feeding"]
    assert gate["status"] == "passed"
    assert gate["figures"]["images"] == ["0.png (16:9)", "1.png (9:16)"]
    figures = gate["figures"]
    assert figures["described"] == figures["stretch"] == 1.0  # what the toy does
    assert figures["letterbox"] < 0.9
    assert "letterboxed" in gate["summary"] and "lost" in gate["summary"]


def test_pixels_are_left_for_other_runtimes(images: Path, tmp_path: Path) -> None:
    check_of(proper(), images, tmp_path)
    model = detector.load(FIXTURES / "toy_ssd_annotated.tflite")
    for path in pixels.list_images(images):
        left = np.load(tmp_path / "out" / "pixels" / f"{path.name}.npy")
        assert (left.dtype, left.shape) == (np.uint8, (model.height, model.width, 3))


# --- a model with a threshold of its own -----------------------------------------------------


def test_a_model_with_its_own_threshold_passes_all_gates(images: Path, tmp_path: Path) -> None:
    strict = with_own_threshold(proper(), 0.9)
    gates = check_of(strict, images, tmp_path, nms_score_threshold=0.9)
    assert {gate["status"] for gate in gates.values()} == {"passed"}
    assert gates["parity"]["figures"]["pairs"] == 5 + 5  # in the images, and in crops of them
    assert "next best" in gates["normalization"]["summary"]


def test_one_detection_is_not_called_flat(images: Path, tmp_path: Path) -> None:
    (images / "0.png").unlink()
    picture = np.full((32, 32, 3), COLORS["grey"], np.uint8)
    picture[:16, :16] = COLORS["red"]
    Image.fromarray(picture).save(images / "1.png")
    strict = with_own_threshold(proper(), 0.9)
    gates = check_of(strict, images, tmp_path, nms_score_threshold=0.9)
    assert {gate["status"] for gate in gates.values()} == {"passed"}
    assert gates["trained"]["figures"]["lowest_score"] > 0.9


def test_nothing_above_the_model_s_own_threshold_is_no_lack_of_training(
    images: Path, tmp_path: Path
) -> None:
    strict = with_own_threshold(proper(), 0.99)
    gates = check_of(strict, images, tmp_path, nms_score_threshold=0.99)
    assert gates["trained"]["status"] == "passed"
    assert codes(gates["parity"]) == {"nothing-found"}
    (problem,) = gates["parity"]["problems"]
    assert "reaches the model's own threshold of 0.99: give images of its kind" in problem["cause"]
    assert {gates[name]["status"] for name in ("labels", "normalization")} == {"passed"}
    untrained = check_of(
        strict, images, tmp_path, nms_score_threshold=0.99, untrained=["all biases are zero"]
    )
    assert codes(untrained["trained"]) == {"untrained-heads"}


def test_outputs_that_are_not_finite_are_named(images: Path, tmp_path: Path) -> None:
    anchor = np.array([0.25, 0.25, 0.5, 0.5], "<f4").tobytes()  # of the first quarter
    assert proper().count(anchor) == 1
    broken = proper().replace(anchor, np.array([np.inf, 0.25, 0.5, 0.5], "<f4").tobytes())
    gates = check_of(broken, images, tmp_path)
    (problem,) = gates["runtime-tensorflow"]["problems"]
    assert problem["code"] == "not-finite"
    assert "not finite" in problem["seen"]
    assert "weights or its post-processing" in problem["cause"]


# --- parity, on lists --------------------------------------------------------------------------


def thing(score: float = 0.9, class_id: int = 1, shift: float = 0.0) -> dict[str, Any]:
    return {"box": [0.1, 0.1 + shift, 0.5, 0.5 + shift], "score": score, "class_id": class_id}


STRICT = parity.LIMITS["float32"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([thing(0.8)], "a score off by 0.1"),
        ([thing(shift=0.05)], "overlaps by 0.778"),
        ([thing(class_id=2)], "1 missed, 1 extra, 0 in common"),
        ([], "1 missed, 0 extra"),
        ([thing(), thing(0.5, 3, 0.4)], "0 missed, 1 extra"),
    ],
)
def test_what_differs_is_said(found: list[dict[str, Any]], words: str) -> None:
    gate = parity.examine({"a": [thing()]}, {"a": found}, STRICT, 0.3)
    [problem] = gate.problems
    assert words in problem.seen


def test_a_near_miss_is_seen_to_be_one() -> None:
    source = {"a": crowd(0.9, 0.8)}
    found = {"a": [thing(0.9 - 2.00001e-3, 1, 1 / 4), *crowd(0.9, 0.8)[1:]]}
    limits = STRICT.changed({"score_difference": 0.002})
    [problem] = parity.examine(source, found, limits, 0.3).problems
    assert problem.expected == "scores within 0.002"
    assert problem.seen == "a score off by 0.00200001"
    limits = STRICT.changed({"unmatched": 0.333, "agreement": 0.0})
    [problem] = parity.examine({"a": crowd(0.9, 0.8, 0.7)}, source, limits, 0.3).problems
    assert problem.expected.startswith("33.3 % of detections")
    assert problem.seen.startswith("33.33 %: 1 missed")


@given(st.floats(0, 1), st.integers(1, 1000))
def test_a_value_that_misses_its_bound_looks_like_it(value: float, thousandths: int) -> None:
    bound = thousandths / 1000
    assume(value != bound)
    assert float(beside(value, bound)) != float(f"{bound:g}")
    assert float(beside(value, bound)) == pytest.approx(value, rel=5e-3)


def test_faint_models_are_compared_on_what_they_have() -> None:
    source = {"a": [thing(0.05)], "b": [thing(0.04)]}
    gate = parity.examine(source, source, STRICT, 0.3)
    assert gate.status == "passed"
    assert gate.figures["pairs"] == 2
    assert "none reaches more" in gate.summary
    # And a difference does not hide in the dark.
    assert parity.examine(source, {"a": [], "b": []}, STRICT, 0.3).status == "failed"


def test_a_model_that_finds_nothing_proves_nothing() -> None:
    gate = parity.examine({"a": []}, {"a": []}, STRICT, 0.3)
    assert [problem.code for problem in gate.problems] == ["nothing-found"]


def test_one_pair_in_twenty_may_be_a_neighbour() -> None:
    places = [(0.9, number, number / 2) for number in range(1, 21)]
    source = {"a": [thing(*place) for place in places]}
    moved = [thing(score, kind, at + (0.1 if kind == 7 else 0.0)) for score, kind, at in places]
    loose = parity.LIMITS["dynamic"].changed({"iou": 0.9})
    gate = parity.examine(source, {"a": moved}, loose, 0.3)
    assert gate.status == "passed"
    assert gate.figures["min_iou"] == pytest.approx(0.6)  # and is told all the same
    assert parity.examine({"a": source["a"][:19]}, {"a": moved[:19]}, loose, 0.3).problems


def crowd(*scores: float) -> list[dict[str, Any]]:
    """Objects far from each other, one a class."""
    return [thing(score, number, number / 4) for number, score in enumerate(scores, 1)]


def ends(both: Sequence[parity.Detections], capacity: int) -> Any:
    """Where the lists of both sides end."""
    return tuple(
        {name: parity.end_of(items, capacity) for name, items in one.items()} for one in both
    )


def test_what_a_full_list_cut_off_is_not_missed() -> None:
    one, other = crowd(0.9, 0.8, 0.71, 0.70), crowd(0.9, 0.8, 0.70, 0.71)
    full = {"a": one[:3]}, {"a": [*other[:2], other[3]]}
    limits = parity.LIMITS["dynamic"]
    assert parity.examine(*full, limits, 0.3, ends(full, 3)).status == "passed"
    assert parity.examine(*full, limits, 0.3, ends(full, 4)).status == "failed"  # there was room
    far = {"a": one[:3]}, {"a": one[1:]}
    assert parity.examine(*far, STRICT, 0.3, ends(far, 3)).status == "failed"  # 0.9 is far from 0.7


def test_a_list_full_of_noise_was_not_cut_short() -> None:
    source = {"a": crowd(0.9, 0.5, 0.02)}
    found = {"a": [crowd(0.9)[0], *crowd(0, 0, 0, 0.02, 0.02)[3:]]}
    gate = parity.examine(source, found, parity.LIMITS["dynamic"], 0.3, ends((source, found), 3))
    assert gate.figures["missed"] == 1


def test_limits_can_be_changed_one_by_one() -> None:
    found = {"a": [thing(0.8)]}
    limits = STRICT.changed({"score_difference": 0.2, "iou": None, "agreement": 0.5})
    assert parity.examine({"a": [thing()]}, found, limits, 0.3).status == "passed"


# --- the documents -----------------------------------------------------------------------------


def test_the_documents_limits() -> None:
    text = (ROOT / "docs" / "checks.md").read_text("utf-8")
    table = {
        cells[0].strip("`"): cells[1:]
        for line in text.splitlines()
        if (cells := [cell.strip() for cell in line.strip("|").split("|")])[0].strip("`")
        in parity.LIMITS
    }
    assert table == {
        variant: [
            f"{limits.score_difference:g}",
            f"{limits.iou:g}",
            f"{limits.unmatched * 100:g} %",
            f"{limits.agreement:g}",
        ]
        for variant, limits in parity.LIMITS.items()
    }


def test_every_gate_is_explained() -> None:
    text = (ROOT / "docs" / "checks.md").read_text("utf-8")
    gates = set(re.findall(r"`([a-z-]+)`", text[text.index("## The gates") : text.index("When `")]))
    assert gates >= {
        structure.NAME, parity.NAME, label_proof.NAME, feeding_cost.NAME, "normalization", "trained"
    }  # fmt: skip
