"""Read a model's ``pipeline.config`` and check that the model can be converted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from stages.protocol.failures import StageError

SUPPORTED = ("ssd", "center_net")

SUPPRESSION = (
    "regular_nms",
    "nms_score_threshold",
    "nms_iou_threshold",
    "max_detections_per_class",
)
"""Parameters of stages that change how overlapping boxes are suppressed."""

_REASONS = {
    "faster_rcnn": "it crops a different number of regions for every image, which TFLite's"
    " detection operators cannot express",
    "experimental_model": "its graph is defined outside of the Object Detection API",
}

_OTHER_TASKS = (
    "deepmac_mask_estimation",
    "mask_estimation_task",
    "densepose_estimation_task",
    "track_estimation_task",
    "temporal_offset_task",
)


def read_pipeline(model_folder: Path) -> Any:
    """Parse the ``pipeline.config`` (a ``TrainEvalPipelineConfig``) of a supported model.

    Raises:
        StageError: the file is missing, cannot be parsed, or describes an architecture that
            cannot be exported (the message says why).
    """
    from google.protobuf import text_format
    from object_detection.protos import pipeline_pb2

    path = model_folder / "pipeline.config"
    if not path.is_file():
        raise StageError(
            "unsupported-model",
            "The model's folder has no pipeline.config.",
            "Use the whole unpacked archive of a TensorFlow 2 detection model.",
        )
    pipeline = pipeline_pb2.TrainEvalPipelineConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), pipeline)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise StageError(
            "unsupported-model",
            f"pipeline.config cannot be read: {str(error).strip()}",
            "Line and column are given first; an unknown field means a newer or changed Object"
            " Detection API.",
        ) from error
    check_architecture(pipeline)
    _spell_out_separable(pipeline)
    return pipeline


def check_architecture(pipeline: Any) -> None:
    """Refuse what the exporter cannot convert, with the reason.

    Raises:
        StageError: ``pipeline`` is not an SSD-like or CenterNet model for TensorFlow 2.
    """
    architecture = pipeline.model.WhichOneof("model")
    remedy = (
        "SSD-like models (SSD, RetinaNet, EfficientDet) and CenterNet of TensorFlow 2 can be"
        " converted."
    )
    if architecture is None:
        raise StageError("unsupported-model", "pipeline.config names no model.", remedy)
    if architecture not in SUPPORTED:
        name, reason = architecture, _REASONS.get(architecture, "there is no exporter for it")
        if architecture == "faster_rcnn":
            name = _rcnn_name(pipeline.model.faster_rcnn)
        raise StageError("unsupported-model", f"{name} cannot be converted: {reason}.", remedy)
    extractor = feature_extractor_type(pipeline)
    if not extractor:
        raise StageError("unsupported-model", "pipeline.config names no feature extractor.", remedy)
    if architecture == "ssd":
        _check_ssd(pipeline.model.ssd, extractor)
    else:
        _check_center_net(pipeline.model.center_net)


def _check_ssd(ssd: Any, extractor: str) -> None:
    from object_detection.builders import model_builder

    if extractor not in model_builder.SSD_KERAS_FEATURE_EXTRACTOR_CLASS_MAP:
        raise StageError(
            "unsupported-model",
            f"The feature extractor {extractor!r} is not one of TensorFlow 2's.",
            "Models of the TensorFlow 1 zoo (without '_keras' in this name) cannot be converted.",
        )
    coder = ssd.box_coder.WhichOneof("box_coder_oneof")
    if coder != "faster_rcnn_box_coder":
        # The exporter would read the (empty) faster_rcnn_box_coder and write wrong scales.
        raise StageError(
            "unsupported-model",
            f"Boxes are encoded with {coder or 'no coder'}, which TFLite's detection operator"
            " does not know.",
            "Only faster_rcnn_box_coder can be converted.",
        )


def _check_center_net(center_net: Any) -> None:
    for task in _OTHER_TASKS:
        if center_net.HasField(task):
            raise StageError(
                "unsupported-model",
                f"This CenterNet also has the task {task}, whose outputs the exporter does not"
                " write.",
                "CenterNet with boxes (and keypoints, which are left out) can be converted.",
            )


def _spell_out_separable(pipeline: Any) -> None:
    """Set ``use_separable_conv`` where only an old extractor's name implies it.

    The model builder means to infer it from the name, but passes it on only where the field is
    set: the zoo's CenterNet would get plain convolutions, which its checkpoint does not fit.
    """
    if pipeline.model.WhichOneof("model") == "center_net":
        extractor = pipeline.model.center_net.feature_extractor
        if extractor.type == "mobilenet_v2_fpn_sep_conv":
            extractor.use_separable_conv = True


def feature_extractor_type(pipeline: Any) -> str:
    """Return the ``type`` of the model's feature extractor, as in ``pipeline.config``."""
    architecture = pipeline.model.WhichOneof("model")
    return str(getattr(pipeline.model, architecture).feature_extractor.type)


def num_classes(pipeline: Any) -> int:
    """Return the number of classes, without background."""
    architecture = pipeline.model.WhichOneof("model")
    return int(getattr(pipeline.model, architecture).num_classes)


def own_max_detections(pipeline: Any) -> int:
    """Return how many detections the model's own post-processing keeps."""
    if pipeline.model.WhichOneof("model") == "ssd":
        return int(
            pipeline.model.ssd.post_processing.batch_non_max_suppression.max_total_detections
        )
    return int(pipeline.model.center_net.object_center_params.max_box_predictions)


