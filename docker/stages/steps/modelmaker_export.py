"""Stage: export an EfficientDet-Lite checkpoint to a SavedModel for the TFLite converter.

Model Maker does the work: its ``EfficientDetNet``, automl's ``restore_ckpt``, and the half of
``ObjectDetector.export`` for TFLite that comes before the converter. In addition, the restore is
strict and verified (:mod:`stages.lite.automl_checkpoint`), and batch norms are made exact
(:mod:`stages.odapi.exact_batch_norm`).
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from stages.files import feeding
from stages.files.facts_file import FACTS_FILE
from stages.lite import automl_checkpoint, efficientdet_lite, model_maker
from stages.odapi import saved_model_names
from stages.odapi.config_differences import input_size, most_detections
from stages.odapi.exact_batch_norm import exact_batch_norms
from stages.odapi.lean_save import lean_save
from stages.odapi.plain_tracing import without_autograph
from stages.protocol.model_cache import Kept
from stages.protocol.request import REQUIRED

ENVIRONMENT = "main"

PARAMS = {
    "spec": REQUIRED,  # "efficientdet_lite0" to "efficientdet_lite4"
    "max_detections": None,  # int; None: Model Maker's own (25)
    "image_size": None,  # [height, width] in pixels; None: the spec's own
    "exact_batch_norm": True,  # False: Model Maker's plain export, CPU-dependent after conversion
    # See stages.lite.efficientdet_lite.suppression. None: Model Maker's own.
    "regular_nms": False,
    "nms_score_threshold": None,
    "nms_iou_threshold": None,
    "max_detections_per_class": None,
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Export the checkpoint in the folder ``inputs["checkpoint"]`` to ``out/saved_model``.

    The fact ``differences`` lists what is built otherwise than the spec has it
    (:mod:`stages.odapi.config_differences`).

    Returns:
        Facts: ``architecture`` (``efficientdet``), ``spec``, ``num_classes`` (of the class head),
        ``input`` (height and width in pixels), ``max_detections``, ``suppression``
        (:func:`stages.lite.efficientdet_lite.suppression`), ``nms_score_threshold`` (below which
        it outputs nothing; None: it has none) and ``nms_iou_threshold``, ``normalization`` (mean
        and std per channel, in pixel values, as the exported graph wants them), ``feeding``
        (:mod:`stages.files.feeding`), ``checkpoint`` (name of the prefix), ``checkpoint_kind``
        (:mod:`stages.lite.automl_checkpoint`), ``variables`` (restored and compared),
        ``exact_batch_norms``, ``untrained`` (texts: reasons to think that it was never trained).

    Raises:
        StageError: the checkpoint is not an EfficientDet-Lite's, or does not fit the spec.
    """
    emit.progress(0, 3, "importing Model Maker")
    model_maker.load()
    net, spec, checkpoint, variables = restored(params, inputs["checkpoint"])

    emit.progress(1, 3, "exporting")
    folder = out / "saved_model"
    suppression = efficientdet_lite.suppression(spec.config, params)
    with efficientdet_lite.suppressing(spec.config, suppression):
        exact = _export(net, spec, folder, params["exact_batch_norm"])

    emit.progress(2, 3, "checking its heads")
    height, width = spec.config.image_size
    scores = efficientdet_lite.probe_scores(net, spec)
    normalization = efficientdet_lite.normalization(spec)
    facts = {
        "architecture": "efficientdet",
        "spec": params["spec"],
        "num_classes": spec.config.num_classes,
        "input": {"height": height, "width": width},
        "max_detections": spec.config.tflite_max_detections,
        "suppression": suppression,
        "nms_score_threshold": suppression["score_threshold"],
        "nms_iou_threshold": suppression["iou_threshold"],
        "normalization": normalization,
        # Its data loader normalises, scales, and pads with zeros.
        "feeding": feeding.letterbox(tuple(normalization["mean"])).as_fact(),
        "checkpoint": checkpoint.prefix.name,
        "checkpoint_kind": checkpoint.kind,
        "variables": variables,
        "exact_batch_norms": exact,
        "untrained": efficientdet_lite.untrained(net.class_net.classes, net.box_net.boxes, scores),
    }
    facts["differences"] = _differences(params, spec)
    if params["exact_batch_norm"]:
        saved_model_names.canonicalize(folder)
    # See stages.steps.export: the facts travel with the folder.
    extra = folder / "assets.extra"
    extra.mkdir()
    (extra / FACTS_FILE).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    emit.progress(3, 3, "exported")
    return facts


def _differences(params: dict[str, Any], spec: Any) -> list[dict[str, str]]:
    """List what was built otherwise than the spec has it."""
    if params["image_size"] is None and params["max_detections"] is None:
        return []
    own, built = efficientdet_lite.model_spec(params["spec"], 1).config, spec.config
    return [
        *input_size(tuple(own.image_size), tuple(built.image_size)),
        *most_detections(own.tflite_max_detections, built.tflite_max_detections),
    ]


_kept = Kept()


def restored(params: dict[str, Any], folder: Path) -> tuple[Any, Any, Any, int]:
    """Build the net of ``params`` (``spec``, ``image_size``, ``max_detections``) and restore it.

    Returns:
        (the net, its specification, the :class:`stages.lite.automl_checkpoint.Checkpoint`, number
        of variables restored and compared).

    Raises:
        StageError: as :func:`run`.
    """
    size, most = params["image_size"], params["max_detections"]
    spec = efficientdet_lite.model_spec(params["spec"], 1, size, most)
    checkpoint = automl_checkpoint.find(folder)
    spec.config.num_classes = automl_checkpoint.num_classes(checkpoint, spec.config)
    key = (params["spec"], tuple(spec.config.image_size), spec.config.num_classes, most)
    net = _kept.get(key, lambda: efficientdet_lite.net(spec))
    return net, spec, checkpoint, automl_checkpoint.restore(checkpoint, net)


def _export(net: Any, spec: Any, folder: Path, exact: bool) -> int:
    """Trace and save; return the number of batch norms made exact."""
    with contextlib.ExitStack() as stack:
        folded, saved = None, None
        if exact:
            folded = stack.enter_context(exact_batch_norms())
            saved = stack.enter_context(lean_save(model_maker.load().tf.saved_model))
            stack.enter_context(without_autograph(net, ["call"]))
        # As EfficientDetModelSpec.export_tflite does: normalised images in, boxes out of
        # TFLite's detection operator.
        spec.export_saved_model(net, str(folder), batch_size=1, pre_mode=None, post_mode="tflite")
        return folded.check(net, saved[0].graph) if folded and saved else 0
