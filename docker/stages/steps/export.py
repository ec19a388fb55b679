"""Stage: export an Object Detection API checkpoint to a SavedModel for the TFLite converter.

The package's own ``export_tflite_model`` does the work. In addition, the model is checked before,
the restore is verified after, and batch norms are made exact
(:mod:`stages.odapi.exact_batch_norm`).
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from stages.files.checkpoint_files import find_checkpoint
from stages.files.facts_file import FACTS_FILE
from stages.odapi import (
    detection_model,
    pipeline,
    raw_outputs,
    resizing,
    restoration,
    saved_model_names,
)
from stages.odapi.config_differences import Built, differences, unmodified
from stages.odapi.exact_batch_norm import exact_batch_norms
from stages.odapi.lean_save import lean_save
from stages.odapi.plain_tracing import without_autograph
from stages.protocol.failures import StageError
from stages.tflite import decoding

ENVIRONMENT = "main"

PARAMS = {
    "max_detections": None,  # int; None: what the model's own post-processing keeps
    "image_size": None,  # [height, width] in pixels; None: the model's own
    "exact_batch_norm": True,  # False: the package's plain export, CPU-dependent after conversion
    # Of SSD-like models; see stages.odapi.pipeline.built_suppression. None: the model's own.
    "regular_nms": False,
    "nms_score_threshold": None,
    "nms_iou_threshold": None,
    "max_detections_per_class": None,
    # "none": raw boxes and scores instead of TFLite's detection operator; of SSD-like models.
    "postprocess": decoding.TFLITE,
}

DECODING = "decoding"
"""The folder, beside ``saved_model/``, of the files that say how raw outputs are decoded."""


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Export the model folder ``inputs["checkpoint"]`` to ``out/saved_model``.

    With ``postprocess`` "none" the graph outputs raw scores and raw boxes, and ``out/decoding/``
    holds how they become detections (:mod:`stages.tflite.decoding`).

    The fact ``differences`` lists what is built otherwise than its configuration says
    (:mod:`stages.odapi.config_differences`).

    Returns:
        Facts: ``architecture``, ``feature_extractor``, ``num_classes``, ``input`` (height and
        width in pixels), ``max_detections``, ``suppression``
        (:func:`stages.odapi.pipeline.built_suppression`), ``normalization`` (mean and std per
        channel, in pixel values, as the exported graph wants them), ``feeding``
        (:mod:`stages.files.feeding`), ``resizer`` (:func:`stages.odapi.resizing.as_text`),
        ``score_conversion``, ``nms_score_threshold`` and ``nms_iou_threshold`` (as exported; None
        where there is no suppression), ``checkpoint`` (name of the prefix), ``weights_from``
        (``averages`` or ``raw``), ``left_out`` (names of keypoint tasks), ``notes`` (texts: what
        was chosen and left out), ``variables`` (restored and compared), ``exact_batch_norms``,
        ``untrained`` (texts: reasons to think that it was never trained); and without
        post-processing ``decoding`` (:meth:`stages.tflite.decoding.Decoding.as_fact`).

    Raises:
        StageError: the model cannot be converted, or the checkpoint does not fit it.
    """
    folder = inputs["checkpoint"]
    prefix = find_checkpoint(folder)
    emit.progress(0, 3, "importing TensorFlow")
    from stages.odapi import tensorflow_setup

    tensorflow_setup.load()
    config = pipeline.read_pipeline(folder)
    trained = unmodified(config)
    training = restoration.open_training(prefix, pipeline.evaluates_averages(config))
    left_out = pipeline.keypoint_tasks(folder)
    for note in training.notes:
        emit.warning(note)
    resizer = resizing.as_text(resizing.as_built(config, params["image_size"]))
    size = pipeline.fix_image_size(config, params["image_size"])
    max_detections = pipeline.set_max_detections(config, params["max_detections"])
    raw = params["postprocess"] == decoding.NONE
    suppression = _set_suppression(config, params, raw)
    options = {
        "max_detections": max_detections,
        "use_regular_nms": suppression is not None and suppression["regular"],
    }

    emit.progress(1, 3, "exporting")
    model, exact, anchors = _export(config, training, out, options, params["exact_batch_norm"], raw)

    emit.progress(2, 3, "comparing with the checkpoint")
    variables, unused = restoration.check_restored(model, training)
    architecture = config.model.WhichOneof("model")
    if unused and not left_out:
        if architecture == "ssd":
            raise restoration.mismatch(
                f"{len(unused)} of its variables have no place in the model", unused
            )
        emit.warning(f"{len(unused)} variables of the checkpoint are not exported: {unused[0]}, …")
    normalization = detection_model.normalization(model, architecture, size)
    facts = {
        "architecture": architecture,
        "feature_extractor": pipeline.feature_extractor_type(config),
        "num_classes": pipeline.num_classes(config),
        "input": {"height": size[0], "width": size[1]},
        "max_detections": max_detections,
        "suppression": suppression,
        "normalization": normalization,
        "feeding": resizing.described(resizer, architecture, normalization).as_fact(),
        "resizer": resizer,
        "score_conversion": pipeline.score_conversion(config),
        **pipeline.suppression(config),
        "checkpoint": prefix.name,
        "weights_from": training.weights_from,
        "left_out": left_out,
        "notes": list(training.notes),
        "variables": variables,
        "exact_batch_norms": exact,
        "untrained": detection_model.untrained(model),
    }
    if anchors and suppression is not None:
        how = raw_outputs.described(config, anchors[-1], suppression, max_detections)
        _write_decoding(out / DECODING, how)
        facts["decoding"] = how.as_fact()
    built = Built(size, max_detections, suppression, left_out=left_out)
    facts["differences"] = differences(trained, built)
    if params["exact_batch_norm"]:
        saved_model_names.canonicalize(out / "saved_model")
    # assets.extra is the SavedModel format's place for extra files: the facts travel with the
    # folder, and a conversion finds the normalisation there.
    extra = out / "saved_model" / "assets.extra"
    extra.mkdir()
    (extra / FACTS_FILE).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    emit.progress(3, 3, "exported")
    return facts


