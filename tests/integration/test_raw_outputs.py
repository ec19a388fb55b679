"""Files without post-processing: raw boxes and scores, and how to decode them packed inside.

The model's own post-processing, by its authors' code, is what the decoded file must find; so must
the code that the release's page shows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import page_dist
import pytest
from families import CLASSES, FAMILIES, FED, laid_out
from support import Stages, Wanted

from kiln.core.stage_result import StageResult
from kiln.page.contents import Variant, read_release
from kiln.page.snippets import litert_python
from kiln.tflite.inspect import inspect
from stages.detect import detector, matching
from stages.files import pixels
from stages.tflite import decoding, float_layers, tflite_model

PHOTOS = ("camera.png", "chelsea.png", "coffee.png")
FAMILY = FAMILIES["ssd_mobilenet_v2"]
VARIANTS = ("float32", "int8")
SCORE = 0.4
#: How many detections there are to compare.
LEAST = 30

#: The layers that make raw boxes, by their names in a graph with the detection operator.
LAYERS = ("concat", "Squeeze1")

#: Mistake -> (gate, code of the problem, words in what it says).
CAUGHT = {
    "anchors-shifted": ("parity", "decoding", "the boxes are elsewhere"),
    "scales-swapped": ("parity", "box-scales", "exchanged"),
}


@dataclass(frozen=True)
class Made:
    """The results of all stages, and the photos."""

    ran: dict[str, StageResult]
    stages: Stages
    photos: Path

    def bytes_of(self, step: str) -> bytes:
        return self.stages.model(self.ran[step])

    def gates(self, step: str) -> dict[str, dict[str, Any]]:
        found = self.stages.json(self.ran[step], "check.json")["gates"]
        return {gate["gate"]: gate for gate in found}

    def detector(self, variant: str) -> detector.Detector:
        return detector.Detector(self.bytes_of(f"annotate-{variant}"))


@pytest.fixture(scope="module")
def made(stages: Stages, images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("raw")
    photos, labels, config = laid_out(place, FAMILY.config, images_folder, PHOTOS)
    checkpoint = {"checkpoint": ("trained", "model")}
    norm = {"mean": [127.5] * 3, "std": [127.5] * 3}
    known = {"architecture": "ssd", "num_classes": len(CLASSES), "normalization": norm}
    raw = {"postprocess": "none"}
    own: dict[str, dict[str, Any]] = {"float32": raw, "int8": {**raw, "inference_io": "int8"}}
    limits = {"nms_score_threshold": SCORE}
    wanted = [
        Wanted(
            "trained",
            "make_checkpoint",
            {"seed": FAMILY.seed, "stand_out": 200},
            {"pipeline_config": config, "images": photos},
        ),
        Wanted("export", "export", {**raw, **limits}, checkpoint),
        Wanted("reference", "reference", limits, {**checkpoint, "images": photos}),
    ]
    for variant, more in own.items():
        graph = {"saved_model": ("export", "saved_model"), "images": photos}
        params = {"variant": variant, "feeding": FED, **more}
        wanted.append(Wanted(f"convert-{variant}", "convert", params, graph))
    graph = {"saved_model": ("export", "saved_model"), "images": photos}
    layers = {"variant": "int8", "feeding": FED, **raw, "float_layers": list(LAYERS)}
    decoded = {"saved_model": ("decoded", "saved_model")}
    wanted += [
        Wanted("layers", "convert", layers, graph),
        Wanted("decoded", "export", {}, checkpoint),
        Wanted("convert-decoded", "convert", {"variant": "float32"}, decoded),
        Wanted("outputs", "output_operations", {}, {"saved_model": ("export", "saved_model")}),
    ]
    for variant in VARIANTS:
        given = {
            "model": (f"convert-{variant}", "model.tflite"),
            "decoding": ("export", "decoding"),
            "label_map": labels,
        }
        params = {**known, "feeding": FED, **raw}
        wanted.append(Wanted(f"annotate-{variant}", "annotate", params, given))
    for kind in CAUGHT:
        given = {"model": ("annotate-float32", "model.tflite")}
        wanted.append(Wanted(kind, "sabotage_decoding", {"kind": kind}, given))
    for name in (*VARIANTS, *CAUGHT):
        variant = name if name in VARIANTS else "float32"
        given = {
            "model": (f"annotate-{name}" if name in VARIANTS else name, "model.tflite"),
            "images": photos,
            "label_map": labels,
            "source": ("reference", "detections.json"),
        }
        params = {**known, **own[variant], "variant": variant, **limits}
        wanted.append(Wanted(f"check-{name}", "check", params, given))
    checked = {
        "model": ("annotate-float32", "model.tflite"),
        "found": ("check-float32", "check.json"),
        "pixels": ("check-float32", "pixels"),
    }
    wanted.append(Wanted("library", "task_library", limits, checked))
    return Made(stages.run(*wanted), stages, photos)


def test_it_finds_what_the_model_s_own_post_processing_finds(made: Made) -> None:
    """Both suppress within each class: decoded, every number must be the same."""
    found = made.stages.json(made.ran["reference"], "detections.json")
    own = found["as_built"]
    assert own is not None  # by the authors' code, with the threshold that was asked for
    model, count = made.detector("float32"), 0
    for photo in PHOTOS:
        items = model.detect(pixels.load_rgb(made.photos / photo))
        pairs = matching.match(own[photo], items, 0.99)
        assert len(pairs) == len(own[photo]) == len(items), photo
        for pair in pairs:
            assert abs(own[photo][pair.left]["score"] - items[pair.right]["score"]) < 1e-4
        count += len(pairs)
    assert count >= LEAST


def test_the_gates_pass(made: Made) -> None:
    for variant in VARIANTS:
        gates = made.gates(f"check-{variant}")
        assert {gate["status"] for gate in gates.values()} == {"passed"}, gates
    assert "as_tflite" not in made.gates("check-float32")["parity"]["figures"]


@pytest.mark.parametrize("kind", CAUGHT)
def test_a_mistake_is_caught_by_name(made: Made, kind: str) -> None:
    gate, code, words = CAUGHT[kind]
    found = made.gates(f"check-{kind}")[gate]
    assert found["status"] == "failed"
    problem = {item["code"]: item for item in found["problems"]}.get(code)
    assert problem is not None, found
    assert words in " ".join(problem.values()), problem


def test_layers_have_the_names_that_they_have_with_post_processing(made: Made) -> None:
    """So that a recipe's float_layers are for both."""
    decoded = tflite_model.read(made.bytes_of("convert-decoded"))
    raw = tflite_model.read(made.bytes_of("convert-float32"))
    with_operator = float_layers.short_names(decoded, {})
    found = float_layers.short_names(raw, dict(made.ran["outputs"].facts))
    assert [*found] == [*with_operator, "strided_slice"]  # it leaves the background out
    assert set(LAYERS) <= set(with_operator)
    assert not set(LAYERS) <= set(float_layers.short_names(raw, {}))


