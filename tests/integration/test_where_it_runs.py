"""Every variant of every sample wherever it may be used, against the image's own interpreter.

docs/runtimes.md says what runs where; its table is held against what is found here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from places import ROOT
from support import SAMPLES, VARIANTS, Stages, Wanted

from stages.files import pixels
from stages.gates import runtimes
from stages.steps import compare
from stages.tflite import tflite_meta, tflite_model

#: Of a detection that counts; the samples that know shapes see noise of up to 0.3 in photographs.
THRESHOLD = 0.4
#: Two with objects of the SSD sample, one picture without colours, one with noise for the others.
IMAGES = ("astronaut.png", "camera.png", "chelsea.png", "rocket.jpg")

ARCHITECTURES = dict(zip(SAMPLES, ("SSD", "CenterNet", "EfficientDet-Lite"), strict=True))
BY_CHANNEL = "normalised by channel"
CASES = [(name, variant) for name in (*ARCHITECTURES.values(), BY_CHANNEL) for variant in VARIANTS]

Detections = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def models(samples: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """By architecture and variant; the SSD once more, with another mean for one channel."""
    found = {
        ARCHITECTURES[name]: {variant: sample.artefact(variant) for variant in VARIANTS}
        for name, sample in samples.items()
    }
    place = tmp_path_factory.mktemp("by-channel")
    found[BY_CHANNEL] = {}
    for variant, path in found["SSD"].items():
        found[BY_CHANNEL][variant] = place / path.name
        found[BY_CHANNEL][variant].write_bytes(by_channel(path.read_bytes()))
    return found


def by_channel(data: bytes) -> bytes:
    """The same model, whose metadata declares another mean for its third channel."""
    alike = struct.pack("<3f", 127.5, 127.5, 127.5)
    for start in (at for at in range(len(data)) if data.startswith(alike, at)):
        changed = data[: start + 8] + struct.pack("<f", 126.5) + data[start + 12 :]
        metadata = tflite_meta.read(tflite_model.read(changed))
        assert metadata is not None
        if metadata.inputs[0].mean == (127.5, 127.5, 126.5):
            return changed
    raise AssertionError("the metadata has no means to change")


def input_size(path: Path) -> tuple[int, int]:
    """Height and width."""
    graph = tflite_model.read(path.read_bytes()).graph
    _, height, width, _ = graph.tensors[graph.inputs[0]].shape
    return height, width


@pytest.fixture(scope="module")
def images(
    models: dict[str, dict[str, Path]],
    images_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Path]]:
    """By architecture: of the input's size, so that ways to feed a model are not compared."""
    found = {}
    for name, files in models.items():
        folder = tmp_path_factory.mktemp("images")
        size = input_size(files["float32"])
        for image in IMAGES:
            resized = pixels.resize_bilinear(pixels.load_rgb(images_folder / image), *size)
            Image.fromarray(pixels.to_uint8(resized)).save(folder / f"{Path(image).stem}.png")
        found[name] = {path.name: path for path in sorted(folder.iterdir())}
    return found


@pytest.fixture(scope="module")
def expected(
    models: dict[str, dict[str, Path]],
    images: dict[str, dict[str, Path]],
    stages: Stages,
    stages_for: Callable[[str], Stages],
) -> dict[str, dict[str, Detections]]:
    """By architecture and variant: what TensorFlow finds, in the image that made the artefact."""
    images_of = {name: stages_for(sample) for sample, name in ARCHITECTURES.items()}
    found = {}
    for name, files in models.items():
        runner = images_of.get(name, stages)
        folder = next(iter(images[name].values())).parent
        ran = runner.run(
            *(
                Wanted(
                    variant,
                    "detect",
                    {"score_threshold": THRESHOLD / 2},
                    {"model": path, "images": folder},
                )
                for variant, path in files.items()
            )
        )
        found[name] = {
            variant: runner.json(ran[variant], "detections.json")["images"] for variant in files
        }
    # A comparison with nothing proves nothing.
    for name, variants in found.items():
        for variant, by_image in variants.items():
            sure = [item for items in by_image.values() for item in items]
            assert sum(item["score"] >= THRESHOLD for item in sure) >= 2, (name, variant)
    return found


