"""Detect objects with MediaPipe Tasks, as apps do.

MediaPipe reads the metadata itself, so it also checks them against an independent reader.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from stages.tflite import output_roles, tflite_meta, tflite_model

ABSENT = ("cv2", "matplotlib", "matplotlib.pyplot")
"""Modules that it imports to draw landmarks: not in the image (docker/device/overrides.txt)."""

_ENLARGED = 2048  # pixels: size of the picture, see _enlarged


class RefusedError(Exception):
    """It does not accept the model; the message is its own."""


def load() -> Any:
    """Import MediaPipe's package."""
    for name in ABSENT:
        sys.modules.setdefault(name, ModuleType(name))
    import mediapipe
    import mediapipe.tasks.python.vision

    return mediapipe


def version() -> str:
    """Return its version."""
    from importlib import metadata

    return metadata.version("mediapipe")


def why_not(data: bytes) -> str:
    """Return why it cannot run a sound artefact, or "" if it should.

    The rules come from experiments with MediaPipe 1.2; any other refusal is a failure. Damaged
    files are not covered here.
    """
    try:
        model = tflite_model.read(data)
        metadata = tflite_meta.read(model)
    except ValueError:
        return ""
    if metadata is None or not metadata.inputs or not model.graph.inputs:
        return ""
    if len(model.graph.outputs) == len(output_roles.RAW_ROLES):
        return (
            "not applicable: it reads boxes, classes, scores and count, and this file has raw boxes"
            " and raw scores"
        )
    image, tensor = metadata.inputs[0], model.graph.tensors[model.graph.inputs[0]]
    if tensor.type == "int8":
        return "MediaPipe feeds float32 and uint8 only; an int8 input is for microcontrollers"
    if tensor.type == "float32" and max(len(set(image.mean)), len(set(image.std))) > 1:
        return (
            "MediaPipe normalises all colour channels alike and supports nothing else; "
            f"this float input needs mean {list(image.mean)} and std {list(image.std)}"
        )
    return ""


def detect(data: bytes, pictures: dict[str, Path], score_threshold: float) -> dict[str, Any]:
    """Detect the objects in pictures; detections by name, as of :mod:`stages.detect.detector`.

    Args:
        data: the whole ``.tflite`` file.
        pictures: ``.npy`` files: uint8 [height, width, 3] of the model's input size.
        score_threshold: results below it are left out.

    Raises:
        RefusedError: it does not accept the model.
        ValueError: a picture is of another size.
    """
    import numpy as np

    mp = load()
    from mediapipe.tasks.python.core.base_options import BaseOptions
    from mediapipe.tasks.python.vision import ObjectDetector, ObjectDetectorOptions

    model = tflite_model.read(data)
    metadata = tflite_meta.read(model)
    labels: list[str] = []
    with contextlib.suppress(ValueError):  # leave the message to MediaPipe
        labels = tflite_meta.labels(data, metadata) if metadata else []
    _, height, width, _ = model.graph.tensors[model.graph.inputs[0]].shape
    try:
        detector = ObjectDetector.create_from_options(
            ObjectDetectorOptions(
                base_options=BaseOptions(model_asset_buffer=data),
                score_threshold=score_threshold,
                max_results=-1,
            )
        )
    except Exception as error:  # one of many classes, by its reason
        raise RefusedError(words(error)) from error
    found = {}
    with detector:
        for name, path in pictures.items():
            image = _enlarged(np.load(path, allow_pickle=False), height, width)
            answer = detector.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=image))
            # It merges detections of exactly one box into one of several categories.
            found[name] = [
                _as_ours(each, category, image.shape[0], image.shape[1], labels)
                for each in answer.detections
                for category in each.categories
            ]
    return found


def words(error: BaseException) -> str:
    """Format an exception as one line."""
    return " ".join(str(getattr(error, "message", error)).split()) or type(error).__name__


def _enlarged(picture: Any, height: int, width: int) -> Any:
    """Repeat the pixels of a picture that has the input's size.

    MediaPipe's resizer (OpenCV's, without antialiasing) differs from TensorFlow's: on photographs
    it alone moves scores by up to 0.3 and hides whether the model is read correctly. And it
    stretches pictures, whatever the model's training did. A picture of K x K equal pixels for each
    input pixel passes any centred resizer unchanged: with K of 3, 4, 8 and 9 the scores of uint8
    models were TensorFlow's to the last bit. Pixels are repeated because MediaPipe returns boxes in
    whole pixels of the picture.

    Args:
        picture: uint8 array [height, width, 3].
        height: of the model's input.
        width: of the model's input.

    Returns:
        uint8 array [K * height, K * width, 3], contiguous (MediaPipe refuses others).

    Raises:
        ValueError: the picture is another one.
    """
    import numpy as np

    if picture.shape != (height, width, 3) or picture.dtype != np.uint8:
        raise ValueError(
            f"a picture is {picture.dtype} {list(picture.shape)}, not uint8 {[height, width, 3]}"
        )
    times = max(1, _ENLARGED // max(height, width))
    return np.ascontiguousarray(picture.repeat(times, 0).repeat(times, 1))


def _as_ours(
    detection: Any, category: Any, height: int, width: int, labels: list[str]
) -> dict[str, Any]:
    """Convert a category of a detection to the form of :mod:`stages.detect.detector`.

    MediaPipe names the class by its label; only without a label by its index (from 0).
    """
    box, label = detection.bounding_box, category.category_name
    known = label in labels
    index = category.index if label is None else labels.index(label) if known else -1
    return {
        "box": [
            box.origin_y / height,
            box.origin_x / width,
            (box.origin_y + box.height) / height,
            (box.origin_x + box.width) / width,
        ],
        "score": category.score,
        "class_id": index + 1,
        "label": "???" if label is None else label,
    }