def test_the_layers_of_raw_boxes_can_stay_in_float(made: Made) -> None:
    graph = tflite_model.read(made.bytes_of("layers")).graph
    types = {graph.tensors[op.outputs[0]].name: graph.tensors[op.outputs[0]].type
             for op in graph.operators}  # fmt: skip
    assert [types["concat"], types["StatefulPartitionedCall:1"]] == ["float32", "float32"]
    assert types["concat_1"] == "int8"


def test_outputs_are_raw_and_called_so(made: Made) -> None:
    facts = made.ran["export"].facts["decoding"]
    for variant, kind in (("float32", "float32"), ("int8", "int8")):
        data = made.bytes_of(f"annotate-{variant}")
        model, shown = tflite_model.read(data), inspect(data).as_json()
        assert not any(operator.custom for operator in model.graph.operators)
        assert [item["signature_name"] for item in shown["outputs"]] == ["raw_boxes", "raw_scores"]
        assert {item["type"] for item in shown["outputs"]} == {kind}
        assert shown["precision"]["kind"] == {"int8": "full integer"}.get(kind, kind)
        assert not shown["precision"]["float_islands"]
        assert [item["shape"] for item in shown["outputs"]] == [
            [1, facts["anchors"]["count"], 4],
            [1, facts["anchors"]["count"], len(CLASSES)],  # no background
        ]
        files = tflite_model.packed_files(data)
        assert json.loads(files[decoding.FILE]) == facts
        assert "decode" in shown["what_it_is"]
    assert facts["suppression"]["score_threshold"] == SCORE


