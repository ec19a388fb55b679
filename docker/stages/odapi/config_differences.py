"""List what a converted file does otherwise than its model's ``pipeline.config`` says.

A TFLite file has one input size and TFLite's own suppression, and a user can set other numbers.
Each difference is plain data, for the screen, the record and the release's page: ``what`` it is
about, what the ``config`` says, what was ``built``, and the ``effect`` on what is detected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from stages.odapi import pipeline

Difference = dict[str, str]

ACROSS_CLASSES = "suppression of overlaps"
""":attr:`what` of the difference that every SSD-like model of several classes has."""

_METHODS = ("bilinear", "nearest neighbour", "bicubic", "area")  # by protobuf's number
_NEAR = 1e-5  # the exporter writes thresholds with six decimals


@dataclass(frozen=True)
class Built:
    """What a converted model does.

    Args:
        size: (height, width) of its input in pixels.
        max_detections: how many it outputs; None where that is not known.
        suppression: options of TFLite's detection operator: ``regular`` (within each class),
            ``score_threshold``, ``iou_threshold``, ``detections_per_class`` (only if regular).
            None: across classes, with the configuration's own thresholds.
        scales: what box encodings were multiplied by: y, x, h, w; None: as configured.
        exported: whether somebody else exported it, so that options of kiln cannot change it.
        left_out: names of keypoint tasks that it lacks (:func:`stages.odapi.pipeline
            .keypoint_tasks`; the configuration that stages work with has none).
    """

    size: tuple[int, int]
    max_detections: Optional[int]
    suppression: Optional[Mapping[str, Any]] = None
    scales: Optional[tuple[float, float, float, float]] = None
    exported: bool = False
    left_out: Collection[str] = ()


def unmodified(config: Any) -> Any:
    """Return a copy of a configuration, to compare with once the original was changed."""
    kept = type(config)()
    kept.CopyFrom(config)
    return kept


def differences(config: Any, built: Built) -> list[Difference]:
    """Return how ``built`` differs from the model that ``config`` describes.

    Args:
        config: the configuration as the training left it.
    """
    architecture = config.model.WhichOneof("model")
    model = getattr(config.model, architecture)
    found = [*_input(model.image_resizer, built), *_most(config, built)]
    if architecture == "ssd":
        found += [*_suppression(model, built), *_boxes(model, built)]
    if built.left_out:
        effect = "Boxes are found as in training, and no keypoints."
        found.append(_difference("keypoints", ", ".join(built.left_out), "none", effect))
    if config.graph_rewriter.HasField("quantization"):
        found.append(
            _difference(
                "quantisation",
                "graph_rewriter: in training",
                "after training",
                "TensorFlow 2's API does not read graph_rewriter: the model was trained in float.",
            )
        )
    return found


def input_size(trained: tuple[int, int], built: tuple[int, int]) -> Iterator[Difference]:
    """Yield the difference between two sizes, (height, width) in pixels, where there is one."""
    if trained == built:
        return
    shape = trained[0] * built[1] != trained[1] * built[0]
    yield _difference(
        "input size",
        _size(trained),
        _size(built),
        f"Objects appear in another size{' and shape' if shape else ''} than in training: the"
        " further from it, the lower the scores.",
    )


def most_detections(trained: int, built: int, remedy: str = "") -> Iterator[Difference]:
    """Yield the difference between two numbers of detections, where there is one."""
    if built < trained:
        effect = f"Of an image with more than {built} objects, the others are never found.{remedy}"
    else:
        effect = f"More may be found than the {trained} that the training's evaluation counted."
    if built != trained:
        yield _difference("detections, at most", str(trained), str(built), effect)


def _input(resizer: Any, built: Built) -> Iterator[Difference]:
    kind = resizer.WhichOneof("image_resizer_oneof") or ""
    own = getattr(resizer, kind) if kind else None
    if kind == "fixed_shape_resizer":
        yield from input_size((own.height, own.width), built.size)
    elif kind == "keep_aspect_ratio_resizer":
        yield from input_size((own.max_dimension, own.max_dimension), built.size)
        yield from _proportions(own, built)
    else:
        yield _difference(
            "shape of pictures",
            f"{kind}: each has its own size" if kind else "not resized",
            f"stretched to {_size(built.size)}",
            "Pictures of other proportions are distorted, which the model never saw in training.",
        )
    method = getattr(own, "resize_method", 0)
    if method:
        yield _difference(
            "resize method",
            _METHODS[method] if method < len(_METHODS) else str(method),
            "the application's own",
            "Resize by the same method. Task Library and MediaPipe resize bilinearly, which gives"
            " slightly different pixels.",
        )


def _proportions(own: Any, built: Built) -> Iterator[Difference]:
    """Yield what differs where the model's resizer keeps the proportions of pictures."""
    height, width = built.size
    sides = f"shorter side {own.min_dimension} pixels, longer at most {own.max_dimension}"
    if height != width:
        yield _difference(
            "shape of pictures",
            f"kept ({sides})",
            f"stretched to {_size(built.size)}",
            "Pictures of other proportions than the input are distorted, which the model never saw"
            " in training.",
        )
        return
    if not own.pad_to_max_dimension:
        yield _difference(
            "padding",
            "none: pictures keep their shape",
            f"filled up to {_size(built.size)}",
            "The model never saw filled pictures in training, and may find less at their edges.",
        )
    if own.min_dimension < own.max_dimension:
        yield _difference(
            "scale of pictures",
            sides,
            f"longer side {width} pixels",
            "Objects in nearly square pictures appear larger than in training, by up to"
            f" {own.max_dimension / max(own.min_dimension, 1):.3g} times.",
        )


