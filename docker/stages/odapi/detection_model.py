"""Build a detection model with the Object Detection API, and derive its facts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Optional

from stages.protocol.failures import StageError
from stages.protocol.model_cache import Kept

#: How feature extractors reject an input that is too small (``shape_utils``).
_TOO_SMALL = re.compile(r"image size must be >= (\d+)")
#: Error texts for adding or stacking two pyramid levels whose sizes differ by rounding: eager and
#: traced.
_UNEQUAL = re.compile(
    r"(?:Incompatible shapes|Shapes of all inputs must match): [^\n]*?(?= \[Op:|\n|$)"
    r"|Dimensions must be equal, but are \d+ and \d+"
)


def build(pipeline: Any) -> Any:
    """Build the model that ``pipeline`` describes, for inference; without variables yet.

    Raises:
        StageError: the Object Detection API refuses the configuration.
    """
    from object_detection.builders import model_builder

    fresh_names()
    with no_downloads():
        try:
            return model_builder.build(pipeline.model, is_training=False)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise StageError(
                "unsupported-model",
                f"The Object Detection API cannot build this model: {error}",
                "Check the model's section of pipeline.config.",
            ) from error


_kept = Kept()


def keep(description: Any, size: tuple[int, int], model: Any) -> None:
    """Cache a model for :func:`built`.

    Args:
        description: the ``model`` part of a pipeline configuration, as the builder was given it.
        size: (height, width) of the input that its variables were created with.
    """
    _kept.put(_key(description, size), model)


def built(pipeline: Any, size: tuple[int, int]) -> Any:
    """Return the model that ``pipeline`` describes, with variables; the cached one if it fits.

    Raises:
        StageError: see :func:`build` and :func:`create_variables`.
    """

    def new() -> Any:
        model = build(pipeline)
        create_variables(model, size)
        return model

    return _kept.get(_key(pipeline.model, size), new)


def _key(description: Any, size: tuple[int, int]) -> tuple[bytes, tuple[int, int]]:
    return description.SerializeToString(deterministic=True), (size[0], size[1])


def fresh_names() -> None:
    """Reset the layer names that this process has used.

    Keras numbers repeated names (``model``, ``model_1``) and they end up in the ``.tflite``:
    without this its bytes would depend on what ran before in the same process.
    """
    import tensorflow as tf

    tf.keras.backend.clear_session()


def create_variables(model: Any, size: tuple[int, int]) -> None:
    """Run the model once, eagerly, so that its variables exist.

    Args:
        model: from :func:`build`.
        size: (height, width) of its input in pixels.

    Raises:
        StageError: the model does not take that size.
    """
    import tensorflow as tf

    image, shapes = model.preprocess(tf.zeros([1, *size, 3]))
    try:
        model.predict(image, shapes)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        fault = size_fault(error, size)
        if fault is None:
            raise
        raise fault from error


def size_fault(error: Exception, size: tuple[int, int]) -> Optional[StageError]:
    """Describe an error about the input's size, or return None for any other error.

    Args:
        error: from running or tracing the model.
        size: (height, width) of its input in pixels.
    """
    small, unequal = _TOO_SMALL.search(str(error)), _UNEQUAL.search(str(error))
    if small:
        reason = f"its feature extractor needs at least {small[1]}x{small[1]}"
        wanted = f"of at least {small[1]}; feature pyramids want multiples of 32 pixels"
    elif unequal:
        reason = f"levels of its feature pyramid do not fit each other ({unequal[0]})"
        wanted = "that are multiples of 32 pixels"
    else:
        return None
    return StageError(
        "unsupported-model",
        f"The model cannot take an input of {size[0]}x{size[1]} pixels: {reason}.",
        "Set another size with export.image_size in the recipe (--image-size), or with "
        f"image_resizer in pipeline.config: sides {wanted}, EfficientDet's of 128. The size it was "
        "trained with always works.",
    )


@contextlib.contextmanager
def no_downloads() -> Iterator[None]:
    """While active, CenterNet's MobileNetV2 backbone starts without ImageNet weights.

    Its builder downloads them even when a checkpoint then overwrites every value.
    """
    from object_detection.models.keras_models import mobilenet_v2

    original = mobilenet_v2.mobilenet_v2

    def without_weights(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "weights": None})

    mobilenet_v2.mobilenet_v2 = without_weights
    try:
        yield
    finally:
        mobilenet_v2.mobilenet_v2 = original


def normalization(model: Any, architecture: str, size: tuple[int, int]) -> dict[str, list[float]]:
    """Return the *exported* graph's normalisation: ``(pixel - mean) / std`` per channel.

    An SSD-like model's export starts after :func:`preprocessing`, which is therefore left to the
    caller. CenterNet's export contains it, so there the graph takes raw pixels.

    Args:
        model: the detection model.
        architecture: ``ssd`` or ``center_net``.
        size: (height, width) of the input in pixels.

    Returns:
        ``{"mean": [r, g, b], "std": [r, g, b]}`` in pixel values (0 to 255).

    Raises:
        StageError: the preprocessing is not linear like that.
    """
    if architecture == "center_net":
        return {"mean": [0.0] * 3, "std": [1.0] * 3}
    return preprocessing(model, size)


def preprocessing(model: Any, size: tuple[int, int]) -> dict[str, list[float]]:
    """Measure the model's own ``preprocess``: ``(pixel - mean) / std`` per channel.

    The model's ``preprocess`` is run on images of one colour each, and the linear function through
    the results is solved.

    Args:
        model: the detection model.
        size: (height, width) of the input in pixels.

    Returns:
        ``{"mean": [r, g, b], "std": [r, g, b]}`` in pixel values (0 to 255).

    Raises:
        StageError: the preprocessing is not linear like that.
    """
    import numpy as np
    import tensorflow as tf

    # One probe per question: black and white give the function; a grey with three different
    # channels proves that it is linear and that channels are neither swapped nor mixed.
    probes = np.array([[0, 0, 0], [255, 255, 255], [64, 128, 192]], np.float32)
    answers = []
    for probe in probes:
        image = np.broadcast_to(probe, (1, *size, 3)).astype(np.float32)
        output = model.preprocess(tf.constant(image))[0].numpy().astype(np.float64)
        # The middle, away from any padding or resizing at the edges.
        answers.append(output[0, output.shape[1] // 2, output.shape[2] // 2])
    black, white, grey = answers
    if black.shape != (3,) or np.any(white == black):
        raise _not_affine()
    std = 255.0 / (white - black)
    mean = -black * std
    if np.max(np.abs((probes[2] - mean) / std - grey)) > 1e-4 or np.any(std <= 0):
        raise _not_affine()
    return {"mean": [_tidy(value) for value in mean], "std": [_tidy(value) for value in std]}


def untrained(model: Any) -> list[str]:
    """Return reasons to think that the model's class prediction was never trained, as texts.

    Training changes every bias of the layers that score classes. If all of them still have exactly
    their initial value (a constant, in all models of the Object Detection API), the heads are
    untrained and the model detects nothing, whatever its backbone holds.

    Args:
        model: the detection model, restored.

    Returns:
        Empty where the model was trained, or where its class heads have no biases.
    """
    import numpy as np

    layers = [
        layer
        for layer in _class_heads(model)
        if getattr(layer, "use_bias", False) and layer.bias is not None
    ]
    biases = [layer.bias.numpy() for layer in layers]
    initial = [
        layer.bias_initializer(layer.bias.shape, layer.bias.dtype).numpy() for layer in layers
    ]
    if not layers or not all(np.array_equal(one, other) for one, other in zip(biases, initial)):
        return []
    value = float(biases[0].reshape(-1)[0])
    return [
        f"all {sum(bias.size for bias in biases)} biases of the class head still have their"
        f" initial value, {value:.6g}"
    ]


def _class_heads(model: Any) -> list[Any]:
    """Return the Keras layers that score classes: the last of each class head."""
    heads = getattr(model, "_prediction_head_dict", None)
    if heads is not None:  # CenterNet: one heat map a class, of one or several stacked networks
        return [network.layers[-1] for network in heads["object_center"]]
    predictors = getattr(getattr(model, "_box_predictor", None), "_prediction_heads", {})
    found = predictors.get("class_predictions_with_background", [])
    found = [found] if hasattr(found, "_class_predictor_layers") else list(found)
    return [head._class_predictor_layers[-1] for head in found]


def _tidy(value: float) -> float:
    """Round ``value`` to six significant digits, which removes float32 noise."""
    return float(f"{value:.6g}")


def _not_affine() -> StageError:
    return StageError(
        "unsupported-model",
        "The model's preprocessing is not one mean and one standard deviation per channel.",
        "Such a model's normalisation cannot be written into TFLite metadata.",
    )
