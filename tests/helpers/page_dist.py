"""A ``dist`` folder as a checked build leaves it: real artefacts, real detections.

The checks themselves belong to the build; here only what they find is written down, by running
every artefact by its own metadata (:mod:`stages.detect.detector`). The float32 file stands in for
the source model.

    python tests/helpers/page_dist.py DIST IMAGES [IMAGES]   # DIST is changed: give it a copy
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import feeding_files
from PIL import Image
from places import FIXTURES

from stages.detect import detector, matching
from stages.files import pixels

SCORE = 0.3
PREVIEW_SIDE = 640

TOY_VARIANTS = {"float32": "toy_ssd_annotated", "int8": "toy_ssd_uint8_annotated"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")


def change(path: Path, **fields: Any) -> None:
    """Replace top-level fields of a JSON file."""
    write(path, {**read(path), **fields})


def add_checks(folder: Path, images: Iterable[Path]) -> dict[str, Any]:
    """Write ``checks.json`` and ``previews/`` into a model's folder; returns the former."""
    conversion = read(folder / "conversion.json")
    pictures = {path.name: path for path in images}
    (folder / "previews").mkdir(exist_ok=True)
    found = {
        variant: detections(folder / item["file"], pictures)
        for variant, item in conversion["artefacts"].items()
    }
    source = found["float32"]
    checks = {
        "schema": 1,
        "model": conversion["model"],
        "score_threshold": SCORE,
        "images": {name: preview(path, folder) for name, path in pictures.items()},
        "source": {
            "checkpoint": "ckpt-0",
            "runtime": "tensorflow 2.15.1",
            "detections": source,
        },
        "variants": {
            variant: {
                "file": item["file"],
                "sha256": sha256(folder / item["file"]),
                "passed": True,
                "gates": gates(source, found[variant], variant),
                "detections": found[variant],
            }
            for variant, item in conversion["artefacts"].items()
        },
    }
    write(folder / "checks.json", checks)
    return checks


def detections(path: Path, pictures: Mapping[str, Path]) -> dict[str, Any]:
    model = detector.load(path)
    return {
        name: model.detect(pixels.load_rgb(place), SCORE / 2) for name, place in pictures.items()
    }