@pytest.fixture(scope="module")
def pictures(
    images: dict[str, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """By architecture: a folder with the images as ``check`` leaves what it fed."""
    import numpy as np

    found = {}
    for name, files in images.items():
        found[name] = tmp_path_factory.mktemp("pictures")
        for image, path in files.items():
            np.save(found[name] / f"{image}.npy", pixels.load_rgb(path))
    return found


@pytest.fixture(scope="module")
def gates(
    models: dict[str, dict[str, Path]],
    pictures: dict[str, Path],
    expected: dict[str, dict[str, Detections]],
    device_stages: Stages,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """By architecture and variant, then by name: the gates of today's runtimes."""
    wanted, by_channel = {}, None
    for number, (name, variant) in enumerate(CASES):
        place = tmp_path_factory.mktemp("found") / "check.json"
        place.write_text(json.dumps({"rounded": expected[name][variant]}))
        given = {"model": models[name][variant], "found": place, "pixels": pictures[name]}
        params = {"score_threshold": THRESHOLD}
        for stage in ("litert", "mediapipe"):
            case = Wanted(f"{stage}-{number}", stage, params, given)
            wanted[name, variant, f"runtime-{stage}"] = case
        if (name, variant) == (BY_CHANNEL, "float32"):
            by_channel = Wanted("unruled", "mediapipe_unruled", params, given)
    assert by_channel is not None
    wanted[BY_CHANNEL, "float32", "unruled"] = by_channel
    ran = device_stages.run(*wanted.values())
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {case: {} for case in CASES}
    for (name, variant, gate), item in wanted.items():
        (found[name, variant][gate],) = device_stages.json(ran[item.id], "check.json")["gates"]
    return found


@pytest.fixture(scope="module")
def task_library(
    models: dict[str, dict[str, Path]], pictures: dict[str, Path], stages: Stages
) -> dict[tuple[str, str], tuple[Any, Detections]]:
    """By architecture and variant: the Task Library's refusal (None) and what it finds."""
    wanted = []
    for name, files in models.items():
        wanted += [
            Wanted(
                f"{list(models).index(name)}-{variant}",
                "library_detections",
                {},
                {"model": path, "pictures": pictures[name]},
            )
            for variant, path in files.items()
        ]
    ran = stages.run(*wanted)
    found = {}
    for index, (name, files) in enumerate(models.items()):
        for variant in files:
            result = ran[f"{index}-{variant}"]
            refused = result.facts["refused"]
            answer = {} if refused else stages.json(result, "detections.json")["images"]
            found[name, variant] = (refused, answer)
    return found


@pytest.mark.parametrize(("architecture", "variant"), CASES)
def test_litert_finds_the_same(gates: Any, architecture: str, variant: str) -> None:
    gate = gates[architecture, variant]["runtime-litert"]
    print(gate["summary"])
    assert gate["status"] == "passed", gate
    assert gate["figures"]["pairs"] == gate["figures"]["compiled_model"]["pairs"] >= 2


@pytest.mark.parametrize(("architecture", "variant"), CASES)
def test_mediapipe_finds_the_same_or_says_why_not(
    gates: Any, architecture: str, variant: str
) -> None:
    gate = gates[architecture, variant]["runtime-mediapipe"]
    print(gate["summary"])
    if architecture == BY_CHANNEL and variant != "int8":
        assert gate["status"] == "skipped" and "normalises all colour channels" in gate["summary"]
        return
    assert gate["status"] == "passed", gate
    assert gate["figures"]["pairs"] >= 2


def test_mediapipe_still_lacks_what_the_rule_says(gates: Any) -> None:
    """Without the rule the runtime refuses; once it no longer does, the rule has to go."""
    gate = gates[BY_CHANNEL, "float32"]["unruled"]
    assert gate["problems"][0]["code"] == "refused"
    assert "Per-channel image normalization is not available" in gate["summary"]


def test_what_each_variant_computes_in(models: dict[str, dict[str, Path]]) -> None:
    """Which bounds hold for it."""
    own = {"dynamic": "hybrid", "int8": "integer"}
    for files in models.values():
        for variant, path in files.items():
            assert runtimes.arithmetic(path.read_bytes()) == own.get(variant, "float"), path


@pytest.mark.parametrize(("architecture", "variant"), CASES)
def test_the_task_library_finds_the_same(
    task_library: Any,
    expected: dict[str, dict[str, Detections]],
    architecture: str,
    variant: str,
) -> None:
    refused, found = task_library[architecture, variant]
    assert refused is None
    limits = {"dynamic": runtimes.HYBRID, "int8": runtimes.INTEGER}.get(
        variant, runtimes.ROUNDED_INPUT
    )
    ious = []
    for image, items in expected[architecture][variant].items():
        result = compare.compare(items, found[image], THRESHOLD)
        ious += result["ious"]
        assert max(result["score_differences"], default=0.0) <= limits.score, image
        for item in (*result["missed"], *result["extra"]):
            assert item["score"] < THRESHOLD + limits.score, (image, item)
    assert len(ious) >= 2 and sum(ious) / len(ious) >= limits.mean_iou


def test_the_table_in_the_documents(gates: Any, task_library: Any, expected: Any) -> None:
    text = (ROOT / "docs" / "runtimes.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    said = {
        (cells[0], cells[1]): cells[2:]
        for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
        if cells[1] in VARIANTS
    }
    found = {}
    for name, variant in CASES:
        litert, mediapipe = (
            gates[name, variant][gate]["status"] == "passed"
            for gate in (runtimes.LITERT, runtimes.MEDIAPIPE)
        )
        runs = (variant in expected[name], task_library[name, variant][0] is None)
        found[name, variant] = ["yes" if item else "no" for item in (*runs, litert, mediapipe)]
    assert said == found
