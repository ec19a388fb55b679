"""``kiln diff`` on copies of the fixtures with one thing changed, and on damaged files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import FIXTURES, SCRIPTS
from tflite_files import damage, fixture, packed_with_date, rewritten

from kiln.core.errors import KilnError, UnsupportedModelError
from kiln.project.folders import Project
from kiln.tflite.diff import Difference, compare
from stages.tflite import packed_files, tflite_model

MODELS = sorted(FIXTURES.glob("*.tflite"))
ANNOTATED = fixture("toy_ssd_annotated")


def sections(found: Difference) -> dict[str, list[str]]:
    """The lines of each section; also that both forms can be shown."""
    shown = found.as_json(all_items=True)
    json.dumps(shown, allow_nan=False)
    assert shown["verdict"] == found.verdict
    assert found.text().startswith(found.verdict)
    assert len(found.text().splitlines()) <= len(found.text(all_items=True).splitlines())
    for item in shown["sections"]:
        assert item["name"] != "weights" or item["differing_tensors"] <= item["compared_tensors"]
    return {item.name: [line.text for line in item.items] for item in found.sections}


def with_files(data: bytes, **files: bytes) -> bytes:
    model, _ = packed_files.split(data)
    return packed_files.pack(model, {name.replace("_", "."): text for name, text in files.items()})


# --- the verdict --------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_file_and_itself(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(path.read_bytes())
    found = compare(path, copy)
    assert found.identical and found.same_model and found.sections == ()
    assert found.verdict == f"identical: the same {path.stat().st_size:,} bytes"
    assert found.text() == found.verdict


def test_only_the_time_stamp() -> None:
    found = compare(ANNOTATED, packed_with_date(ANNOTATED, 0, 3))
    assert found.verdict == (
        "same graph and weights; only the packed file's time stamp (labelmap.txt) differs"
    )
    assert found.same_model and not found.identical
    assert sections(found)["packed"] == [
        "labelmap.txt: date: '1980-01-01 00:00:00' -> '1980-01-01 00:00:06'"
    ]
    assert "the FlatBuffer (4,824 bytes) is the same" in sections(found)["bytes"][0]


def test_only_a_header_that_zip_keeps_twice() -> None:
    changed = bytearray(ANNOTATED)
    changed[changed.index(b"PK\x03\x04") + 10] = 3  # not in the central directory
    found = compare(ANNOTATED, bytes(changed))
    assert found.verdict == (
        "same graph, weights and packed files; only the archive's own headers differ"
    )


def test_serialised_differently() -> None:
    """Buffers in another order, with one that nobody uses, and other padding."""

    def shuffle(model: Any) -> None:
        order = [0, *range(len(model.buffers) - 1, 0, -1)]
        new = {old: position for position, old in enumerate(order)}
        model.buffers = [model.buffers[old] for old in order]
        for item in (*model.subgraphs[0].tensors, *model.metadata):
            item.buffer = new[item.buffer]
        model.buffers.append(model.buffers[0])

    found = compare(rewritten(ANNOTATED), rewritten(ANNOTATED, shuffle))
    assert found.verdict.startswith("the same model, serialised differently")
    assert found.same_model and set(sections(found)) == {"bytes"}


def test_one_flipped_weight() -> None:
    changed = bytearray(ANNOTATED)
    place = changed.index(np.float32([4, -4]).tobytes())
    changed[place] ^= 1
    found = compare(ANNOTATED, bytes(changed))
    assert found.verdict == (
        "same graph; different weights: 1 of 8 constant tensors, largest difference 4.77e-07 "
        "(1.2e-05 % of its tensor's largest value) at MatMul1[0, 0]"
    )
    assert not found.same_model
    shown = found.as_json()["sections"][0]
    assert (shown["name"], shown["differing_values"]) == ("weights", 1)
    assert shown["items"][0]["b"] == float(np.nextafter(np.float32(4), np.float32(5)))


def test_the_worst_is_relative_to_its_tensor() -> None:
    def change(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            if tensor.name in (b"MatMul1", b"Const_2"):
                values = np.frombuffer(bytes(bytearray(model.buffers[tensor.buffer].data)), "<f4")
                step = 0.004 if tensor.name == b"MatMul1" else 0.003  # of 4, and of 0.75
                values = values + np.float32(step) * (np.arange(len(values)) == 1)
                raw = np.frombuffer(values.astype("<f4").tobytes(), np.uint8)
                model.buffers[tensor.buffer].data = raw

    found = changed(change)
    assert "2 of 8 constant tensors, relatively largest difference 0.003 (0.4 %" in found.verdict
    assert found.verdict.endswith("at Const_2[0, 1]")
    assert [text.split("[")[0] for text in sections(found)["weights"]] == ["Const_2", "MatMul1"]


def test_another_precision() -> None:
    found = compare(fixture("toy_ssd"), fixture("toy_ssd_uint8"))
    assert found.verdict.startswith("same network in another precision: float32 -> integer (int8)")
    texts = sections(found)
    assert "QUANTIZE: 0 -> 1" in texts["operators"]
    assert "input 0 type: 'float32' -> 'uint8'" in texts["interface"]
    assert found.sections[0].summary["largest_steps"] < 0.5


def test_other_models() -> None:
    found = compare(fixture("toy_ssd"), fixture("toy_centernet"))
    assert found.verdict == "different graphs: 10 operators -> 15, 40 % of them in common"
    assert "TOPK_V2: 0 -> 1" in sections(found)["operators"]


def test_annotated_and_bare() -> None:
    found = compare(fixture("toy_centernet"), fixture("toy_centernet_annotated"))
    assert found.same_model
    assert found.verdict == (
        "same graph and weights; only the metadata (only in B) and the labels (only in B) differ"
    )


def test_annotated_and_bare_where_the_shapes_of_outputs_were_not_stated() -> None:
    found = compare(fixture("toy_ssd"), ANNOTATED)
    assert not found.same_model
    assert found.verdict == (
        "same operators and weights; other shapes of 4 tensors; the metadata (only in B) and the "
        "labels (only in B) too"
    )


# --- what differs -------------------------------------------------------------------------


def changed(change: Any, name: str = "toy_ssd") -> Difference:
    return compare(rewritten(fixture(name)), rewritten(fixture(name), change))


def test_options() -> None:
    def change(model: Any) -> None:
        model.subgraphs[0].operators[0].builtinOptions.strideW = 7
        model.subgraphs[0].operators[0].builtinOptions.padding = 0

    found = changed(change)
    assert sections(found)["operators"] == [
        "AVERAGE_POOL_2D: padding VALID -> SAME (operator 0)",
        "AVERAGE_POOL_2D: stride_w 4 -> 7 (operator 0)",
    ]
    assert found.verdict == "same sequence of operators; the operators' details differ"


def test_versions_and_wiring() -> None:
    def change(model: Any) -> None:
        (sub,) = [
            op
            for op in model.subgraphs[0].operators
            if model.operatorCodes[op.opcodeIndex].builtinCode == 41  # SUB
        ]
        model.operatorCodes[sub.opcodeIndex].version = 9
        sub.inputs = sub.inputs[::-1]

    texts = sections(changed(change))["operators"]
    assert texts[0] == "SUB: version 1 -> 9 (1 operator)"
    assert len(texts) == 3 and all("SUB reads" in text for text in texts[1:])


def test_a_missing_operator() -> None:
    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        (logistic,) = [
            op
            for op in graph.operators
            if model.operatorCodes[op.opcodeIndex].builtinCode == 14  # LOGISTIC
        ]
        graph.operators.remove(logistic)

    found = changed(change)
    assert found.verdict.startswith("different graphs: 10 operators -> 9, 95 % of them in common")
    texts = sections(found)["operators"]
    assert texts[0] == "LOGISTIC: 1 -> 0"
    assert any(text.startswith("LOGISTIC (from operator") for text in texts)


def test_outputs_in_another_order() -> None:
    def change(model: Any) -> None:
        model.subgraphs[0].outputs = model.subgraphs[0].outputs[::-1]

    assert sections(changed(change))["interface"] == [
        "outputs in another order: scores, boxes, count, classes -> classes, count, boxes, scores"
    ]


def test_signatures() -> None:
    def change(model: Any) -> None:
        first, second, *_ = model.signatureDefs[0].outputs
        first.tensorIndex, second.tensorIndex = second.tensorIndex, first.tensorIndex

    texts = sections(changed(change))["signatures"]
    assert len(texts) == 2 and all(text.startswith("serving_default: output_") for text in texts)

    def rename(model: Any) -> None:
        model.signatureDefs[0].signatureKey = b"other"

    assert sections(changed(rename))["signatures"] == [
        "signature 'serving_default' only in A",
        "signature 'other' only in B",
    ]


def test_postprocessing_options() -> None:
    flexbuffers = pytest.importorskip("flatbuffers.flexbuffers")

    def change(model: Any) -> None:
        operator = model.subgraphs[0].operators[-1]
        options = flexbuffers.Loads(bytes(bytearray(operator.customOptions)))
        options["max_detections"] = 10
        operator.customOptions = np.frombuffer(bytes(flexbuffers.Dumps(options)), np.uint8)

    found = changed(change)
    assert sections(found)["postprocess"] == ["max_detections: 4 -> 10"]
    assert "post-processing options" in found.verdict


def test_renamed_and_reshaped_tensors() -> None:
    def change(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            if tensor.name == b"MatMul1":
                tensor.name = b"weights of the first layer"
            elif tensor.name == b"mul":
                tensor.shape = np.array([1, 1], np.int32)

    texts = sections(changed(change))["tensors"]
    assert texts == ["mul: shape [] -> [1, 1]", "renamed: MatMul1 -> weights of the first layer"]


def test_scales_and_zero_points() -> None:
    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        quantization = graph.tensors[graph.inputs[0]].quantization
        quantization.scale = np.float32(quantization.scale) * np.float32(1.25)
        quantization.zeroPoint = np.int64([3])

    (text,) = sections(changed(change, "toy_ssd_uint8"))["quantisation"]
    assert "(20 %)" in text and "zero point 127 -> 3" in text


def test_fields_that_have_no_section_of_their_own() -> None:
    def change(model: Any) -> None:
        model.subgraphs[0].tensors[3].quantization.min = [1.5]

    found = changed(change)
    assert found.verdict.startswith("same operators, tensors and weights; other fields differ")
    assert not found.same_model
    assert "subgraphs[0].tensors[3].quantization" in sections(found)["other"][0]


def test_shared_constants_are_no_difference() -> None:
    """One constant for two operators here, a copy for each there."""
    import copy

    def share(model: Any, split: bool) -> None:
        graph = model.subgraphs[0]
        reshapes = [
            op for op in graph.operators if model.operatorCodes[op.opcodeIndex].builtinCode == 22
        ]
        target = int(reshapes[0].inputs[1])
        if split:
            graph.tensors.append(copy.copy(graph.tensors[target]))
            graph.tensors[-1].name = b"a copy"
            target = len(graph.tensors) - 1
        reshapes[1].inputs = np.array([reshapes[1].inputs[0], target], np.int32)

    data = fixture("toy_ssd")
    found = compare(
        rewritten(data, lambda model: share(model, False)),
        rewritten(data, lambda model: share(model, True)),
    )
    assert sections(found)["weights"] == [
        "1 constant of B that A shares between operators (the same values)"
    ]
    assert "operators" not in sections(found)


def test_metadata_and_labels() -> None:
    found = compare(fixture("toy_ssd_seed"), ANNOTATED)
    texts = sections(found)
    assert not {"weights", "operators", "quantisation", "signatures"} & set(texts)
    assert "name: 'ObjectDetector' -> 'Toy'" in texts["metadata"]
    assert "inputs[0].mean: 0 -> 127.5" in texts["metadata"]
    assert texts["labels"][1] == "line 1: '# The three classes of the toy detectors.' -> 'red'"
    few = compare(fixture("toy_ssd_seed"), ANNOTATED).text()
    assert f"... and {len(texts['metadata']) - 5} more (--all)" in few


def test_packed_files() -> None:
    one = with_files(ANNOTATED, labelmap_txt=b"red\ngreen\nblue\n", a_txt=b"x")
    other = with_files(ANNOTATED, labelmap_txt=b"red\ngrey\nblue\n", b_txt=b"x")
    texts = sections(compare(one, other))
    assert texts["labels"] == ["line 2: 'green' -> 'grey'"]
    assert "a.txt only in A" in texts["packed"] and "b.txt only in B" in texts["packed"]
    assert "labelmap.txt: size: 15 -> 14" in texts["packed"]


def test_every_weight_is_compared_with_its_own_name() -> None:
    """The float and the quantised toy hold the same constants, in another order."""
    shown = compare(fixture("toy_ssd"), fixture("toy_ssd_uint8")).as_json(all_items=True)
    weights = next(item for item in shown["sections"] if item["name"] == "weights")
    assert weights["compared_tensors"] == 8
    first = tflite_model.read(fixture("toy_ssd"))
    for item in weights["items"]:
        (tensor,) = [t for t in first.graph.tensors if t.name == item["tensor"]]
        stored = np.frombuffer(first.buffers[tensor.buffer], "<f4").reshape(tensor.shape)
        assert item["a"] == stored[tuple(item["index"])]


# --- damage -------------------------------------------------------------------------------


@settings(max_examples=150)
@given(st.data())
def test_damage_ends_in_a_message(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(MODELS)).read_bytes()
    damaged = damage(whole, data)
    other = data.draw(st.just(whole) | st.sampled_from(MODELS).map(Path.read_bytes))
    for pair in ((damaged, other), (other, damaged)):
        try:
            found = compare(*pair)
        except KilnError as error:
            assert error.message and error.remedy
            continue
        assert found.identical == (damaged == other)
        assert found.identical or found.sections
        sections(found)


def test_the_damaged_file_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"^second is "):
        compare(ANNOTATED, ANNOTATED[:900], "first", "second")


# --- the command --------------------------------------------------------------------------


def kiln(*args: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "KILN_PROJECT": str(Project.find().root),
        "PYTHONPATH": str(SCRIPTS),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "kiln.cli", *map(str, args)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


def test_exit_codes(tmp_path: Path) -> None:
    a, b = FIXTURES / "toy_ssd.tflite", FIXTURES / "toy_ssd_annotated.tflite"
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(a.read_bytes()[:1000])
    same, different = kiln("diff", a, a), kiln("diff", a, b)
    assert (same.returncode, same.stdout[:9], same.stderr) == (0, "identical", "")
    assert (different.returncode, different.stderr) == (1, "")
    assert different.stdout == compare(a, b).text() + "\n"
    assert kiln("diff", a, broken).returncode == 14
    assert kiln("diff", a, tmp_path / "missing").returncode == 2
    assert kiln("diff", a).returncode == 2
    assert kiln("inspect", broken).returncode == 14
    shown = kiln("inspect", a)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_json_is_one_event(tmp_path: Path) -> None:
    a, b = FIXTURES / "toy_ssd_seed.tflite", FIXTURES / "toy_ssd_annotated.tflite"
    few, everything = kiln("diff", "--json", a, b), kiln("diff", "--json", "--all", a, b)
    assert few.returncode == everything.returncode == 1
    counts = []
    for ended in (few, everything):
        event = json.loads(ended.stdout)
        assert event["event"] == "difference" and event["same_model"] is False
        (metadata,) = [item for item in event["sections"] if item["name"] == "metadata"]
        counts.append((len(metadata["items"]), metadata["count"]))
    assert counts[0][0] == 5 and counts[1][0] == counts[0][1] == counts[1][1] > 5
    event = json.loads(kiln("inspect", "--json", a).stdout)
    assert event["event"] == "inspection" and event["file"] == str(a)
    event = json.loads(kiln("diff", "--json", a, tmp_path / "missing").stdout)
    assert (event["event"], event["exit_code"]) == ("error", 2)


def test_output_that_cannot_show_a_letter() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "KILN_PROJECT": ""}
    environment["KILN_PROJECT"] = str(Project.find().root)
    data = rewritten(
        fixture("toy_ssd"), lambda model: setattr(model, "description", "Ofen é".encode())
    )
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from kiln.tflite.inspect import inspect;"
            "from kiln.core.output import tolerant_output;"
            "tolerant_output(); print(inspect(sys.stdin.buffer.read()).text())",
        ],
        input=data,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert rb"Ofen \xe9" in ended.stdout
