"""Export an SSD-like model that outputs raw boxes and scores, without the detection operator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from stages.odapi import pipeline
from stages.protocol.failures import StageError
from stages.tflite import decoding


@contextlib.contextmanager
def instead_of_the_operator(exporter: Any) -> Iterator[list[Any]]:
    """While active, the exporter's SSD graphs end in raw scores and boxes, in this order.

    The exporter hands boxes, scores and anchors to a function that stands for the operator. Here
    that function returns the first two. A background class, where there is one, is left out of the
    scores: it comes first.

    Args:
        exporter: the module ``export_tflite_graph_lib_tf2``.

    Yields:
        A list; each graph that is traced appends its anchors, float32 [anchors, 4].
    """
    original = exporter.SSDModule
    anchors_of: list[Any] = []

    class RawModule(original):  # type: ignore[misc, valid-type]
        def _get_postprocess_fn(self, num_anchors: int, num_classes: int) -> Any:
            def outputs(boxes: Any, scores: Any, anchors: Any) -> tuple[Any, Any]:
                anchors_of.append(_constant(anchors))
                if scores.shape[-1] > num_classes:
                    scores = scores[:, :, -num_classes:]
                return boxes, scores  # the exporter reverses them

            return outputs

    exporter.SSDModule = RawModule
    try:
        yield anchors_of
    finally:
        exporter.SSDModule = original


def _constant(tensor: Any) -> Any:
    """Return the value of a constant that the exporter named with an identity."""
    import tensorflow as tf

    return tf.make_ndarray(tensor.op.inputs[0].op.get_attr("value"))


def described(
    configuration: Any, anchors: Any, suppression: Mapping[str, Any], max_detections: int
) -> decoding.Decoding:
    """Describe how the outputs become detections.

    Args:
        configuration: of the exported model.
        anchors: as :func:`instead_of_the_operator` yields them.
        suppression: from :func:`stages.odapi.pipeline.built_suppression`.
        max_detections: how many to keep.

    Raises:
        StageError: an anchor is not finite, or empty.
    """
    import numpy as np

    if not np.isfinite(anchors).all() or not (anchors[:, 2:] > 0).all():
        raise StageError(
            "unsupported-model",
            "There are anchors without an extent, or with one that is not finite.",
            "See the anchor generator in pipeline.config.",
        )
    ssd = configuration.model.ssd
    across = ssd.post_processing.batch_non_max_suppression.use_class_agnostic_nms
    of_a_class = max_detections if across else suppression["detections_per_class"]
    coder = ssd.box_coder.faster_rcnn_box_coder
    least = suppression["score_threshold"]
    return decoding.Decoding(
        anchors=np.ascontiguousarray(anchors, "<f4").tobytes(),
        scales=(coder.y_scale, coder.x_scale, coder.height_scale, coder.width_scale),
        score_converter=pipeline.score_conversion(configuration),
        classes=pipeline.num_classes(configuration),
        suppression=decoding.Suppression(
            None if least is None else pipeline.threshold_fact(least),
            float(f"{suppression['iou_threshold']:.7g}"),
            min(of_a_class, max_detections),
            max_detections,
            decoding.IMAGE if across else decoding.CLASS,
        ),
    )
