"""``kiln annotate`` up to the container: what is found out, and what is refused before it starts.

The metadata itself is written where tflite-support is (``tests/integration/test_annotate.py``).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import FIXTURES
from tflite_files import damage, fixture, rewritten

from kiln.building import annotation
from kiln.building.annotation_check import Source
from kiln.building.annotation_request import Wanted, feeding_of
from kiln.cli import main
from kiln.core.errors import (
    EngineUnavailableError,
    KilnError,
    LabelMapError,
    UnsupportedModelError,
    UsageError,
)
from kiln.core.store import Store
from kiln.project.folders import Project
from kiln.tflite.reading import load
from stages.files import feeding

LABELS = FIXTURES / "toy_labels.pbtxt"
HALF = (127.5,)


@pytest.fixture
def plain(tmp_path: Path) -> Wanted:
    """What can be annotated; there is no engine to do it."""
    file = tmp_path / "given.tflite"
    file.write_bytes(fixture("toy_ssd"))
    return Wanted(file, LABELS, HALF, HALF)


def refused(
    kind: type[KilnError] | tuple[type[KilnError], ...],
    wanted: Wanted,
    output: Path | None = None,
    force: bool = False,
) -> str:
    """Its message and remedy; nothing is written."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    target = output or wanted.file.parent / "made.tflite"
    before = {path: path.read_bytes() for path in wanted.file.parent.iterdir() if path.is_file()}
    store = Store(wanted.file.parent / "store")
    with pytest.raises(kinds) as caught:
        annotation.annotate(
            Project.find(), store, wanted, target, lambda *_, **__: None, force=force
        )
    assert caught.type in kinds
    assert caught.value.remedy
    after = {path: path.read_bytes() for path in wanted.file.parent.iterdir() if path.is_file()}
    assert after == before
    return str(caught.value)


def with_file(wanted: Wanted, data: bytes, **changes: Any) -> Wanted:
    wanted.file.write_bytes(data)
    return replace(wanted, **changes)


def test_a_good_one_only_lacks_an_engine(plain: Wanted) -> None:
    refused(EngineUnavailableError, plain)
    for name, changes in {
        "toy_centernet": {},
        "toy_ssd_uint8": {"mean": None, "std": None},
    }.items():
        refused(EngineUnavailableError, with_file(plain, fixture(name), **changes))


def test_a_float_input_needs_its_normalisation(plain: Wanted) -> None:
    said = refused(UsageError, replace(plain, mean=None, std=None))
    assert "does not say how pixels are scaled" in said
    assert "--mean 127.5 --std 127.5" in said


def test_another_normalisation_than_a_uint8_input_s_own(plain: Wanted) -> None:
    wrong = with_file(plain, fixture("toy_ssd_uint8"), mean=(0.0,), std=(255.0,))
    said = refused(UsageError, wrong)
    assert "raw pixels up to 254.0 pixel values away" in said and "Leave out" in said


@pytest.mark.parametrize("name", ["toy_ssd_annotated", "toy_centernet_annotated"])
def test_existing_metadata_is_only_replaced_by_force(plain: Wanted, name: str) -> None:
    there = with_file(plain, fixture(name))
    said = refused(UsageError, there)
    assert "holds metadata and labelmap.txt already" in said and "--force" in said
    refused(EngineUnavailableError, there, force=True)


@pytest.mark.parametrize("mean", [(127.5,), None])
def test_raw_outputs_are_no_detector_s(plain: Wanted, mean: tuple[float, ...] | None) -> None:
    """Whatever else is missing: that is said first."""
    raw = with_file(plain, fixture("toy_raw"), mean=mean, std=mean)
    said = refused(UnsupportedModelError, raw)
    assert "its outputs are raw boxes and scores" in said
    assert "with its post-processing" in said
    described = with_file(plain, fixture("toy_raw_annotated"), mean=mean, std=mean)
    assert "holds metadata" in refused(UsageError, described)
    assert "keep it as it is" in refused(UnsupportedModelError, described, force=True)


@pytest.mark.parametrize("there", ["made.tflite", "made.tflite.json", "given.tflite"])
def test_existing_files_are_only_replaced_by_force(plain: Wanted, there: str) -> None:
    path = plain.file.parent / there
    if not path.exists():
        path.write_bytes(b"precious")
    target = path.parent / there.removesuffix(".json")
    assert "exists" in refused(UsageError, plain, target)
    refused(EngineUnavailableError, plain, target, force=True)


