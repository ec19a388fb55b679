"""``kiln annotate`` in the sealed image: a bare artefact gets back what a build gave it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from places import FIXTURES
from support import Kiln, Sample

LABELS = FIXTURES / "toy_labels.pbtxt"


def inspected(kiln: Kiln, path: Path) -> dict[str, Any]:
    (event,) = kiln("inspect", path, "--json").ok().events
    return event


def described(found: dict[str, Any]) -> dict[str, Any]:
    """What a device goes by."""
    return {
        "labels": found["labels"]["lines"],
        "roles": [item["role"] for item in found["outputs"]],
        "boxes": found["metadata"]["box_format"],
        "groups": found["metadata"]["groups"],
        "normalization": found["metadata"]["normalization"],
    }


@pytest.fixture(scope="module")
def label_map(project: Path) -> Path:
    return project / "models" / "samples" / "ssd_mobilenet_v2_oidv4" / "label_map.pbtxt"


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_a_bare_sample(
    shared: Kiln, sample: Sample, label_map: Path, tmp_path: Path, variant: str
) -> None:
    bare = sample.output(f"convert-{variant}", "", tmp_path / "bare") / "model.tflite"
    assert inspected(shared, bare)["metadata"] is None
    made, options = tmp_path / "made.tflite", ["--name", "Again"]
    if variant == "float32":
        options += ["--mean", "127.5", "--std", "127.5", "--fit", "stretch"]
        options += ["--sampling", "corner"]
    said = shared("annotate", bare, "--label-map", label_map, "-o", made, *options).ok()
    assert "not compared with a source model" in said.out

    found, right = inspected(shared, made), inspected(shared, sample.artefact(variant))
    seen, wanted = described(found), described(right)
    norm, own = seen.pop("normalization"), wanted.pop("normalization")
    assert seen == wanted
    assert len(seen["labels"]) == 23
    # As it was built, where it was given.
    assert right["feeding"] is not None
    assert (found["feeding"] == right["feeding"]) == (variant == "float32")
    # A uint8 input says its own, rounded to a whole zero point.
    near = 0 if variant == "float32" else 0.5
    for key in ("mean", "std"):
        assert {abs(value - own[key][0]) <= near for value in norm[key]} == {True}
    assert (found["metadata"]["name"], found["metadata"]["proof"]) == ("Again", "none")
    assert (right["metadata"]["proof"], found["warnings"]) == (None, [])

    record = json.loads((tmp_path / "made.tflite.json").read_text("utf-8"))
    assert record["proof"] == "none"
    assert record["file"] == {
        "name": made.name, "sha256": found["sha256"], "size": found["size"],
    }  # fmt: skip
    assert (record["feeding"] or {}).get("from") == ("given" if near == 0 else None)
    assert record["roles"]["from"] == record["classes"]["from"] == "operator"
    assert record["normalization"]["from"] == ("given" if near == 0 else "quantisation")
    words = "same operators and weights; other shapes of 4 tensors;"
    assert words in shared("diff", bare, made).out
    shapes = [item["shape"] for item in found["outputs"]]
    assert shapes == [[1, 100], [1, 100, 4], [1], [1, 100]]
    assert [item["shape"] for item in right["outputs"]] == shapes


def test_a_graph_without_the_operator(shared: Kiln, tmp_path: Path) -> None:
    bare, made = FIXTURES / "toy_centernet.tflite", tmp_path / "made.tflite"
    options = ["--mean", "127.5", "--std", "127.5", "--label-map", LABELS, "-o", made]
    roles = "boxes=output_3,classes=output_2,scores=output_1,count=output_0"
    more = ["--roles", roles, "--score-threshold", "0.25", "--fit", "letterbox", "--fill", "0"]
    said = shared("annotate", bare, *options, *more).ok()
    assert "does not say how many classes" in said.err
    right = inspected(shared, FIXTURES / "toy_centernet_annotated.tflite")
    found = inspected(shared, made)
    assert described(found) == described(right)
    assert found["metadata"]["score_threshold"] == 0.25
    assert (found["feeding"]["fit"], found["feeding"]["fill"]) == ("letterbox", [0, 0, 0])
    # Again over it, by what the graph itself tells: the same, and the old metadata is gone.
    before = made.read_bytes()
    shared("annotate", made, *options).refused(2, "exists", "--force")
    said = shared("annotate", made, *options, "--force").ok()
    assert "metadata, feeding.json and labelmap.txt replaced" in said.err
    assert "is no longer said in it: --fit says it" in said.err
    again = inspected(shared, made)
    assert described(again) == described(right)
    assert again["metadata"]["score_threshold"] is None
    assert made.read_bytes() != before


def test_what_tflite_support_cannot_read(shared: Kiln, tmp_path: Path) -> None:
    """Its own complaint, and no traceback: the file is sound but for one name."""
    data = (FIXTURES / "toy_ssd.tflite").read_bytes()
    assert data.count(b"min_runtime_version") == 1
    odd, made = tmp_path / "odd.tflite", tmp_path / "made.tflite"
    odd.write_bytes(data.replace(b"min_runtime_version", b"\xe0in_runtime_version"))
    options = ["--mean", "127.5", "--std", "127.5", "--label-map", LABELS, "-o", made]
    shared("annotate", odd, *options).refused(14, "tflite-support cannot write", "'utf-8' codec")
    assert not made.exists()


def test_refused(shared: Kiln, sample: Sample, label_map: Path, tmp_path: Path) -> None:
    """As little as nothing is written, and no container starts (the engine's address is wrong)."""
    bare = sample.output("convert-float32", "", tmp_path / "bare") / "model.tflite"
    kiln = shared.but(engine="unix:///nonexistent")
    made = tmp_path / "made.tflite"
    options = ["-o", made, "--mean", "127.5", "--std", "127.5", "--label-map"]
    kiln("annotate", bare, *options, LABELS).refused(16, "up to 3", "scores 23")
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(bare.read_bytes()[:100_000])
    kiln("annotate", broken, *options, label_map).refused(14, "cannot be read")
    kiln("annotate", sample.artefact("float32"), *options, label_map).refused(
        2, "holds metadata, feeding.json and labelmap.txt already", "--force"
    )
    assert not made.exists()
