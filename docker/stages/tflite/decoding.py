"""Describe how raw boxes and scores become detections. Standard library only.

A graph without post-processing outputs, for each *anchor* (a box at a fixed place), how the object
there differs from it, and the score of each class. To decode that, a program needs the anchors and
a few numbers. Both travel inside the ``.tflite``: :data:`FILE` is JSON, and names the file of the
anchors, which are plain float32: they are exact, and a third of the size of the same in JSON.
:mod:`stages.detect.raw_detections` carries the description out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

FILE, ANCHORS_FILE = "decoding.json", "anchors.bin"
"""Names of the associated files of the output of boxes."""

TFLITE, NONE = "tflite", "none"
POSTPROCESSING = (TFLITE, NONE)
"""What a graph ends in: TFLite's detection operator, or its raw boxes and scores."""

CLASS, IMAGE = "class", "image"
"""Within what boxes are suppressed: those of one class, or all; then each is of its best class."""

ANCHOR_FIELDS = ("ycenter", "xcenter", "height", "width")
SCALES = ("y", "x", "height", "width")

_FORMAT = 1
_LARGEST = 1 << 16  # bytes of FILE: it has 900
_BYTES_PER_ANCHOR = 16  # four numbers in float32
_MOST = 1_000_000  # of anything that is counted, and the largest number; models are far below
_LAYOUT = {"fields": list(ANCHOR_FIELDS), "type": "float32", "byte_order": "little-endian"}
_ENCODING = {
    "ycenter": "raw[0] / scales.y * anchor.height + anchor.ycenter",
    "xcenter": "raw[1] / scales.x * anchor.width + anchor.xcenter",
    "height": "exp(raw[2] / scales.height) * anchor.height",
    "width": "exp(raw[3] / scales.width) * anchor.width",
}
_BOXES = {"unit": "fraction of the input", "origin": "top left"}
_FIELDS = {
    "format", "anchors", "box_scales", "encoding", "boxes", "score_converter", "classes",
    "suppression",
}  # fmt: skip
_RULES = {
    "within",
    "score_threshold",
    "iou_threshold",
    "max_detections_per_class",
    "max_detections",
}


@dataclass(frozen=True)
class Suppression:
    """How overlapping boxes are suppressed, best score first.

    Args:
        score_threshold: boxes with a lower score of a class are none of it; None: there is no
            threshold.
        iou_threshold: of two boxes that overlap by more, only the one with the higher score stays.
        max_detections_per_class: how many of a class stay at most.
        max_detections: how many stay at most, of all classes.
        within: :data:`CLASS` or :data:`IMAGE`.
    """

    score_threshold: Optional[float]
    iou_threshold: float
    max_detections_per_class: int
    max_detections: int
    within: str = CLASS


@dataclass(frozen=True)
class Decoding:
    """How raw boxes and scores become detections.

    Args:
        anchors: the content of :data:`ANCHORS_FILE`: for each box :data:`ANCHOR_FIELDS`, fractions
            of the input, as little-endian float32.
        scales: by what encodings were multiplied, in the order of :data:`SCALES`.
        score_converter: what the graph has made its scores with (``SIGMOID``, ``SOFTMAX``, …).
        classes: how many there are; none of them is the background.
        suppression: of overlapping boxes.
    """

    anchors: bytes
    scales: tuple[float, float, float, float]
    score_converter: str
    classes: int
    suppression: Suppression

    @property
    def count(self) -> int:
        """The number of anchors."""
        return len(self.anchors) // _BYTES_PER_ANCHOR

    def as_fact(self) -> dict[str, Any]:
        """Return plain data, as :data:`FILE` holds it: everything but the anchors themselves."""
        return {
            "format": _FORMAT,
            "anchors": {
                "file": ANCHORS_FILE,
                "count": self.count,
                "sha256": hashlib.sha256(self.anchors).hexdigest(),
                **_LAYOUT,
            },
            "box_scales": dict(zip(SCALES, self.scales)),
            "encoding": _ENCODING,
            "boxes": _BOXES,
            "score_converter": self.score_converter,
            "classes": self.classes,
            "suppression": {
                "within": self.suppression.within,
                "score_threshold": self.suppression.score_threshold,
                "iou_threshold": self.suppression.iou_threshold,
                "max_detections_per_class": self.suppression.max_detections_per_class,
                "max_detections": self.suppression.max_detections,
            },
        }

    def as_files(self) -> dict[str, bytes]:
        """Return the contents of :data:`FILE` and :data:`ANCHORS_FILE`, by name."""
        text = json.dumps(self.as_fact(), indent=1, sort_keys=True, allow_nan=False)
        return {FILE: f"{text}\n".encode("ascii"), ANCHORS_FILE: self.anchors}