def test_files_that_cannot_be_written(plain: Wanted, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for target in ("folder", "absent/made.tflite", "x" * 300):
        assert "cannot be written" in refused(UsageError, plain, tmp_path / target, force=True)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ("item { id: 1 name: 'a' }\nitem { id: 2 name: 'b' }", "up to 2, but"),
        ("item { id: 4 name: 'd' }", "up to 4, but"),
    ],
)
def test_another_number_of_labels(plain: Wanted, tmp_path: Path, items: str, words: str) -> None:
    labels = tmp_path / "labels.pbtxt"
    labels.write_text(items)
    wrong = replace(plain, label_map=labels)
    said = refused(LabelMapError, wrong)
    assert words in said and "scores 3" in said
    # The other graph does not say how many classes it scores.
    refused(EngineUnavailableError, with_file(wrong, fixture("toy_centernet")))


def test_no_label_map(plain: Wanted, tmp_path: Path) -> None:
    assert "absent.pbtxt" in refused(
        LabelMapError, replace(plain, label_map=tmp_path / "absent.pbtxt")
    )
    assert "line 1" in refused(LabelMapError, replace(plain, label_map=plain.file))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"PK\x03\x04 archive", "a zip archive"),
        (fixture("toy_ssd")[:1000], "cannot be read"),
    ],
)
def test_what_is_no_whole_tflite(plain: Wanted, data: bytes, words: str) -> None:
    assert words in refused(UnsupportedModelError, with_file(plain, data))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_end_in_words(plain: Wanted, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["toy_ssd", "toy_centernet", "toy_ssd_annotated"]))
    damaged = with_file(plain, damage(fixture(name), data))
    # Some damage is in weights, or in what is left out; the engine is asked for then.
    refused((UnsupportedModelError, LabelMapError, UsageError, EngineUnavailableError), damaged)


def _int8_input(model: Any) -> None:
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].type = 9


def _grey_input(model: Any) -> None:
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].shape = [1, 8, 8, 1]


def _three_outputs(model: Any) -> None:
    model.subgraphs[0].outputs = model.subgraphs[0].outputs[:3]


def _quantised_scores(model: Any) -> None:
    graph = model.subgraphs[0]
    graph.tensors[graph.outputs[0]].type = 3


def _options(**values: Any) -> Any:
    """Make a change of the detection operator's options; None leaves one out."""

    def change(model: Any) -> None:
        flexbuffers = pytest.importorskip("flatbuffers.flexbuffers")
        operator = model.subgraphs[0].operators[-1]
        found = {**flexbuffers.Loads(bytes(bytearray(operator.customOptions))), **values}
        found = {name: value for name, value in found.items() if value is not None}
        operator.customOptions = list(flexbuffers.Dumps(found))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_options(max_detections=0), "do not tell how many detections"),
        (_options(max_detections="ten"), "do not tell how many detections"),
        (_options(max_classes_per_detection=None), "do not tell how many detections"),
        (_options(max_classes_per_detection=2**40), "do not tell how many detections"),
        (_int8_input, "its input is int8"),
        (_grey_input, "[1, 8, 8, 1]"),
        (_three_outputs, "its outputs are float32, float32, float32;"),
        (_quantised_scores, "its outputs are uint8, float32"),
    ],
)
def test_what_no_detector_s_client_reads(plain: Wanted, change: Any, words: str) -> None:
    odd = with_file(plain, rewritten(fixture("toy_ssd"), change))
    assert words in refused(UnsupportedModelError, odd)


def with_shapes(*shapes: list[int], **options: Any) -> bytes:
    """The toy with these shapes of its outputs, and other options of the operator."""

    def change(model: Any) -> None:
        for number, shape in zip(model.subgraphs[0].outputs, shapes, strict=False):
            model.subgraphs[0].tensors[number].shape = shape
        _options(**options)(model)

    return rewritten(fixture("toy_ssd"), change)


def test_a_result_may_state_the_shapes_of_the_operator_s_outputs_and_nothing_else() -> None:
    file = load(fixture("toy_ssd"), "toy_ssd.tflite")
    right = ([1, 4], [1, 4, 4], [1], [1, 4])
    annotation.check_unchanged(file, with_shapes(*right))
    for other in (
        with_shapes([1, 4]),
        with_shapes([1, 5], [1, 5, 4], [1], [1, 5]),
        with_shapes([1, 4, 4], [1, 4], [1], [1, 4]),
        with_shapes(*right, nms_iou_threshold=0.6),
        rewritten(with_shapes(*right), _grey_input),
        rewritten(with_shapes(*right), _nameless),
    ):
        with pytest.raises(UnsupportedModelError, match="without changing it"):
            annotation.check_unchanged(file, other)


def _nameless(model: Any) -> None:
    """Without signature and casts, as an exporter unknown here may write it."""
    model.signatureDefs = None
    for code in model.operatorCodes:
        if code.builtinCode == 53:  # CAST
            code.builtinCode = code.deprecatedBuiltinCode = 0