def set_max_detections(pipeline: Any, wanted: Optional[int]) -> int:
    """Make the model keep ``wanted`` detections (None: its own number), changing ``pipeline``.

    Returns:
        The number of detections.

    Raises:
        StageError: the number is invalid.
    """
    count = own_max_detections(pipeline) if wanted is None else wanted
    if type(count) is not int or not 1 <= count <= 1000:
        raise StageError(
            "unsupported-model",
            f"{count!r} is not a number of detections.",
            "Set max_detections in the recipe, from 1 to 1000.",
        )
    if pipeline.model.WhichOneof("model") == "ssd":
        suppression = pipeline.model.ssd.post_processing.batch_non_max_suppression
        suppression.max_total_detections = count
        # The builder refuses more detections of one class than in total.
        suppression.max_detections_per_class = min(suppression.max_detections_per_class, count)
    else:
        pipeline.model.center_net.object_center_params.max_box_predictions = count
    return count


def built_suppression(pipeline: Any, wanted: Mapping[str, Any]) -> Optional[dict[str, Any]]:
    """Return the options of TFLite's detection operator for this model; None for CenterNet.

    Args:
        pipeline: the configuration; it is not changed.
        wanted: parameters of the stages: ``regular_nms``, ``nms_score_threshold``,
            ``nms_iou_threshold``, ``max_detections_per_class``; None: the model's own value.

    Returns:
        ``regular`` (suppression within each class), ``score_threshold``, ``iou_threshold``,
        ``detections_per_class`` (which only counts if regular).

    Raises:
        StageError: kind ``unsupported-model``; a value is wanted that a CenterNet does not have,
            or that the operator refuses.
    """
    if pipeline.model.WhichOneof("model") != "ssd":
        given = [
            name for name in SUPPRESSION if wanted[name] is not None and wanted[name] is not False
        ]
        if given:
            raise StageError(
                "unsupported-model",
                f"A CenterNet suppresses no overlapping boxes, so {given[0]} has no meaning.",
                f"Leave out export.{given[0]}.",
            )
        return None
    own = pipeline.model.ssd.post_processing.batch_non_max_suppression

    def chosen(name: str, value: Any) -> Any:
        return value if wanted[name] is None else wanted[name]

    iou = float(chosen("nms_iou_threshold", own.iou_threshold))
    if not 0 < iou <= 1:
        raise StageError(
            "unsupported-model",
            f"An overlap threshold of {iou:g} cannot be converted: TFLite's detection operator"
            " takes numbers above 0, up to 1.",
            "Set export.nms_iou_threshold (--nms-iou-threshold); most models use 0.5 or 0.6.",
        )
    return {
        "regular": bool(wanted["regular_nms"]),
        "score_threshold": float(chosen("nms_score_threshold", own.score_threshold)),
        "iou_threshold": iou,
        "detections_per_class": int(
            chosen("max_detections_per_class", own.max_detections_per_class)
        ),
    }


def set_thresholds(pipeline: Any, chosen: Mapping[str, Any]) -> None:
    """Put the thresholds of a :func:`built_suppression` where the exporter reads them."""
    own = pipeline.model.ssd.post_processing.batch_non_max_suppression
    own.score_threshold = chosen["score_threshold"]
    own.iou_threshold = chosen["iou_threshold"]


def score_conversion(pipeline: Any) -> str:
    """How raw class scores become scores (``SIGMOID``, ``SOFTMAX``, …)."""
    if pipeline.model.WhichOneof("model") == "ssd":
        processing = pipeline.model.ssd.post_processing
        return str(processing.ScoreConverter.Name(processing.score_converter))
    return "SIGMOID"  # CenterNet's heatmap: fixed in its code, not in the configuration


def fix_image_size(pipeline: Any, image_size: Optional[list[int]]) -> tuple[int, int]:
    """Give the model an input of one fixed shape, changing ``pipeline`` where needed.

    Args:
        pipeline: the configuration; its resizer becomes a ``fixed_shape_resizer``.
        image_size: [height, width] in pixels, or None for the model's own: of a fixed resizer
            its shape, of one that keeps the aspect ratio the square of its largest side (TFLite
            graphs have one shape, and such models are trained on images padded to that square).

    Returns:
        (height, width) in pixels.

    Raises:
        StageError: the size makes no sense, or the resizer has no size of its own.
    """
    resizer = getattr(pipeline.model, pipeline.model.WhichOneof("model")).image_resizer
    kind = resizer.WhichOneof("image_resizer_oneof")
    if image_size is not None:
        if (
            not isinstance(image_size, list)
            or len(image_size) != 2
            or any(type(side) is not int or not 32 <= side <= 4096 for side in image_size)
        ):
            raise StageError(
                "unsupported-model",
                f"{image_size!r} is not an image size.",
                "Give [height, width], each from 32 to 4096 pixels.",
            )
        height, width = image_size
    elif kind == "fixed_shape_resizer":
        height, width = resizer.fixed_shape_resizer.height, resizer.fixed_shape_resizer.width
    elif kind == "keep_aspect_ratio_resizer":
        height = width = resizer.keep_aspect_ratio_resizer.max_dimension
    else:
        raise StageError(
            "unsupported-model",
            f"The model's image resizer ({kind or 'none'}) has no fixed size.",
            "Set image_size in the recipe.",
        )
    if kind == "fixed_shape_resizer":
        fixed = resizer.fixed_shape_resizer
        if fixed.convert_to_grayscale:
            raise StageError(
                "unsupported-model", "The model takes greyscale images.", "Use an RGB model."
            )
        fixed.height, fixed.width = height, width
    else:
        resizer.fixed_shape_resizer.height = height
        resizer.fixed_shape_resizer.width = width
    return int(height), int(width)


def _rcnn_name(config: Any) -> str:
    if config.HasField("context_config"):
        return "Context R-CNN"
    return "Mask R-CNN" if config.number_of_stages == 3 else "Faster R-CNN"
