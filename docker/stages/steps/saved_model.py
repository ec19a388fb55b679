"""Stage: use a SavedModel that was already exported for TFLite, in place of an export.

The graph is not changed. What :mod:`stages.steps.export` knows from the checkpoint is derived from
the graph and the files beside it, or has to be given.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Optional

from stages.files import feeding, labelmap
from stages.files.facts_file import FACTS_FILE
from stages.files.normalizations import Normalization, named, three
from stages.odapi import detection_model, pipeline, resizing
from stages.odapi.config_differences import Built, differences
from stages.protocol.failures import StageError
from stages.saved import saved_model_graph

ENVIRONMENT = "main"

PARAMS = {
    # {"mean": [..], "std": [..]}, one number each or one a channel, in pixel values: the graph's
    # normalisation, where no file states it.
    "normalization": None,
}

GIVEN = "given"
"""``normalization_from`` where only the user states it."""

NAME = "saved_model"
"""The source's name in a record, since there is no checkpoint."""


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Copy the folder ``inputs["saved_model"]`` to ``out/saved_model``, and report its facts.

    Inputs: ``saved_model``; ``label_map``; and, where there is one, ``config``: a folder with the
    ``pipeline.config`` that the model was trained with.

    The fact ``differences`` lists what was built otherwise than that says; without it, what our own
    export left in the folder.

    Returns:
        Facts as those of :mod:`stages.steps.export`: ``architecture``, ``num_classes``, ``input``,
        ``max_detections`` (None where the graph does not say), ``nms_score_threshold``,
        ``nms_iou_threshold`` (those of the graph), ``normalization``, ``feeding``, ``resizer``
        (None where no file tells it: the feeding is then an assumption), ``checkpoint``,
        ``variables``, ``weights`` (numbers in them), ``exact_batch_norms`` (0), ``untrained``. And
        ``normalization_from`` (``given``, ``export.json``, ``graph`` or ``pipeline.config``),
        ``batch_norms`` (left to the converter, which folds them with the CPU's approximate square
        root), ``same_on_every_cpu`` (whether there are none).

    Raises:
        StageError: it is not a SavedModel that can be converted; the label map or the
            ``pipeline.config`` is another model's; or its normalisation is unknown, or differs from
            the given one.
    """
    folder = inputs["saved_model"]
    emit.progress(0, 2, "importing TensorFlow")
    from stages.odapi import tensorflow_setup

    tensorflow_setup.load()
    graph = saved_model_graph.read(folder)
    size = (graph.height, graph.width)
    config = pipeline.read_pipeline(inputs["config"]) if "config" in inputs else None
    classes = _num_classes(graph, inputs["label_map"], config)
    left = _left_facts(folder)
    left_out = pipeline.keypoint_tasks(inputs["config"]) if "config" in inputs else []
    unlike = _differences(graph, config, left, left_out)
    emit.progress(1, 2, "checking its input")
    resizer = _resizer(left, config, size)
    norm, origin = _normalization(params["normalization"], left, graph, config, size)
    how = feeding.ASSUMED
    if resizer is None:
        emit.warning(
            "nothing says how its pictures were resized in training, so they are stretched to its"
            " input: a model that was trained letterboxed finds less that way; its pipeline.config"
            " would say it"
        )
    else:
        how = resizing.described(resizer, graph.architecture, norm.as_fact())
    variables, numbers = _variables(folder)
    shutil.copytree(folder, out / "saved_model")
    if graph.batch_norms:
        emit.warning(
            f"its {graph.batch_norms} batch norms are folded by the converter: another CPU model"
            " may give other bytes"
        )
    emit.progress(2, 2, "copied unchanged")
    return {
        "differences": unlike,
        "architecture": graph.architecture,
        "num_classes": classes,
        "input": {"height": size[0], "width": size[1]},
        "max_detections": graph.max_detections,
        **_suppression(graph),
        "normalization": norm.as_fact(),
        "normalization_from": origin,
        "feeding": how.as_fact(),
        "resizer": resizer,
        "checkpoint": NAME,
        "variables": variables,
        "weights": numbers,
        "exact_batch_norms": 0,
        "batch_norms": graph.batch_norms,
        "same_on_every_cpu": not graph.batch_norms,
        # Our own exports state it; for other graphs it is unknown.
        "untrained": [str(why) for why in left.get("untrained", ())],
    }


def _num_classes(graph: saved_model_graph.SavedGraph, label_map: Path, config: Any) -> int:
    """Return how many classes it scores, by its graph, else by its configuration or label map.

    Raises:
        StageError: kind ``unsupported-model``; ``config`` is of another model.
    """
    own = None if graph.postprocess is None else graph.postprocess.num_classes
    if config is not None:
        architecture, classes = config.model.WhichOneof("model"), pipeline.num_classes(config)
        if architecture != graph.architecture or (own is not None and own != classes):
            counted = "" if own is None else f" of {own} classes"
            raise StageError(
                "unsupported-model",
                f"pipeline.config is not this SavedModel's: it describes {architecture} with"
                f" {classes} classes, and the graph is {graph.architecture}{counted}.",
                "Name the pipeline.config that the model was exported with, or none.",
            )
        own = classes
    if own is None:
        own = max(item.id for item in labelmap.load(label_map).items)
    return own


def _differences(
    graph: saved_model_graph.SavedGraph,
    config: Any,
    left: Mapping[str, Any],
    left_out: Collection[str] = (),
) -> list[dict[str, str]]:
    """Compare the graph with its configuration; else, take what our own export found."""
    if config is None:
        found = left.get("differences", [])
        return found if isinstance(found, list) and _are_differences(found) else []
    own = graph.postprocess
    built = Built(
        size=(graph.height, graph.width),
        max_detections=graph.max_detections,
        suppression=own
        and {
            "regular": own.use_regular_nms,
            "score_threshold": own.score_threshold,
            "iou_threshold": own.iou_threshold,
            "detections_per_class": own.detections_per_class,
        },
        scales=own and own.scales,
        exported=True,
        left_out=left_out,
    )
    return differences(config, built)


def _are_differences(found: list[Any]) -> bool:
    keys = {"what", "config", "built", "effect"}
    return all(
        isinstance(item, dict)
        and set(item) == keys
        and all(isinstance(text, str) for text in item.values())
        for item in found
    )


def _suppression(graph: saved_model_graph.SavedGraph) -> dict[str, Optional[float]]:
    """Return the thresholds of the graph's own suppression; None for CenterNet, without one."""
    own = graph.postprocess
    names = ("score_threshold", "iou_threshold")
    return {
        f"nms_{name}": None if own is None else pipeline.threshold_fact(getattr(own, name))
        for name in names
    }


