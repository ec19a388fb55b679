"""Derive from a model's ``image_resizer`` how the converted model is to be fed.

A TFLite graph has an input of one shape. Some resizers give pictures of several shapes, and a user
may want another size. The converted model is then not quite the source model: :func:`as_built` says
which configuration it has, and what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from stages.files import feeding
from stages.odapi import pipeline
from stages.protocol.failures import StageError

_METHODS = {
    "BILINEAR": "bilinear",
    "NEAREST_NEIGHBOR": "nearest",
    "BICUBIC": "bicubic",
    "AREA": "area",
}


@dataclass(frozen=True)
class Built:
    """The configuration of a converted model.

    Args:
        pipeline: a copy of the source's, with a resizer of one output size.
        size: that size: (height, width) in pixels.
        differs: whether its resizer makes other inputs of pictures than the source's
            (:mod:`stages.odapi.config_differences` says which).
    """

    pipeline: Any
    size: tuple[int, int]
    differs: bool


def as_built(config: Any, image_size: Optional[list[int]]) -> Built:
    """Return the configuration that a converted model has.

    A resizer that keeps the aspect ratio pads to a square here, whether or not it does so in the
    source. (For an input that is not square the Object Detection API has no such resizer; then
    pictures are stretched.)

    Args:
        config: the source's configuration; not changed.
        image_size: as for :func:`stages.odapi.pipeline.fix_image_size`.

    Raises:
        StageError: see :func:`stages.odapi.pipeline.fix_image_size`.
    """
    fixed, padded = (_copy(config) for _ in range(2))
    size = pipeline.fix_image_size(fixed, image_size)
    own = pipeline.image_resizer(config)
    kind = own.WhichOneof("image_resizer_oneof")
    if kind == "keep_aspect_ratio_resizer" and size[0] == size[1]:
        resizer = pipeline.image_resizer(padded).keep_aspect_ratio_resizer
        resizer.min_dimension = resizer.max_dimension = size[0]
        resizer.pad_to_max_dimension = True
        kept = own.keep_aspect_ratio_resizer
        same = kept.pad_to_max_dimension and kept.min_dimension == kept.max_dimension == size[0]
        return Built(padded, size, differs=not same)
    resizer = pipeline.image_resizer(fixed).fixed_shape_resizer
    if kind == "fixed_shape_resizer":
        before = (own.fixed_shape_resizer.height, own.fixed_shape_resizer.width)
        return Built(fixed, size, differs=before != size)
    resizer.resize_method = getattr(getattr(own, kind), "resize_method", 0) if kind else 0
    return Built(fixed, size, differs=True)


def as_text(built: Built) -> str:
    """Write the resizer of a converted model as text, for :func:`described`."""
    from google.protobuf import text_format

    message = pipeline.image_resizer(built.pipeline)
    return str(text_format.MessageToString(message, as_one_line=True))


def described(
    resizer: str, architecture: str, normalization: Mapping[str, Sequence[float]]
) -> feeding.Feeding:
    """Describe how a converted model is fed.

    The Object Detection API resizes with TensorFlow 1's ``resize_images``, which samples corners.
    SSD normalises before it pads, CenterNet afterwards.

    Args:
        resizer: from :func:`as_text`.
        architecture: ``ssd`` or ``center_net``.
        normalization: ``mean`` and ``std`` per channel that the converted model wants.

    Raises:
        StageError: it is not the text of a resizer of one output size.
    """
    config = _parsed(resizer)
    kind = config.WhichOneof("image_resizer_oneof")
    if kind not in ("fixed_shape_resizer", "keep_aspect_ratio_resizer"):
        raise _unusable(resizer, "its pictures have several sizes")
    own = getattr(config, kind)
    field = own.DESCRIPTOR.fields_by_name["resize_method"]
    method = _METHODS[field.enum_type.values_by_number[own.resize_method].name]
    if kind == "fixed_shape_resizer":
        return feeding.Feeding(sampling=feeding.CORNER, interpolation=method)
    fill = tuple(own.per_channel_pad_value) or (0.0,) * 3
    if architecture == "ssd":
        pairs = zip(normalization["mean"], normalization["std"])
        fill = tuple(value * std + mean for value, (mean, std) in zip(fill, pairs))
    return feeding.letterbox(fill, feeding.CORNER, method)


Resizer = Callable[[Any], tuple[Any, tuple[int, int]]]
"""A function of an image (float32 [h, w, 3]). It returns the resized image, and the (height, width)
in pixels that the image covers of it."""


def authors_own(text: str) -> Resizer:
    """Return the Object Detection API's own resizer.

    Args:
        text: from :func:`as_text`.

    Raises:
        StageError: it is not the text of a resizer.
    """
    from object_detection.builders import image_resizer_builder

    try:
        build = image_resizer_builder.build(_parsed(text))
    except ValueError as error:
        raise _unusable(text, str(error)) from error

    def resize(image: Any) -> tuple[Any, tuple[int, int]]:
        import tensorflow as tf

        with _eagerly():
            resized, shape = build(tf.constant(image))
            height, width, _ = shape.numpy()
            return resized.numpy(), (int(height), int(width))

    return resize


def stretched(height: int, width: int) -> Resizer:
    """Return TensorFlow's own resizer to a size in pixels (half-pixel centres, bilinear)."""

    def resize(image: Any) -> tuple[Any, tuple[int, int]]:
        import tensorflow as tf

        with _eagerly():
            return tf.image.resize(image, (height, width)).numpy(), (height, width)

    return resize


def _eagerly() -> Any:
    """Run operations at once, although a caller's session has a graph of its own."""
    from tensorflow.python.eager import context

    return context.eager_mode()


def _parsed(text: str) -> Any:
    from google.protobuf import text_format
    from object_detection.protos import image_resizer_pb2

    try:
        return text_format.Parse(text, image_resizer_pb2.ImageResizer())
    except text_format.ParseError as error:
        raise _unusable(text, str(error)) from error


def _unusable(text: str, reason: str) -> StageError:
    return StageError("unsupported-model", f"The image resizer {text!r} cannot be used: {reason}.")


def _copy(config: Any) -> Any:
    copy = type(config)()
    copy.CopyFrom(config)
    return copy