def parse(files: Mapping[str, bytes]) -> Decoding:
    """Read :data:`FILE` and the anchors it names among the packed ``files``.

    Raises:
        ValueError: there is no such description, or the anchors are not those that it is about.
    """
    if FILE not in files:
        raise ValueError(f"there is no {FILE}")
    if len(files[FILE]) > _LARGEST:
        raise ValueError(f"{FILE} is larger than {_LARGEST:,} bytes")
    try:
        value = json.loads(files[FILE].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{FILE} is not JSON") from error
    if not isinstance(value, dict) or set(value) != _FIELDS:
        raise ValueError(f"{FILE} has not the fields {', '.join(sorted(_FIELDS))}")
    if (value["format"], value["encoding"], value["boxes"]) != (_FORMAT, _ENCODING, _BOXES):
        raise ValueError(f"{FILE} describes another way of decoding than is known")
    anchors = _anchors(value["anchors"], files)
    scales = value["box_scales"]
    if not _is_object(scales, set(SCALES)) or not all(
        _is_number(scales[name]) and scales[name] > 0 for name in SCALES
    ):
        raise ValueError(f"{FILE} has not four positive scales of boxes: {', '.join(SCALES)}")
    classes, converter = value["classes"], value["score_converter"]
    if not _is_count(classes) or not isinstance(converter, str):
        raise ValueError(f"{FILE} does not say how many classes there are, or how scores are made")
    y, x, height, width = (float(scales[name]) for name in SCALES)
    return Decoding(
        anchors, (y, x, height, width), converter, classes, _suppression(value["suppression"])
    )


def _anchors(value: Any, files: Mapping[str, bytes]) -> bytes:
    """Return the anchors, after a comparison with what is said of them."""
    if not _is_object(value, {"file", "count", "sha256", *_LAYOUT}) or any(
        value[name] != said for name, said in _LAYOUT.items()
    ):
        raise ValueError(f"{FILE} describes anchors of another form than is known")
    content = files.get(value["file"]) if isinstance(value["file"], str) else None
    if content is None:
        raise ValueError(f"the file of the anchors, {value['file']!r}, is not there")
    if not _is_count(value["count"]) or len(content) != _BYTES_PER_ANCHOR * value["count"]:
        raise ValueError(f"{value['file']} does not hold {value['count']} anchors")
    if hashlib.sha256(content).hexdigest() != value["sha256"]:
        raise ValueError(f"{value['file']} does not hold the anchors that {FILE} is about")
    return content


def _suppression(value: Any) -> Suppression:
    known = _is_object(value, _RULES) and value["within"] in (CLASS, IMAGE)
    least = value["score_threshold"] if known else None
    if (
        not known
        or not (least is None or _is_number(least))
        or not _is_number(value["iou_threshold"])
        or not _is_count(value["max_detections_per_class"])
        or not _is_count(value["max_detections"])
    ):
        raise ValueError(f"{FILE} describes another suppression of boxes than is known")
    return Suppression(
        None if least is None else float(least),
        float(value["iou_threshold"]),
        value["max_detections_per_class"],
        value["max_detections"],
        value["within"],
    )


def _is_object(value: Any, names: set[str]) -> bool:
    return isinstance(value, dict) and set(value) == names


def _is_number(value: Any) -> bool:
    # Comparisons with NaN are false.
    return type(value) in (int, float) and -_MOST <= value <= _MOST


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= _MOST