def _left_facts(folder: Path) -> Mapping[str, Any]:
    """Read the facts that our own export left beside the graph; empty for other exports."""
    try:
        text = (folder / "assets.extra" / FACTS_FILE).read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _normalization(
    said: Optional[Mapping[str, Any]],
    left: Mapping[str, Any],
    graph: saved_model_graph.SavedGraph,
    config: Any,
    size: tuple[int, int],
) -> tuple[Normalization, str]:
    """Determine the graph's normalisation, and where it is stated.

    Raises:
        StageError: kind ``unsupported-model``; it is not stated, or sources contradict each other.
    """
    given = None if said is None else _read(said)
    if said is not None and given is None:
        raise StageError("stage-failed", f"{dict(said)!r} is not a normalisation.")
    known, origin = _known(left, graph, config, size)
    if given is not None and known is None:
        return given, GIVEN
    if given is not None and known is not None and known.difference(given) > 1e-3:
        raise StageError(
            "unsupported-model",
            f"This SavedModel wants {named(known)}, not {named(given)}: {_SAYS[origin]}.",
            f"Give --mean {known.mean[0]:g} --std {known.std[0]:g}, or leave both out."
            if len({*known.mean}) == len({*known.std}) == 1
            else "Leave out --mean and --std.",
        )
    if known is None:
        raise StageError(
            "unsupported-model",
            "The normalisation of this SavedModel is not in its files: an SSD-like export for"
            " TFLite starts after it.",
            "Give the pipeline.config that it was trained with (--pipeline-config), so that it can"
            " be measured; or give it: --mean 127.5 --std 127.5 (-1 to 1: MobileNet), --mean 0"
            " --std 255 (0 to 1), --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375"
            " (EfficientDet, ResNet by ImageNet's).",
        )
    return known, origin


_SAYS = {
    FACTS_FILE: "the export that made it left that beside the graph",
    "graph": "a CenterNet's preprocessing is inside its graph",
    "pipeline.config": "that is what the preprocessing of its pipeline.config does",
    "": "",
}


def _known(
    left: Mapping[str, Any],
    graph: saved_model_graph.SavedGraph,
    config: Any,
    size: tuple[int, int],
) -> tuple[Optional[Normalization], str]:
    found = _read(left.get("normalization"))
    if found is not None:
        return found, FACTS_FILE
    if graph.postprocess is None:
        return three((0.0,), (1.0,)), "graph"
    if config is not None:
        pipeline.fix_image_size(config, list(size))
        measured = detection_model.preprocessing(detection_model.build(config), size)
        return _read(measured), "pipeline.config"
    return None, ""


def _resizer(left: Mapping[str, Any], config: Any, size: tuple[int, int]) -> Optional[str]:
    """Return the text of its resizer (:func:`stages.odapi.resizing.as_text`), if a file tells it.

    Raises:
        StageError: kind ``unsupported-model``; its pipeline.config has one without a size.
    """
    if config is not None:
        return resizing.as_text(resizing.as_built(config, list(size)))
    said = left.get("resizer")
    return said if isinstance(said, str) else None


def _read(said: Any) -> Optional[Normalization]:
    try:
        mean, std = (tuple(float(value) for value in said[key]) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError):
        return None
    if {len(mean), len(std)} - {1, 3} or not min(std) > 0:
        return None
    return three(mean, std)


def _variables(folder: Path) -> tuple[int, Optional[int]]:
    """Count the variables of a SavedModel, and the numbers in them.

    Raises:
        StageError: kind ``checkpoint``; they are damaged, or have values that are not finite.
    """
    import math

    from stages.odapi import checkpoint_graph, restoration

    reader = restoration.open_checkpoint(folder / "variables" / "variables")
    types = reader.get_variable_to_dtype_map()
    shapes = {
        key: shape
        for key, shape in reader.get_variable_to_shape_map().items()
        if types[key].is_floating
    }
    names = checkpoint_graph.names(checkpoint_graph.read(reader))
    keys = {names.get(key, key): (None, key) for key in shapes}
    restoration.check_finite(keys, reader, "SavedModel")
    return len(shapes), sum(math.prod(shape) for shape in shapes.values())
