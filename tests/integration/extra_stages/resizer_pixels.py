"""A stage of the tests: how far fed pixels are from those of the model's own preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.files import pixels
from stages.odapi import detection_model, pipeline, resizing
from stages.protocol.request import REQUIRED

ENVIRONMENT = "main"

PARAMS = {
    "configs": REQUIRED,  # architecture -> text of a pipeline.config
    "resizers": REQUIRED,  # name -> text of an image_resizer, in place of the configuration's own
    "shapes": REQUIRED,  # [[height, width], ...] of images of noise
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Compare :func:`stages.files.pixels.fed` with the unmodified model's ``preprocess``.

    Returns:
        Facts by ``<architecture>-<resizer>``: ``differences`` (the largest, in input values, where
        both have a picture), ``feedings`` (the fact), ``sizes`` (of the input).
    """
    import numpy as np
    from google.protobuf import text_format

    from stages.odapi import tensorflow_setup

    tensorflow_setup.load()
    from object_detection.builders import image_resizer_builder

    random = np.random.Generator(np.random.PCG64(0))
    images = [random.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in params["shapes"]]
    facts: dict[str, Any] = {"differences": {}, "feedings": {}, "sizes": {}}
    for architecture, text in params["configs"].items():
        folder = out / architecture
        folder.mkdir()
        (folder / "pipeline.config").write_text(text)
        config = pipeline.read_pipeline(folder)
        model = detection_model.build(config)
        size = resizing.as_built(config, None).size
        norm = detection_model.normalization(model, architecture, size)
        for name, resizer in params["resizers"].items():
            pipeline.image_resizer(config).Clear()
            text_format.Parse(resizer, pipeline.image_resizer(config))
            model._image_resizer_fn = image_resizer_builder.build(pipeline.image_resizer(config))
            built = resizing.as_built(config, None)
            how = resizing.described(resizing.as_text(built), architecture, norm)
            worst = max(_difference(model, image, built.size, how, norm) for image in images)
            facts["differences"][f"{architecture}-{name}"] = worst
            facts["feedings"][f"{architecture}-{name}"] = how.as_fact()
            facts["sizes"][f"{architecture}-{name}"] = list(built.size)
    return facts


def _difference(model: Any, image: Any, size: Any, how: Any, norm: Any) -> float:
    import numpy as np
    import tensorflow as tf

    own, _ = model.preprocess(tf.constant(image[None], tf.float32))
    fed = pixels.fed(image, *size, how)
    fed = pixels.normalize(fed, tuple(norm["mean"]), tuple(norm["std"]))
    if norm["std"] == [1.0] * 3:  # CenterNet's graph normalises itself
        fed = model._feature_extractor.preprocess(tf.constant(fed[None]))[0].numpy()
    height, width = own.shape[1:3]
    return float(np.abs(own[0].numpy() - fed[:height, :width]).max())