def _most(config: Any, built: Built) -> Iterator[Difference]:
    own = pipeline.own_max_detections(config)
    if built.max_detections is not None:
        remedy = (
            f" For {own}: export it again with --max_detections {own} of"
            " export_tflite_graph_tf2.py, or convert its checkpoint."
        )
        yield from most_detections(own, built.max_detections, remedy if built.exported else "")


def _suppression(ssd: Any, built: Built) -> Iterator[Difference]:
    own = ssd.post_processing.batch_non_max_suppression
    regular = built.suppression is not None and bool(built.suppression["regular"])
    values = {
        "score_threshold": own.score_threshold,
        "iou_threshold": own.iou_threshold,
        "detections_per_class": own.max_detections_per_class,
        # None: the configuration's own, minus infinity.
        **{name: value for name, value in (built.suppression or {}).items() if value is not None},
    }
    overlap = f"{values['iou_threshold']:.3g}"
    if ssd.num_classes > 1 and regular == own.use_class_agnostic_nms:
        if regular:
            config, done, effect = "across classes", "within each class", "One object may be found"
            effect += " several times, as several classes."
        else:
            config, done = "within each class", "across classes, one class a box"
            effect = "Of two objects of different classes that overlap by more than"
            effect += f" {overlap} (IoU), only the one with the higher score is found."
        yield _difference(ACROSS_CLASSES, config, done, effect)
    yield from _per_class(own, values["detections_per_class"] if regular else None, built)
    if own.soft_nms_sigma > 0:
        yield _difference(
            "soft suppression",
            f"sigma {own.soft_nms_sigma:.3g}: scores of overlapping boxes are lowered",
            f"boxes that overlap by more than {overlap} (IoU) are left out",
            "Less is found where objects of one class stand close together.",
        )
    if own.max_classes_per_detection > 1 and own.use_class_agnostic_nms:
        yield _difference(
            "classes of a box, at most", str(own.max_classes_per_detection), "1",
            "Only the class with the highest score is given.",
        )  # fmt: skip
    for name, what, effect in (
        ("score_threshold", "score threshold", "Detections with lower scores are left out."),
        ("iou_threshold", "overlap threshold (IoU)", "Boxes that overlap more are left out."),
    ):
        if abs(max(getattr(own, name), -1.0) - max(values[name], -1.0)) > _NEAR:
            shown = (f"{getattr(own, name):.6g}", f"{values[name]:.6g}")
            yield _difference(what, *shown, effect)


def _per_class(own: Any, limit: Optional[int], built: Built) -> Iterator[Difference]:
    """Yield what differs in the number of detections of one class; None: any number."""
    most = built.max_detections or own.max_total_detections
    done = most if limit is None else min(limit, most)
    limited = own.max_detections_per_class < own.max_total_detections
    asked = min(own.max_detections_per_class, most) if limited else most
    if done == asked:
        return
    if done > asked:
        effect = f"More than {asked} objects of one class may be found."
    else:
        effect = f"Of more than {done} objects of one class, the others are never found."
    shown = "no limit" if limit is None else str(done)
    yield _difference("detections of one class, at most", str(asked), shown, effect)


def _boxes(ssd: Any, built: Built) -> Iterator[Difference]:
    coder = ssd.box_coder.faster_rcnn_box_coder
    own = (coder.y_scale, coder.x_scale, coder.height_scale, coder.width_scale)
    if built.scales is None or all(abs(a - b) <= _NEAR for a, b in zip(own, built.scales)):
        return
    yield _difference(
        "scales of the box coder",
        ", ".join(f"{value:g}" for value in own),
        ", ".join(f"{value:g}" for value in built.scales),
        "The graph decodes boxes otherwise: this pipeline.config is probably another model's.",
    )


def _difference(what: str, config: str, built: str, effect: str) -> Difference:
    return {"what": what, "config": config, "built": built, "effect": effect}


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
