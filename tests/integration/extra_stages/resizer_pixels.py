"""A stage of the tests: how far fed pixels are from those of the model's own preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.files import pixels
from stages.odapi import detection_model, pipeline, resizing
from stages.protocol.request import REQUIRED

ENVIRONMENT = "main"

PARAMS = {
    "cases": REQUIRED,  # name -> {"config": text of a pipeline.config, "resizer": of its own}
    "shapes": REQUIRED,  # [[height, width], ...] of images of noise
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Compare :func:`stages.files.pixels.fed` with the unmodified model's ``preprocess``.

    Returns:
        Facts: ``differences`` (case -> the largest, in input values, where both have a picture),
        ``feedings`` (case -> the fact), ``sizes`` (case -> of the input).
    """
    import numpy as np

    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    random = np.random.Generator(np.random.PCG64(0))
    images = [random.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in params["shapes"]]
    facts: dict[str, Any] = {"differences": {}, "feedings": {}, "sizes": {}}
    for name, case in params["cases"].items():
        folder = out / name
        folder.mkdir()
        text = case["config"].replace("RESIZER", case["resizer"])
        (folder / "pipeline.config").write_text(text)
        config = pipeline.read_pipeline(folder)
        model = detection_model.build(config)
        built = resizing.as_built(config, None)
        architecture = config.model.WhichOneof("model")
        norm = detection_model.normalization(
            detection_model.build(built.pipeline), architecture, built.size
        )
        how = resizing.described(resizing.as_text(built), architecture, norm)
        worst = 0.0
        for image in images:
            own, _ = model.preprocess(tf.constant(image[None], tf.float32))
            fed = pixels.fed(image, *built.size, how)
            fed = pixels.normalize(fed, tuple(norm["mean"]), tuple(norm["std"]))
            if architecture == "center_net":  # its graph normalises itself
                fed = model._feature_extractor.preprocess(tf.constant(fed[None]))[0].numpy()
            height, width = own.shape[1:3]
            worst = max(worst, float(np.abs(own[0].numpy() - fed[:height, :width]).max()))
        facts["differences"][name] = worst
        facts["feedings"][name] = how.as_fact()
        facts["sizes"][name] = list(built.size)
    return facts