def test_outputs_that_cannot_be_told_apart_are_named(plain: Wanted) -> None:
    bare = with_file(plain, rewritten(fixture("toy_centernet"), _nameless))
    said = refused(UnsupportedModelError, bare)
    assert "cannot be told apart" in said
    assert "--roles boxes=NAME,classes=NAME,scores=NAME,count=NAME" in said
    graph = annotation.load(bare.file).graphs[0]
    names = [graph.tensors[index].name for index in graph.outputs]
    given = dict(zip(("count", "scores", "classes", "boxes"), names, strict=True))
    refused(EngineUnavailableError, replace(bare, roles=given))
    wrong = replace(bare, roles={**given, "boxes": "elsewhere"})
    assert "'elsewhere'" in refused(UnsupportedModelError, wrong)


def test_a_text_that_is_none(plain: Wanted) -> None:
    odd = replace(plain, texts={"author": "caf\udce9"})
    assert "is not text in UTF-8" in refused(UsageError, odd)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mean", "1"], "--mean and --std need each other"),
        (["--mean", "1,2", "--std", "1"], "--mean '1,2' is not one number, or three"),
        (["--mean", "1", "--std", "0"], "--std '0' is not one number"),
        (["--roles", "boxes=a"], "does not name one output for each"),
        (["--roles", "boxes=a,boxes=b,classes=c,scores=d"], "does not name one output for each"),
        (["--roles", "boxes=,classes=a,scores=b,count=c"], "does not name one output for each"),
        (["--score-threshold", "2"], "--score-threshold"),
        (["--fit", "crop"], "--fit"),
        (["--fit", "letterbox"], "--fit letterbox needs --fill"),
        (["--fit", "letterbox", "--fill", "256"], "--fill '256' is not one number"),
        (["--fit", "letterbox", "--fill", "1,2"], "--fill '1,2' is not one number, or three"),
        (["--fit", "stretch", "--fill", "0"], "--fill has no meaning with --fit stretch"),
        (["--fill", "0"], "--fill and --sampling need --fit"),
        (["--sampling", "corner"], "--fill and --sampling need --fit"),
        (["--fit", "stretch", "--checkpoint", "."], "--fit cannot be combined with --checkpoint"),
        (["--images", "."], "need --checkpoint"),
        (["--allow", "parity"], "need --checkpoint"),
        (["--checkpoint", ".", "--mean", "1", "--std", "1"], "cannot be combined with --checkpo"),
    ],
)
def test_options_that_do_not_go_together(
    plain: Wanted,
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["annotate", str(plain.file), "--label-map", str(LABELS), "-o", "made.tflite"]
    monkeypatch.setattr(sys, "argv", ["kiln", *command, *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


# --- how to feed it ----------------------------------------------------------------------------

LETTERBOX = {
    "fit": "letterbox", "anchor": "top-left", "fill": [127.5, 127.5, 127.5],
    "sampling": "corner", "interpolation": "bilinear",
}  # fmt: skip


def test_what_is_said_of_feeding(plain: Wanted) -> None:
    """The stage that packs it takes it, and says the same."""
    letterboxed = replace(plain, fit="letterbox", fill=(127.5,), sampling="corner")
    assert feeding_of(plain) is None
    assert feeding_of(letterboxed) == LETTERBOX
    in_three = replace(letterboxed, fill=(1.0, 2.0, 3.0), sampling=None)
    for wanted in (letterboxed, in_three, replace(plain, fit="stretch")):
        said = feeding_of(wanted)
        assert feeding.read(said).as_fact() == said
        refused(EngineUnavailableError, wanted)
    assert feeding_of(in_three) == {**LETTERBOX, "fill": [1, 2, 3], "sampling": "half-pixel"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"std": None}, "need each other"),
        ({"mean": (float("nan"),)}, "--mean 'nan' is not one number"),
        ({"std": (1.0, 0.0, 1.0)}, "--std '1,0,1' is not one number"),
        ({"mean": (1.0, 2.0)}, "or three"),
        ({"score_threshold": float("nan")}, "is not a score"),
        ({"score_threshold": 1.5}, "is not a score"),
        ({"roles": {"boxes": "a"}}, "not one output for each of boxes, classes, count, scores"),
        ({"fit": "crop"}, "--fit 'crop' is unknown"),
        ({"fit": "stretch", "sampling": "edge"}, "--sampling 'edge' is unknown"),
        ({"fit": "letterbox", "fill": ()}, "--fill '' is not one number"),
        ({"fit": "letterbox", "fill": (-1.0,)}, "--fill '-1' is not one number"),
        ({"fit": "stretch", "mean": None, "std": None, "source": Source(Path("x"))}, "combined"),
    ],
)
def test_values_that_mean_nothing(plain: Wanted, changes: dict[str, Any], words: str) -> None:
    """As a call from Python may give them; the command line refuses most by itself."""
    assert words in refused(UsageError, replace(plain, **changes))
