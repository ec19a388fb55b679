"""A stage of the tests: Model Maker's own export of an EfficientDet-Lite0 with seeded weights."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from stages.lite import model_maker
from stages.protocol.request import REQUIRED

ENVIRONMENT = "main"

PARAMS = {
    "seed": REQUIRED,  # int
    "image_size": REQUIRED,  # [height, width] in pixels
    "images": REQUIRED,  # number of images that calibrate int8
}

LABELS = {1: "one", 2: "two"}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/float32.tflite`` and ``out/int8.tflite``, without metadata.

    Nothing of kiln is used but the loader: network, data reader, export and conversion are Model
    Maker's.
    """
    import numpy as np

    mm = model_maker.load()
    emit.progress(0, 3, "building the network")
    random = np.random.Generator(np.random.PCG64(params["seed"]))
    height, width = params["image_size"]
    # The order that automl's image_size has: width first.
    spec = mm.model_spec.get("efficientdet_lite0", hparams=f"image_size={width}x{height}")
    spec.config.num_classes = len(LABELS)
    network = mm.efficientdet_keras.EfficientDetNet(config=spec.config)
    network.build((1, height, width, 3))
    for variable in network.variables:
        kind = variable.name.rpartition("/")[2].partition(":")[0]
        variable.assign(_values(random, kind, variable.shape.as_list()))
    data = _images(random, (height, width), params["images"], out / "data", mm)
    detector = mm.object_detector.ObjectDetector(spec, LABELS, data)
    detector.model = network
    for step, (name, config) in enumerate({"float32": None, "int8": "default"}.items(), 1):
        emit.progress(step, 3, name)
        detector.export(str(out), f"{name}.tflite", quantization_config=config, with_metadata=False)
    return {
        "variables": len(network.variables),
        "stand_ins": model_maker.stand_ins_in_use(),
    }


def _values(random: Any, kind: str, shape: list[int]) -> Any:
    if kind == "gamma":
        return random.uniform(0.5, 1.5, shape)
    if kind == "moving_variance":
        return random.uniform(0.25, 4.0, shape)
    if len(shape) < 4:
        return random.uniform(-0.5, 0.5, shape)
    inputs = shape[0] * shape[1] * (shape[2] if "depthwise" not in kind else 1)
    return random.normal(0.0, (2.0 / inputs) ** 0.5, shape)


def _images(random: Any, size: tuple[int, int], count: int, folder: Path, mm: Any) -> Any:
    """A reader of ``count`` pictures of soft random colours, each with one box."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    with (folder / "boxes.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        for number in range(count):
            small = random.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            name = f"{number}.jpg"
            Image.fromarray(small).resize((size[1], size[0]), Image.BILINEAR).save(folder / name)
            rows.writerow(["TRAIN", name, LABELS[1], 0.1, 0.1, "", "", 0.9, 0.9, "", ""])
    reader = mm.object_detector_dataloader.DataLoader
    return reader.from_csv(str(folder / "boxes.csv"), str(folder), cache_dir=str(folder))[0]
