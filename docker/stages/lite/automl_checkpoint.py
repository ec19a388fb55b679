"""Identify and restore checkpoints that fit Model Maker's EfficientDet-Lite nets.

======================= ==========================================================================
``tf1``                 automl's TensorFlow 1 checkpoints: tensors under variable names
``tf1-ema``             the same with moving averages of all weights, which are the ones to use
``tf2``                 objects: ``EfficientDetNet``, by ``save_weights`` or ``tf.train.Checkpoint``
``training``            what Model Maker's own training leaves (``ckpt-N``): a hub module's layers
                        under their names, and the two prediction heads as objects
======================= ==========================================================================

Restoring uses automl's ``restore_ckpt``, which by default silently skips what does not fit. So it
is called in strict mode, and checked: before, that the checkpoint has every variable in its shape
and nothing superfluous; after, that every value was restored.

A SavedModel of Model Maker's holds the last two kinds in its ``variables``, below ``model/``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.files.checkpoint_files import find_checkpoint
from stages.lite import efficientdet_lite, model_maker
from stages.odapi import restoration
from stages.protocol.failures import StageError

EMA_DECAY = 0.9998
"""automl's own; any number above 0 makes ``restore_ckpt`` use the moving averages."""

_EMA = "/ExponentialMovingAverage"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_PARTS = ("backbone", "resample_layers", "fpn_cells", "class_net", "box_net")
"""Attributes of ``EfficientDetNet`` that hold variables."""
_TRAINED_PARTS = ("base_model", "classes", "boxes")
"""The same for ``EfficientDetNetTrainHub``, which Model Maker trains."""
_HEADS = {"class_net/class-predict/": "classes/", "box_net/box-predict/": "boxes/"}
"""Variable names of a net's heads -> object paths of a trained net's."""

_REMEDY = (
    "Name the spec that was trained (efficientdet_lite0 to efficientdet_lite4), and give the whole"
    " checkpoint of one training."
)


_NOT_SAVED = "backbone/_head/"
"""Extra variables of a SavedModel: saving it builds the backbone's classifier (into ImageNet's
classes), which the detector never calls, with untrained values."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a known kind.

    Attributes:
        prefix: path without ``.index``.
        reader: of its tensors.
        kind: see above.
        root: ``model/`` where the net is the root's child ``model``, else empty.
        saved_model: whether these are the variables of a SavedModel.
    """

    prefix: Path
    reader: Any
    kind: str
    root: str = ""
    saved_model: bool = False


def find(folder: Path) -> Checkpoint:
    """Open the checkpoint of a folder (:func:`stages.files.checkpoint_files.find_checkpoint`).

    Raises:
        StageError: there is none, it is damaged, or it is not an EfficientDet-Lite's.
    """
    places = (folder, folder / "checkpoint")
    for place in places:
        if (place / "saved_model.pb").is_file():
            raise StageError(
                "checkpoint",
                "The folder holds a SavedModel (such as a hub module), not a checkpoint.",
                'Give a checkpoint of the trained net; a hub module is a source of kind "hub".',
            )
    if not any(path for place in places for path in place.glob("*.index")):
        other = sorted(path.name for place in places for path in place.glob("*.h5"))
        raise StageError(
            "checkpoint",
            "There is no checkpoint in the folder (no .index file)"
            + (f"; {other[0]} is in Keras' HDF5 format." if other else "."),
            "Give ckpt-N.index with its ckpt-N.data-… files, as Keras'"
            ' save_weights(path, save_format="tf") writes them.',
        )
    prefix = find_checkpoint(folder)
    model_maker.load()
    reader = restoration.open_checkpoint(prefix, names=True)
    if not restoration.has_objects(reader):
        averaged = any(key.endswith(_EMA) for key in reader.get_variable_to_shape_map())
        return Checkpoint(prefix, reader, "tf1-ema" if averaged else "tf1")
    children = restoration.object_children(reader)
    if set(_TRAINED_PARTS) <= children:
        return Checkpoint(prefix, reader, "training")
    inner = restoration.object_children(reader, "model")
    for root, parts in (("", children), ("model/", inner)):
        if parts & set(_PARTS):
            return Checkpoint(prefix, reader, "tf2", root)
    raise _foreign(prefix, children, inner)