def _set_suppression(config: Any, params: dict[str, Any], raw: bool) -> Optional[dict[str, Any]]:
    """Choose how overlapping boxes are suppressed, changing ``config``; None for CenterNet."""
    suppression = pipeline.built_suppression(config, params)
    if suppression is not None:
        pipeline.set_suppression(config, suppression)
        if raw:  # decoding suppresses as the model's own post-processing does
            own = config.model.ssd.post_processing.batch_non_max_suppression
            suppression["regular"] = not own.use_class_agnostic_nms
        return suppression
    if raw:
        raise StageError(
            "unsupported-model",
            "A CenterNet has no raw boxes: it decodes its heat maps within the graph.",
            "Leave out export.postprocess (--postprocess).",
        )
    return None


def _write_decoding(folder: Path, how: decoding.Decoding) -> None:
    folder.mkdir()
    for name, content in how.as_files().items():
        (folder / name).write_bytes(content)


def _export(
    config: Any,
    training: restoration.Training,
    out: Path,
    options: dict[str, Any],
    exact: bool,
    raw: bool,
) -> tuple[Any, int, list[Any]]:
    """Run the package's exporter with its ``options``.

    With ``exact`` batch norms, models are traced :func:`without_autograph` where that can be.

    Returns:
        (the model it built, number of batch norms made exact, anchors of its ``raw`` outputs).
    """
    if exact:
        with contextlib.suppress(TypeError):
            return _traced(config, training, out, options, exact, raw, autograph=False)
    return _traced(config, training, out, options, exact, raw, autograph=True)


def _traced(
    config: Any,
    training: restoration.Training,
    out: Path,
    options: dict[str, Any],
    exact: bool,
    raw: bool,
    autograph: bool,
) -> tuple[Any, int, list[Any]]:
    """Do the work of :func:`_export` in one way."""
    from object_detection import export_tflite_graph_lib_tf2 as exporter

    detection_model.fresh_names()
    with contextlib.ExitStack() as stack:
        folder = _clean_checkpoint_folder(stack, training)
        stack.enter_context(detection_model.no_downloads())
        size = pipeline.fix_image_size(config, None)
        built = stack.enter_context(_kept_models(size if exact else None, training, autograph))
        anchors = stack.enter_context(raw_outputs.instead_of_the_operator(exporter)) if raw else []
        folded, saved = None, None
        if exact:
            folded = stack.enter_context(exact_batch_norms())
            saved = stack.enter_context(lean_save(exporter.tf.saved_model))
        try:
            exporter.export_tflite_model(config, str(folder), str(out), **options)
        except StageError:
            raise
        except (ValueError, AssertionError) as error:
            # A model that could not even be traced has nothing to compare.
            fault = detection_model.size_fault(error, size)
            if fault is not None:
                raise fault from error
            # A checkpoint that does not fit fails here with one of TensorFlow's own messages; the
            # comparison names the variables, and any other error is raised unchanged.
            if built:
                restoration.check_restored(built[0], training)
            raise
    number = folded.check(built[0], saved[0].graph) if folded and saved else 0
    return built[0], number, anchors


def _clean_checkpoint_folder(stack: contextlib.ExitStack, training: restoration.Training) -> Path:
    """Make a folder with one checkpoint's files, as links, and a state file that names it.

    The exporter trusts the state file, which often names a folder of another machine. A checkpoint
    that the exporter would not restore as it should be is written anew.
    """
    folder, prefix = Path(stack.enter_context(tempfile.TemporaryDirectory())), training.prefix
    if training.as_exporter_expects:
        for path in prefix.parent.glob(f"{prefix.name}.*"):
            (folder / path.name).symlink_to(path.resolve())
    else:
        restoration.write_for_exporter(training, folder / prefix.name)
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{prefix.name}"\n')
    return folder


@contextlib.contextmanager
def _kept_models(
    size: Optional[tuple[int, int]], training: restoration.Training, autograph: bool
) -> Iterator[list[Any]]:
    """While active, every model built by ``model_builder.build`` is also put into the list.

    With a ``size`` (height, width) the model's variables are created at once, and compared with
    what the training saved. The checkpoint is then restored into variables that exist, before
    anything is traced, and the exporter's function is traced once; one that creates variables is
    traced twice, which takes longer. Without ``autograph`` nothing is traced with it either.
    """
    from object_detection.builders import model_builder

    original = model_builder.build
    built: list[Any] = []

    def build(*args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        if size is not None:
            if not autograph:
                traced.enter_context(without_autograph(model))
            detection_model.create_variables(model, size)
            restoration.check_usable(model, training)
            description = kwargs["model_config"] if "model_config" in kwargs else args[0]
            detection_model.keep(description, size, model)
        built.append(model)
        return model

    model_builder.build = build
    try:
        with contextlib.ExitStack() as traced:
            yield built
    finally:
        model_builder.build = original