def preview(path: Path, folder: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        small = image.convert("RGB")
        size = small.size
        small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        small.save(folder / "previews" / f"{path.name}.jpg", "JPEG", quality=80)
    return {
        "sha256": sha256(path),
        "height": size[1],
        "width": size[0],
        "preview": f"previews/{path.name}.jpg",
    }


def gates(source: dict[str, Any], found: dict[str, Any], variant: str) -> list[dict[str, Any]]:
    """Gates as a build reports them; the parity figures are measured."""
    pairs, missed, extra, agreed = [], 0, 0, []
    for name, left in source.items():
        matched = matching.match(left, found[name])
        pairs += [
            (pair.iou, abs(left[pair.left]["score"] - found[name][pair.right]["score"]))
            for pair in matched
            if left[pair.left]["score"] >= SCORE
        ]
        used = {pair.left for pair in matched}, {pair.right for pair in matched}
        missed += sum(i not in used[0] and d["score"] >= SCORE for i, d in enumerate(left))
        extra += sum(i not in used[1] and d["score"] >= SCORE for i, d in enumerate(found[name]))
        agreed.append(matching.agreement(left, found[name]))
    parity = {
        "pairs": len(pairs),
        "min_iou": min((iou for iou, _ in pairs), default=None),
        "mean_iou": sum(iou for iou, _ in pairs) / len(pairs) if pairs else None,
        "max_score_difference": max((score for _, score in pairs), default=None),
        "missed": missed,
        "extra": extra,
        "agreement": sum(agreed) / len(agreed) if agreed else None,
    }
    said = {
        "structure": "one image input, four outputs, post-processing inside",
        "parity": f"{len(pairs)} detections compared, {missed} missed, {extra} extra",
        "normalization": "the declared normalisation fits best of five",
        "labels": "the label file has a line for every class",
        "trained": "the scores are those of trained heads",
        "runtime-tensorflow": "TensorFlow 2.15.1 runs it",
        "runtime-task-library": "Task Library 0.4.4 runs it",
        "runtime-litert": "LiteRT 2.3.0 runs it, same detections",
        "runtime-mediapipe": "MediaPipe feeds float32 and uint8 only",
    }
    return [
        {
            "gate": gate,
            "status": "skipped" if gate == "runtime-mediapipe" else "passed",
            "summary": summary,
            "problems": [],
            "figures": parity if gate == "parity" else {},
        }
        for gate, summary in said.items()
    ]


def toy_dist(dist: Path, model: str = "toy", title: str = "A toy of three colours") -> Path:
    """A release of the toy detectors in ``dist/<model>``, without checks; returns that folder."""
    folder = dist / model
    folder.mkdir(parents=True)
    artefacts = {}
    for variant, name in TOY_VARIANTS.items():
        path = folder / f"{model}_{variant}.tflite"
        shutil.copy(FIXTURES / f"{name}.tflite", path)
        artefacts[variant] = {
            "file": path.name,
            "sha256": sha256(path),
            "size": path.stat().st_size,
        }
    (folder / "labelmap.txt").write_text("red\ngreen\nblue\n", "utf-8")
    facts = {"untrained": [], "max_detections": 8}
    conversion = {
        "schema": 1,
        "kiln": "0.1.0",
        "model": model,
        "title": title,
        "licence": "Apache-2.0",
        "profile": "default",
        "default_variant": "int8",
        "untrained": [],
        "recipe": {"sha256": "1" * 64},
        "source": {"kind": "stage", "stage": "toy", "inputs": {"weights": "2" * 64}},
        "image": {"name": "odapi", "identity": f"sha256:{'3' * 64}", "layer": "4" * 64},
        "stage_code": "5" * 64,
        "artefacts": artefacts,
        "stages": {"export": {"stage": "export", "facts": facts, "params": {}, "seconds": 1.0}},
    }
    write(folder / "conversion.json", conversion)
    (folder / "model.sig").write_text("{}\n", "utf-8")
    key = (
        "-----BEGIN PUBLIC KEY-----\n"
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEc3EkVnQRckCT4cOA6QdJ3bpEuD/X\n"
        "sIbKULnzSzpMtrIqpmAX38qjLJuz1EnHYXoKcQv6B/oBaQ+kypYSgb8Gqw==\n"
        "-----END PUBLIC KEY-----\n"
    )
    (dist / "kiln.pub").write_text(key, "utf-8")
    return folder


def state_feeding(folder: Path, feeding: Mapping[str, Any] | bytes) -> None:
    """Put ``feeding.json`` into every artefact of a model's folder; call it before the checks."""
    record = read(folder / "conversion.json")
    for item in record["artefacts"].values():
        path = folder / item["file"]
        path.write_bytes(feeding_files.with_feeding(path.read_bytes(), feeding))
        item.update(sha256=sha256(path), size=path.stat().st_size)
    write(folder / "conversion.json", record)


def toy_images(folder: Path) -> list[Path]:
    """Two pictures that the toys find something in, and one in which they find nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    colours = {
        "quarters.png": ("grey", "red", "blue", "lime"),
        "grey.png": ("grey",) * 4,
        "wide.png": ("red", "grey", "grey", "blue"),
    }
    made = []
    for name, quarters in colours.items():
        width, height = (96, 48) if name == "wide.png" else (64, 64)
        image = Image.new("RGB", (width, height))
        for index, colour in enumerate(quarters):
            row, column = divmod(index, 2)
            left, top = column * width // 2, row * height // 2
            image.paste(colour, (left, top, left + width // 2, top + height // 2))
        image.save(folder / name)
        made.append(folder / name)
    return made


def main() -> None:
    dist, *folders = map(Path, sys.argv[1:])
    sets = [pixels.list_images(folder) for folder in folders]
    for record in sorted(dist.glob("*/conversion.json")):
        calibration = read(record)["source"]["calibration_images"]
        images = next(s for s in sets if {path.name for path in s} == set(calibration))
        add_checks(record.parent, images)
        print(record.parent.name)


if __name__ == "__main__":
    main()


def run(
    code: str, folder: Path, image: Path, python: Path | str = sys.executable
) -> list[list[str]]:
    """What a snippet prints when run beside the artefact, word by word."""
    ended = subprocess.run(
        [str(python), "-c", code, str(image)], cwd=folder, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return [line.split(" ") for line in ended.stdout.splitlines()]