def of_saved_model(folder: Path) -> Checkpoint:
    """Open the variables of a SavedModel that Model Maker exported.

    Raises:
        StageError: they are damaged, or not an EfficientDet-Lite's.
    """
    prefix = folder / "variables" / "variables"
    model_maker.load()
    reader = restoration.open_checkpoint(prefix)
    children = restoration.object_children(reader)
    inner = restoration.object_children(reader, "model")
    # The exported object is a model that holds the net, or the net itself.
    for root, parts in (("model/", inner), ("", children)):
        if set(_TRAINED_PARTS) <= parts:
            return Checkpoint(prefix, reader, "training", root, saved_model=True)
        if parts & set(_PARTS):
            return Checkpoint(prefix, reader, "tf2", root, saved_model=True)
    shown = ", ".join(sorted(inner or children)[:5])
    raise StageError(
        "checkpoint",
        f"The SavedModel holds no EfficientDet-Lite: its objects are {shown or 'none'}.",
        "Give what Model Maker's ObjectDetector.export(…, export_format=ExportFormat.SAVED_MODEL)"
        " wrote; a SavedModel of the Object Detection API is given without --model-maker.",
    )


def take(checkpoint: Checkpoint, net: Any) -> int:
    """Assign a SavedModel's variables to a net, completely or not at all.

    Args:
        checkpoint: from :func:`of_saved_model`.
        net: from :func:`stages.lite.efficientdet_lite.net`.

    Returns:
        Number of the net's variables, each compared with the SavedModel.

    Raises:
        StageError: the variables do not fit; the message names some.
    """
    reader = checkpoint.reader
    keys = _fitting(checkpoint, net)
    for variable, key in keys.values():
        variable.assign(reader.get_tensor(key))
    restoration.check_values(keys, reader, _REMEDY)
    return len(keys)


def num_classes(checkpoint: Checkpoint, config: Any) -> int:
    """Return how many classes a checkpoint's net scores, by its class head.

    Args:
        checkpoint: from :func:`find`.
        config: of the expected architecture.

    Raises:
        StageError: it has no class head, or one of another architecture.
    """
    shapes = checkpoint.reader.get_variable_to_shape_map()
    head, paths = _class_head(checkpoint)
    sizes = {name: list(shapes.get(key) or ()) for name, key in paths.items()}
    if len(sizes["bias"]) != 1 or len(sizes["pointwise_kernel"]) != 4:
        raise StageError(
            "checkpoint",
            f"The checkpoint holds no class prediction head ({head}): it is a backbone or a"
            " feature extractor, and finds no objects.",
            "Give a checkpoint of a whole detector that was trained.",
        )
    width, anchors = sizes["pointwise_kernel"][2], efficientdet_lite.anchors_per_place(config)
    if width != config.fpn_num_filters:
        widths = {efficientdet_lite.width(spec): spec for spec in efficientdet_lite.SPECS}
        whose = f", as those of {widths[width]}" if width in widths else ""
        raise restoration.mismatch(
            f"its prediction heads are {width} wide{whose}, and not {config.fpn_num_filters}",
            [f"{head}/pointwise_kernel {sizes['pointwise_kernel']}"],
            _REMEDY,
        )
    if sizes["bias"][0] % anchors or not sizes["bias"][0]:
        raise restoration.mismatch(
            f"its class head scores no multiple of the architecture's {anchors} anchors",
            [f"{head}/bias {sizes['bias']}"],
            _REMEDY,
        )
    return int(sizes["bias"][0]) // anchors


def _class_head(checkpoint: Checkpoint) -> tuple[str, dict[str, Any]]:
    """Return the class head's path in a checkpoint, and its tensors' keys by last name."""
    names = ("bias", "pointwise_kernel")
    if checkpoint.kind in ("tf1", "tf1-ema"):
        head, suffix = "class_net/class-predict", _EMA if checkpoint.kind == "tf1-ema" else ""
        return head, {name: f"{head}/{name}{suffix}" for name in names}
    head = "classes" if checkpoint.kind == "training" else "class_net/classes"
    head = checkpoint.root + head
    found = restoration.object_keys({f"{head}/{name}": None for name in names}, checkpoint.reader)
    return head, {name: found[f"{head}/{name}"][1] for name in names}


