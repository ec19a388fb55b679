"""An artefact, run by its own metadata, against the checkpoint it came from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import VARIANTS, Stages, Wanted, iou

if sys.version_info >= (3, 11):
    import tomllib as toml
else:
    import tomli as toml

#: Boxes below this score are background noise: hundreds of near-equal ones, of which another
#: rounding keeps another hundred. 0.2 is well above the noise of these images (0.1) and well
#: below every object that is really there.
SCORE = 0.2

Detections = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def expected(images_folder: Path) -> dict[str, set[str]]:
    """By image: the labels that count as right for the best detection; none: nothing to find."""
    table = toml.loads((images_folder / "images.toml").read_text("utf-8"))
    found = {image["file"]: set(image["expected"]) for image in table["image"]}
    assert {"Person", "Cat", "Coffee cup"} <= set.union(*found.values())
    return found


@pytest.fixture(scope="module")
def results(sample: Any, stages: Stages, images_folder: Path) -> dict[str, Detections]:
    """By source: ``reference`` (the checkpoint) and each variant; by image: what is found."""
    model = sample.output("checkpoint", "model/", sample.kiln.home / "checkpoint")
    images = {"images": images_folder}
    wanted = [Wanted("reference", "reference", {}, {"checkpoint": model, **images})]
    wanted += [
        Wanted(variant, "detect", {}, {"model": sample.artefact(variant), **images})
        for variant in VARIANTS
    ]
    ran = stages.run(*wanted)
    found = {name: stages.json(ran[name], "detections.json") for name in ran}
    # The artefact's operator suppresses across classes; so does this list of the checkpoint's.
    return {
        "own": found["reference"]["images"],
        "reference": found["reference"]["as_tflite"],
        **{variant: found[variant]["images"] for variant in VARIANTS},
    }


def _compare(reference: Detections, found: Detections) -> tuple[int, float, float]:
    """(boxes compared, smallest IoU, largest score difference); every box must have its match."""
    assert found.keys() == reference.keys()
    count, overlap, difference = 0, 1.0, 0.0
    for left, right in ((reference, found), (found, reference)):
        for name, items in left.items():
            for item in items:
                # A match may lie just below the threshold: look for it everywhere.
                if item["score"] < SCORE + 1e-3:
                    continue
                same = [o for o in right[name] if o["class_id"] == item["class_id"]]
                best = max(same, key=lambda o: iou(item["box"], o["box"]), default=None)
                assert best is not None, f"{name}: no match for {item}"
                count += 1
                overlap = min(overlap, iou(item["box"], best["box"]))
                difference = max(difference, abs(item["score"] - best["score"]))
    return count, overlap, difference


def test_float32_is_the_checkpoint(results: dict[str, Detections]) -> None:
    count, overlap, difference = _compare(results["reference"], results["float32"])
    print(f"float32: {count} boxes, IoU >= {overlap:.6f}, score difference <= {difference:.2g}")
    assert count >= 6
    assert difference <= 1e-4
    assert overlap >= 0.999


@pytest.mark.parametrize(("variant", "least"), [("float16", 0.99), ("dynamic", 0.95)])
def test_smaller_variants_agree(results: dict[str, Detections], variant: str, least: float) -> None:
    # A quantised score may cross the threshold from one side or the other: only boxes that the
    # checkpoint is sure of (or this variant is) must have their match.
    count, overlap, difference = _compare(results["reference"], results[variant])
    print(f"{variant}: {count} boxes, IoU >= {overlap:.6f}, score difference <= {difference:.2g}")
    assert count >= 6
    assert overlap >= least
    assert difference <= 0.1


def test_int8_finds_the_same_top_objects(
    results: dict[str, Detections], expected: dict[str, set[str]]
) -> None:
    compared = 0
    for name, items in results["reference"].items():
        best = items[0]
        if best["score"] < SCORE:
            assert not expected[name]  # nothing in this image that the model knows
            continue
        compared += 1
        top = results["int8"][name][0]
        assert top["class_id"] == best["class_id"], f"{name}: {top}, not {best}"
        assert iou(top["box"], best["box"]) >= 0.8, f"{name}: {top}, not {best}"
    assert compared == sum(bool(right) for right in expected.values()) >= 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_objects_have_their_names(
    results: dict[str, Detections], expected: dict[str, set[str]], variant: str
) -> None:
    assert results[variant].keys() == expected.keys()
    for name, right in expected.items():
        best = results[variant][name][0]
        if right:
            assert best["label"] in right, f"{name}: {best}"
            assert best["score"] > 0.35, f"{name}: {best}"
        else:
            assert best["score"] < SCORE, f"{name}: {best}"


def test_the_operators_rule_hides_no_difference(
    results: dict[str, Detections], expected: dict[str, set[str]]
) -> None:
    """The checkpoint's own post-processing (not the operator's rule) finds the same objects."""
    for name in (name for name, right in expected.items() if right):
        own, found = results["own"][name][0], results["float32"][name][0]
        assert own["class_id"] == found["class_id"]
        assert abs(own["score"] - found["score"]) <= 1e-4
        clipped = [min(max(side, 0.0), 1.0) for side in found["box"]]
        assert iou(own["box"], clipped) >= 0.999


@pytest.fixture(scope="module")
def litert(sample: Any, images_folder: Path) -> Callable[[str], Detections]:
    """Runs an artefact outside of any image, in today's LiteRT, by its own metadata."""
    pytest.importorskip("ai_edge_litert")
    from stages.detect import detector
    from stages.files import pixels

    def run(variant: str) -> Detections:
        model = detector.load(sample.artefact(variant))
        assert model.runtime.startswith("ai_edge_litert")
        return {
            path.name: model.detect(pixels.load_rgb(path))
            for path in pixels.list_images(images_folder)
        }

    return run


def test_float32_in_litert(
    results: dict[str, Detections], litert: Callable[[str], Detections]
) -> None:
    count, overlap, difference = _compare(results["reference"], litert("float32"))
    print(f"LiteRT: {count} boxes, IoU >= {overlap:.6f}, score difference <= {difference:.2g}")
    assert count >= 6
    assert difference <= 1e-4
    assert overlap >= 0.999


def test_int8_in_litert(
    results: dict[str, Detections],
    litert: Callable[[str], Detections],
    expected: dict[str, set[str]],
) -> None:
    found = litert("int8")
    for name in (name for name, right in expected.items() if right):
        assert found[name][0]["label"] in expected[name]
        best = results["reference"][name][0]
        assert iou(found[name][0]["box"], best["box"]) >= 0.8
