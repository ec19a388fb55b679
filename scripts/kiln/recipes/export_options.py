"""Say which options of an export do not go together, or not with the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Options of how overlapping boxes are suppressed, by their key in a recipe's [export].
SUPPRESSION = (
    "regular_nms",
    "nms_score_threshold",
    "nms_iou_threshold",
    "max_detections_per_class",
)


#: Values of postprocess: what the files' graphs end in.
TFLITE, NONE = "tflite", "none"


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of :data:`SUPPRESSION` that differ from the default."""
    found = {name: options[name] for name in SUPPRESSION}
    return {
        name: value for name, value in found.items() if value is not None and value is not False
    }


def contradiction(options: Mapping[str, Any], architecture: str) -> tuple[str, str] | None:
    """Find an option that has no effect.

    Args:
        options: all of :data:`SUPPRESSION`, and ``postprocess``.
        architecture: as in a recipe.

    Returns:
        (the option, why: the end of a sentence), or ``None``.
    """
    chosen = given(options)
    if chosen and architecture == "centernet":
        return next(iter(chosen)), "a CenterNet finds peaks, and suppresses no overlapping boxes"
    within = "regular_nms" in chosen or options["postprocess"] == NONE
    if "max_detections_per_class" in chosen and not within:
        return (
            "max_detections_per_class",
            "only regular NMS counts by class; the fast one, which is the default, does not",
        )
    return None


def why_not_raw(
    options: Mapping[str, Any],
    architecture: str,
    image: str,
    exported: bool,
    variants: Sequence[str],
) -> tuple[str, str] | None:
    """Find why a file cannot be had without post-processing.

    Args:
        options: ``postprocess``, ``output_order`` and ``regular_nms``.
        architecture: as in a recipe.
        image: as in a recipe.
        exported: whether the source is an exported graph.
        variants: those of the recipe.

    Returns:
        (the option, why: the end of a sentence), or ``None``.
    """
    if options["postprocess"] != NONE:
        return None
    if architecture == "centernet":
        why = "a CenterNet has no raw boxes, it decodes its heat maps within the graph"
        return "postprocess", why
    if image == "modelmaker":
        why = "Model Maker's own export always ends in TFLite's detection operator"
        return "postprocess", why
    if exported:
        why = "an exported graph has its own post-processing, which cannot be taken out"
        return "postprocess", why
    if "prebuilt" in variants:
        why = "variant 'prebuilt' is the publisher's own file, with its own outputs"
        return "postprocess", why
    if options["output_order"] != "tf2":
        why = (
            "without post-processing there are two outputs, raw boxes and raw scores in this order"
        )
        return "output_order", why
    if options["regular_nms"]:
        why = "decoding suppresses boxes as the model's own post-processing does, anyway"
        return "regular_nms", why
    return None


def why_not_int8(
    variants: Sequence[str],
    architecture: str,
    image: str,
    extractor: str = "",
    stated: tuple[Sequence[float], Sequence[float]] | None = None,
) -> str:
    """Return why an int8 input cannot be had, as the end of a sentence; "" if it may.

    Other models' normalisation is only known once they are built: the conversion decides for them.

    Args:
        variants: those of the recipe.
        architecture: as in a recipe.
        image: as in a recipe.
        extractor: type of the feature extractor; empty: not known.
        stated: mean and std by channel, where a user states them.
    """
    if "int8" not in variants:
        return "it is the input of variant 'int8', which is not among the variants"
    unlike = "normalises each colour channel differently, and an input in eight bits has one scale"
    if architecture == "efficientdet" and image == "odapi":
        return f"an EfficientDet of the Object Detection API {unlike}"
    if architecture == "ssd" and "resnet" in extractor:
        return f"{extractor} {unlike}"
    if stated is not None and any(len(set(values)) > 1 for values in stated):
        return f"this mean and std {unlike.replace('normalises', 'normalise')}"
    return ""