def restore(checkpoint: Checkpoint, net: Any) -> int:
    """Restore a net whose variables exist, completely or not at all.

    Args:
        checkpoint: from :func:`find`.
        net: from :func:`stages.lite.efficientdet_lite.net`.

    Returns:
        Number of the net's variables, each compared with the checkpoint.

    Raises:
        StageError: the checkpoint does not fit; the message names variables.
    """
    reader = checkpoint.reader
    keys = _fitting(checkpoint, net)
    mm = model_maker.load()
    if checkpoint.root:
        # The one layout that restore_ckpt does not support.
        status = mm.tf.train.Checkpoint(model=net).restore(str(checkpoint.prefix))
        status.expect_partial()
    else:
        decay = EMA_DECAY if checkpoint.kind == "tf1-ema" else 0
        mm.util_keras.restore_ckpt(net, str(checkpoint.prefix), decay, skip_mismatch=False)
    restoration.check_values(keys, reader, _REMEDY)
    return len(keys)


def _fitting(checkpoint: Checkpoint, net: Any) -> restoration.Keys:
    """Find the net's variables in a checkpoint, after checking that both have the same ones.

    Raises:
        StageError: they do not fit, or have values that are not finite; the message names
            variables.
    """
    keys = _keys(checkpoint, net)
    restoration.check_fit(keys, checkpoint.reader, _REMEDY)
    unused = _unused(checkpoint, keys)
    if unused:
        what = f"{len(unused)} of its variables have no place in the model"
        raise restoration.mismatch(what, unused, _REMEDY)
    restoration.check_finite(keys, checkpoint.reader, _called(checkpoint))
    return keys


def _called(checkpoint: Checkpoint) -> str:
    return "SavedModel" if checkpoint.saved_model else "checkpoint"


def _keys(checkpoint: Checkpoint, net: Any) -> restoration.Keys:
    if checkpoint.kind == "tf2":
        paths = restoration.object_paths(net)
        return restoration.object_keys(
            {checkpoint.root + path: variable for path, variable in paths.items()},
            checkpoint.reader,
        )
    found: restoration.Keys = {}
    for variable in net.weights:
        name = variable.name.rpartition(":")[0]
        if checkpoint.kind == "training":
            key = checkpoint.root + _trained_key(name)
        else:
            key = name + (_EMA if checkpoint.kind == "tf1-ema" else "")
        found[name] = (variable, key)
    return found


def _trained_key(name: str) -> str:
    """Return where Model Maker's training saves the variable ``name`` of an ``EfficientDetNet``.

    The trained net is a hub module, whose variables are attributes of the layer that holds it
    under their own names (``/`` is written ``.S`` in a key), and two heads.
    """
    for head, attribute in _HEADS.items():
        if name.startswith(head):
            return attribute + name[len(head) :] + _VALUE
    return "base_model/" + f"{name}:0".replace("/", ".S") + _VALUE


def _unused(checkpoint: Checkpoint, keys: restoration.Keys) -> list[str]:
    """List tensors that belong to the net by their names, but match no variable."""
    used = {key for _, key in keys.values()}
    shapes = checkpoint.reader.get_variable_to_shape_map()
    if checkpoint.kind in ("tf1", "tf1-ema"):
        # <variable>/Momentum and the like are the training's; so is what is averaged.
        scopes = {name.partition("/")[0] for name in keys}
        known = set(keys)
        return sorted(
            key
            for key in shapes
            if key.partition("/")[0] in scopes
            and key not in used
            and key not in known
            and key.rpartition("/")[0] not in known
        )
    parts = _TRAINED_PARTS if checkpoint.kind == "training" else _PARTS
    below = tuple(f"{checkpoint.root}{part}/" for part in parts)
    return sorted(
        key
        for key in shapes
        if key.startswith(below)
        and ".OPTIMIZER_SLOT" not in key
        and key not in used
        and not (checkpoint.saved_model and key.startswith(checkpoint.root + _NOT_SAVED))
    )


def _foreign(prefix: Path, children: set[str], inner: set[str]) -> StageError:
    if {"_feature_extractor", "_box_predictor", "_prediction_head_dict"} & inner:
        return StageError(
            "checkpoint",
            f"{prefix.name} is a checkpoint of the Object Detection API, not of Model Maker's or"
            " automl's EfficientDet-Lite.",
            'Give the archive\'s own pipeline.config (image "odapi") instead of a spec.',
        )
    shown = ", ".join(sorted(name for name in children if not name.startswith("layer"))[:5])
    return StageError(
        "checkpoint",
        f"{prefix.name} is not a checkpoint of EfficientDet-Lite: its root holds {shown or '?'}.",
        "Give automl's checkpoint, the weights of an EfficientDetNet, or what Model Maker's"
        " training wrote into its model_dir (ckpt-N).",
    )
