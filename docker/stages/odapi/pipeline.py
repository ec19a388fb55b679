"""Read a model's ``pipeline.config`` and check that the model can be converted."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Optional

from stages.odapi import config_text
from stages.protocol.failures import StageError

SUPPORTED = ("ssd", "center_net")

SIZED_RESIZERS = ("fixed_shape_resizer", "keep_aspect_ratio_resizer")
"""Image resizers that say how large a model's input is."""

TF1_EXTRACTORS = "ssd of TensorFlow 1"
"""Key of those in a mapping of extractors."""

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

_CONVERTED = (
    "SSD-like models (SSD, RetinaNet, EfficientDet) and CenterNet of TensorFlow 2 can be converted."
)

_OTHER_TASKS = (
    "deepmac_mask_estimation",
    "mask_estimation_task",
    "densepose_estimation_task",
    "track_estimation_task",
    "temporal_offset_task",
)


def read_pipeline(model_folder: Path) -> Any:
    """Parse the ``pipeline.config`` (a ``TrainEvalPipelineConfig``) of a supported model.

    CenterNet's keypoints are left out (:func:`keypoint_tasks`), as the exporter leaves them out.
    Building them would read a label map by a path of the machine that the model was trained on.

    Raises:
        StageError: the file is missing, cannot be parsed, or describes an architecture that
            cannot be exported (the message says why).
    """
    pipeline = _parse(model_folder)
    check_architecture(pipeline)
    check_extractor(pipeline, _known_extractors())
    check_parts(pipeline)
    if pipeline.model.WhichOneof("model") == "center_net":
        del pipeline.model.center_net.keypoint_estimation_task[:]
        pipeline.model.center_net.ClearField("keypoint_label_map_path")
    _spell_out_separable(pipeline)
    return pipeline


def keypoint_tasks(model_folder: Path) -> list[str]:
    """Return the names of a CenterNet's keypoint tasks, which :func:`read_pipeline` leaves out."""
    return [
        task.task_name for task in _parse(model_folder).model.center_net.keypoint_estimation_task
    ]


def evaluates_averages(pipeline: Any) -> bool:
    """Whether the training's own evaluation uses moving averages of the weights."""
    return bool(pipeline.eval_config.use_moving_averages)


def _parse(model_folder: Path) -> Any:
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
        text = config_text.decode(path.read_bytes())
        try:
            text_format.Parse(text, pipeline)
        except text_format.ParseError:
            # Perhaps it is in a part that a conversion never needs.
            pipeline.Clear()
            text_format.Parse(config_text.needed(text), pipeline)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise StageError(
            "unsupported-model",
            f"pipeline.config cannot be read: {str(error).strip()}",
            "Line and column are given first. A field that is not known is in the wrong block, or"
            " belongs to a changed Object Detection API, whose models cannot be converted.",
        ) from error
    return pipeline


def check_architecture(pipeline: Any) -> None:
    """Refuse an architecture that the exporter cannot convert, with the reason.

    Raises:
        StageError: ``pipeline`` is not an SSD-like or CenterNet model.
    """
    architecture = pipeline.model.WhichOneof("model")
    if architecture is None:
        raise StageError("unsupported-model", "pipeline.config names no model.", _CONVERTED)
    if architecture not in SUPPORTED:
        name, reason = architecture, _REASONS.get(architecture, "there is no exporter for it")
        if architecture == "faster_rcnn":
            name = _rcnn_name(pipeline.model.faster_rcnn)
        raise StageError("unsupported-model", f"{name} cannot be converted: {reason}.", _CONVERTED)


def check_extractor(pipeline: Any, known: Mapping[str, Collection[str]]) -> None:
    """Refuse a feature extractor that TensorFlow 2's Object Detection API does not have.

    Args:
        known: names of extractors by architecture; and, with the key :data:`TF1_EXTRACTORS`, those
            of TensorFlow 1 where they are known.

    Raises:
        StageError: there is none, or it is not known.
    """
    architecture, extractor = pipeline.model.WhichOneof("model"), feature_extractor_type(pipeline)
    if not extractor:
        raise StageError(
            "unsupported-model", "pipeline.config names no feature extractor.", _CONVERTED
        )
    if extractor in known[architecture]:
        return
    if extractor in known.get(TF1_EXTRACTORS, ()) or f"{extractor}_keras" in known[architecture]:
        raise StageError(
            "unsupported-model",
            f"The feature extractor {extractor!r} is one of TensorFlow 1's.",
            "Only models of the TensorFlow 2 Object Detection API can be converted; another name"
            " here does not help, because their checkpoints differ. Train the model with it, or"
            " convert it with TensorFlow 1's own tools.",
        )
    names = sorted(known[architecture])
    near = difflib.get_close_matches(extractor, names, 1, cutoff=0.85)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(names)}."
    raise StageError(
        "unsupported-model",
        f"The feature extractor {extractor!r} is none of the Object Detection API's.",
        f"A model of a changed API, with an extractor of its own, cannot be converted. {hint}",
    )