def test_who_runs_them_and_who_does_not(made: Made, device_stages: Stages, tmp_path: Path) -> None:
    """LiteRT does, by both of its APIs; a file that does not load costs no other gate."""
    gate = made.gates("library")["runtime-task-library"]
    assert gate["status"] == "skipped"
    assert "not applicable" in gate["summary"]
    checked = {}
    for variant in VARIANTS:
        folder = made.stages.lay_out(made.ran[f"check-{variant}"], tmp_path / variant)
        checked[variant] = (made.bytes_of(f"annotate-{variant}"), folder)
    whole, _ = checked["float32"]
    broken = made.stages.lay_out(made.ran["check-float32"], tmp_path / "broken")
    checked["broken"] = (whole[: len(whole) // 2], broken)
    gates = device_stages.gates_in_runtimes(checked, {"nms_score_threshold": SCORE})
    for variant in VARIANTS:
        litert, mediapipe = (gates[variant, f"runtime-{name}"] for name in ("litert", "mediapipe"))
        assert litert["status"] == "passed", litert
        assert litert["figures"]["pairs"] == litert["figures"]["compiled_model"]["pairs"] > 0
        assert mediapipe["status"] == "skipped"
        assert "not applicable" in mediapipe["summary"]
    of_both = gates["broken", "runtime-litert"]["problems"]
    assert [problem["code"] for problem in of_both] == ["refused", "refused"]
    assert "Interpreter: " in of_both[0]["seen"] and "CompiledModel: " in of_both[1]["seen"]
    assert "damaged" in gates["broken", "runtime-litert"]["summary"]
    assert gates["broken", "runtime-mediapipe"]["problems"][0]["code"] == "refused"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_page_s_code_finds_the_same(made: Made, tmp_path: Path, variant: str) -> None:
    """Decoded by the code shown to people, which shares none with what decodes in the gates."""
    shown = published(tmp_path, variant, made.bytes_of(f"annotate-{variant}"))
    photo = made.photos / "coffee.png"
    lines = page_dist.run(litert_python(shown, 0.5), tmp_path / "dist" / "raw", photo)
    found = made.detector(variant).detect(pixels.load_rgb(photo), 0.5)
    assert len(found) >= 5
    expected = [[item["score"], *(item["box"][side] for side in (1, 0, 3, 2))] for item in found]
    printed = [[float(word) for word in line[1:]] for line in lines]
    np.testing.assert_allclose(sorted(printed), sorted(expected), atol=0.0011)
    assert sorted(line[0] for line in lines) == sorted(item["label"] for item in found)


def published(folder: Path, variant: str, data: bytes) -> Variant:
    """The file as the page's maker sees it."""
    place = folder / "dist" / "raw"
    place.mkdir(parents=True)
    (place / "raw.tflite").write_bytes(data)
    recorded = {"file": "raw.tflite", "sha256": page_dist.sha256(place / "raw.tflite")}
    page_dist.write(place / "conversion.json", {"artefacts": {variant: recorded}})
    (model,) = read_release(folder / "dist").models
    return model.variants[0]
