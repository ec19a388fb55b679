"""A stage of the tests: tflite-support's own detector, which reads the metadata itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.request import REQUIRED

ENVIRONMENT = "metadata"

PARAMS = {"score_threshold": REQUIRED}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run ``inputs["model"]`` on the pictures in ``inputs["pictures"]``.

    Pictures are ``.npy`` files, uint8 [h, w, 3]: this environment has nothing to decode images.
    Writes ``out/detections.json`` as the detect stage does, boxes as fractions of the picture.

    Returns:
        Facts: ``refused``: the library's own words, or None.
    """
    import numpy as np
    from tflite_support.task import core, processor, vision

    try:
        detector = vision.ObjectDetector.create_from_options(
            vision.ObjectDetectorOptions(
                base_options=core.BaseOptions(file_name=str(inputs["model"]), num_threads=1),
                detection_options=processor.DetectionOptions(
                    score_threshold=params["score_threshold"]
                ),
            )
        )
    except (ValueError, RuntimeError) as error:
        return {"refused": str(error)}
    found = {}
    for path in sorted(inputs["pictures"].glob("*.npy")):
        # TensorImage keeps a pointer, not the array: the array must outlive it.
        picture = np.ascontiguousarray(np.load(path))
        height, width, _ = picture.shape
        answer = detector.detect(vision.TensorImage.create_from_array(picture))
        found[path.stem] = [
            {
                "box": [
                    item.bounding_box.origin_y / height,
                    item.bounding_box.origin_x / width,
                    (item.bounding_box.origin_y + item.bounding_box.height) / height,
                    (item.bounding_box.origin_x + item.bounding_box.width) / width,
                ],
                "score": item.categories[0].score,
                "class_id": item.categories[0].index + 1,
                "label": item.categories[0].category_name,
            }
            for item in answer.detections
        ]
    (out / "detections.json").write_text(json.dumps({"images": found}), encoding="utf-8")
    return {"refused": None}