def check_parts(pipeline: Any) -> None:
    """Refuse parts of a supported model that the exporter cannot convert.

    Raises:
        StageError: it has such a part; the message names it.
    """
    architecture = pipeline.model.WhichOneof("model")
    if architecture == "ssd":
        _check_ssd(pipeline.model.ssd)
    else:
        _check_center_net(pipeline.model.center_net)
    _refuse_greyscale(getattr(pipeline.model, architecture).image_resizer)


def _known_extractors() -> dict[str, Collection[str]]:
    from object_detection.builders import model_builder

    return {
        "ssd": model_builder.SSD_KERAS_FEATURE_EXTRACTOR_CLASS_MAP,
        "center_net": model_builder.CENTER_NET_EXTRACTOR_FUNCTION_MAP,
    }


def _check_ssd(ssd: Any) -> None:
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
    if not center_net.HasField("object_detection_task"):
        raise StageError(
            "unsupported-model",
            "This CenterNet has no object_detection_task: it predicts no boxes.",
            "CenterNet with boxes (and keypoints, which are left out) can be converted.",
        )


def _refuse_greyscale(resizer: Any) -> None:
    kind = resizer.WhichOneof("image_resizer_oneof")
    # A configuration that the driver has read gives the word, as it is written.
    told = getattr(getattr(resizer, kind), "convert_to_grayscale", False) if kind else False
    if told in (True, "true", "True", "t"):
        raise StageError(
            "unsupported-model",
            "The model takes greyscale images.",
            "TFLite's metadata and the runtimes' detector APIs know RGB only: train the model"
            " without convert_to_grayscale.",
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


def image_resizer(pipeline: Any) -> Any:
    """Return the model's ``image_resizer``, as in ``pipeline.config``."""
    return getattr(pipeline.model, pipeline.model.WhichOneof("model")).image_resizer


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
            "Set export.max_detections in the recipe (--max-detections), from 1 to 1000.",
        )
    if pipeline.model.WhichOneof("model") == "ssd":
        suppression = pipeline.model.ssd.post_processing.batch_non_max_suppression
        suppression.max_total_detections = count
        # The builder refuses more detections of one class than in total.
        suppression.max_detections_per_class = min(suppression.max_detections_per_class, count)
    else:
        pipeline.model.center_net.object_center_params.max_box_predictions = count
    return count


def suppression(pipeline: Any) -> dict[str, Optional[float]]:
    """Return the thresholds of a configuration's suppression, as facts of a stage.

    Returns:
        ``nms_score_threshold``, below which it outputs nothing, and ``nms_iou_threshold``; None
        for CenterNet, which has none.
    """
    names = ("score_threshold", "iou_threshold")
    if pipeline.model.WhichOneof("model") != "ssd":
        return {f"nms_{name}": None for name in names}
    said = pipeline.model.ssd.post_processing.batch_non_max_suppression
    return {f"nms_{name}": threshold_fact(getattr(said, name)) for name in names}


def threshold_fact(value: float) -> Optional[float]:
    """Return a threshold as a fact: None for one that nothing is below (-inf)."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def built_suppression(pipeline: Any, wanted: Mapping[str, Any]) -> Optional[dict[str, Any]]:
    """Return the options of TFLite's detection operator for this model; None for CenterNet.

    Args:
        pipeline: the configuration; it is not changed.
        wanted: parameters of the stages: ``regular_nms``, ``nms_score_threshold``,
            ``nms_iou_threshold``, ``max_detections_per_class``; None: the model's own value.

    Returns:
        ``regular`` (suppression within each class), ``score_threshold`` (None: the model's own,
        which nothing is below: minus infinity), ``iou_threshold``,
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

    least = float(chosen("nms_score_threshold", own.score_threshold))
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
        "score_threshold": least if math.isfinite(least) else None,
        "iou_threshold": iou,
        "detections_per_class": int(
            chosen("max_detections_per_class", own.max_detections_per_class)
        ),
    }


def set_suppression(pipeline: Any, chosen: Mapping[str, Any]) -> None:
    """Put a :func:`built_suppression` where the model and the exporter read it."""
    own = pipeline.model.ssd.post_processing.batch_non_max_suppression
    if chosen["score_threshold"] is not None:
        own.score_threshold = chosen["score_threshold"]
    own.iou_threshold = chosen["iou_threshold"]
    # The builder refuses more detections of one class than in total.
    own.max_detections_per_class = min(chosen["detections_per_class"], own.max_total_detections)


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
    resizer = image_resizer(pipeline)
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
            "Set export.image_size in the recipe (--image-size).",
        )
    if kind == "fixed_shape_resizer":
        fixed = resizer.fixed_shape_resizer
        fixed.height, fixed.width = height, width
    else:
        resizer.fixed_shape_resizer.height = height
        resizer.fixed_shape_resizer.width = width
    return int(height), int(width)


def _rcnn_name(config: Any) -> str:
    if config.HasField("context_config"):
        return "Context R-CNN"
    return "Mask R-CNN" if config.number_of_stages == 3 else "Faster R-CNN"
