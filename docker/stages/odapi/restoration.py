"""Restore a model from a training's checkpoint, and verify it: every variable, value by value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from stages.odapi import checkpoint_graph
from stages.protocol.failures import StageError

_NAMED = 5  # how many variables a message names

AVERAGES, RAW = "averages", "raw"
"""Which values of a training's weights are taken (:attr:`Training.weights_from`)."""

_MODEL = ("model",)
"""Where the Object Detection API's own training has its model in a checkpoint."""


def open_checkpoint(prefix: Path, names: bool = False) -> Any:
    """Open a reader of the checkpoint's tensors, after reading every tensor once.

    Reading checks the tensors' checksums, so damage is found here and not in the middle of an
    export, where TensorFlow reports it in many ways.

    Args:
        prefix: the checkpoint.
        names: whether to accept TensorFlow 1's kind, tensors by name without an object graph, too.

    Raises:
        StageError: the files are damaged, or are not a TensorFlow 2 (object-based) checkpoint.
    """
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        for key in reader.get_variable_to_shape_map():
            reader.get_tensor(key)
    except Exception as error:  # TensorFlow raises many kinds here, all meaning the same
        raise _damaged(prefix, error) from error
    if not names and not has_objects(reader):
        raise StageError(
            "checkpoint",
            f"{prefix.name} is a TensorFlow 1 checkpoint (it holds no object graph).",
            "Use a model of the TensorFlow 2 detection zoo, or one trained with TensorFlow 2.",
        )
    return reader


def has_objects(reader: Any) -> bool:
    """Whether a checkpoint is of TensorFlow 2's kind, with an object graph."""
    return bool(reader.has_tensor(checkpoint_graph.GRAPH_KEY))


@dataclass(frozen=True)
class Training:
    """What a training with the Object Detection API saved.

    Attributes:
        prefix: of the checkpoint.
        reader: of its tensors.
        place: the attributes that lead from the checkpoint's root to the model.
        averages: key of a weight -> key of its moving average, where the averages are taken.
        optimizer: the attributes that lead to the optimizer that keeps them.
        notes: what a user should know about the choice, as texts.
    """

    prefix: Path
    reader: Any
    place: checkpoint_graph.Names
    averages: Mapping[str, str]
    optimizer: checkpoint_graph.Names
    notes: tuple[str, ...]

    @property
    def weights_from(self) -> str:
        """:data:`AVERAGES` or :data:`RAW`."""
        return AVERAGES if self.averages else RAW

    @property
    def as_exporter_expects(self) -> bool:
        """Whether the Object Detection API's exporter restores these weights from the checkpoint:
        it takes no averages, and insists on the counter that ``tf.train.Checkpoint.save`` makes."""
        counted = checkpoint_graph.has_counter(checkpoint_graph.read(self.reader))
        return self.place == _MODEL and not self.averages and counted


def open_training(prefix: Path, averages: bool) -> Training:
    """Open a checkpoint, and find out where its model is and which of its weights count.

    The Object Detection API's training saves its model as ``model``; a loop of one's own may save
    it under any name, or as the root itself.

    Args:
        prefix: of the checkpoint.
        averages: whether the training's own evaluation uses moving averages of the weights
            (:func:`stages.odapi.pipeline.evaluates_averages`). They are taken if there are any.

    Raises:
        StageError: the files are damaged, are not a TensorFlow 2 (object-based) checkpoint, or
            hold no detection model, or several.
    """
    reader = open_checkpoint(prefix)
    graph = checkpoint_graph.read(reader)
    place = _place(prefix, graph)
    notes = []
    if place != _MODEL:
        where = f"as {'/'.join(place)!r}" if place else "as the root of the checkpoint"
        notes.append(f"the model was saved {where}, and found there")
    found, optimizer = checkpoint_graph.averages(graph)
    if not any(reader.get_tensor(key).any() for key in found.values()):
        found = {}  # as they are before the first step
    if averages and found:
        notes.append(
            "moving averages of the weights are taken, as in the training's own evaluation"
            " (eval_config.use_moving_averages)"
        )
    elif averages:
        notes.append(
            "eval_config.use_moving_averages asks for moving averages of the weights, but the"
            " checkpoint has none: the weights themselves are taken"
        )
    elif found:
        notes.append(
            "the checkpoint also has moving averages of the weights. The weights themselves are"
            " taken, as in the training's own evaluation; eval_config { use_moving_averages: true }"
            " in pipeline.config takes the averages"
        )
    return Training(prefix, reader, place, found if averages else {}, optimizer, tuple(notes))


def _place(prefix: Path, graph: Any) -> checkpoint_graph.Names:
    found = checkpoint_graph.models(graph)
    children = sorted(child.local_name for child in graph.nodes[0].children)
    # A "model" that lacks a part is compared with the configuration's, which names what is missing.
    if _MODEL in found or (not found and _MODEL[0] in children):
        return _MODEL
    if len(found) == 1:
        return next(iter(found))
    if found:
        names = ", ".join(sorted("/".join(names) or "the root" for names in found))
        raise StageError(
            "checkpoint",
            f"The checkpoint {prefix.name} holds several detection models: {names}.",
            "Restore the one that is meant, and save it as tf.train.Checkpoint(model=…).",
        )
    shown = ", ".join(children[:_NAMED]) + (", …" if len(children) > _NAMED else "")
    raise StageError(
        "checkpoint",
        f"The checkpoint {prefix.name} holds no detection model of the Object Detection API: its"
        f" root holds {shown or 'nothing'}.",
        "Give a checkpoint of the whole model, as its training or"
        " tf.train.Checkpoint(model=detection_model) saves it.",
    )


def write_for_exporter(training: Training, prefix: Path) -> None:
    """Write the training's weights as a checkpoint that the exporter restores.

    Args:
        training: the checkpoint.
        prefix: of the new one, in a folder that exists.
    """
    graph = checkpoint_graph.read(training.reader)
    node = checkpoint_graph.node_at(graph, training.place)
    checkpoint_graph.write_as_exported(training.reader, node, training.averages, prefix)


def restore(model: Any, training: Training) -> int:
    """Restore a model whose variables exist, and verify it (:func:`check_restored`).

    TensorFlow restores it, averages included: as slots of an optimizer, which the model then gets.

    Returns:
        Number of the model's variables.

    Raises:
        StageError: as :func:`check_usable`.
    """
    import tensorflow as tf

    check_usable(model, training)
    saved = {training.place: model}
    averaged = []
    if training.averages:
        optimizer = tf.keras.optimizers.legacy.SGD()
        averaged = model.trainable_variables
        for variable in averaged:
            optimizer.add_slot(variable, "average")
        saved[training.optimizer] = optimizer
    # `restore` would give the root a counter of saves. Where the root is the model, that is a new
    # attribute, and an earlier restore of the model (the exporter's) is asked for its value.
    _as_saved(saved).read(str(training.prefix)).expect_partial()
    for variable in averaged:
        variable.assign(optimizer.get_slot(variable, "average"))
    return check_restored(model, training)[0]


def _as_saved(objects: Mapping[checkpoint_graph.Names, Any]) -> Any:
    """Return a ``tf.train.Checkpoint`` with objects where a training's checkpoint has them."""
    import tensorflow as tf

    children: dict[str, Any] = {}
    holders: dict[checkpoint_graph.Names, Any] = {}
    for names, item in objects.items():
        for depth in range(len(names) - 1, 0, -1):  # from the inside out
            holder = holders.setdefault(names[:depth], tf.Module())
            setattr(holder, names[depth], item)
            item = holder
        if names:
            children[names[0]] = item
    return tf.train.Checkpoint(objects.get(()), **children)


def check_usable(model: Any, training: Training) -> None:
    """Check that a checkpoint has a value that can be used for every variable of a model.

    Args:
        model: the detection model; its variables exist.
        training: the checkpoint.

    Raises:
        StageError: a variable is not in the checkpoint, has another shape there, has no average
            although those are taken, or has values that are not finite; the message names some.
    """
    keys = _keys(model, training)
    check_fit(keys, training.reader)
    if training.averages:
        trained = {variable.ref() for variable in model.trainable_variables}
        without = sorted(
            path
            for path, (variable, key) in keys.items()
            if variable.ref() in trained and key not in training.averages
        )
        if without:
            what = f"{len(without)} of its weights have no moving average"
            raise mismatch(what, without, _WITHOUT_AVERAGES)
    check_finite(_taken(keys, training), training.reader)


def check_restored(model: Any, training: Training) -> tuple[int, list[str]]:
    """Compare every variable of a built and restored model with the checkpoint.

    Returns:
        (number of the model's variables, keys of the checkpoint's model that the model does not
        have).

    Raises:
        StageError: as :func:`check_usable`; or a variable does not hold the checkpoint's value.
    """
    check_usable(model, training)
    keys = _keys(model, training)
    check_values(_taken(keys, training), training.reader)
    used = {key for _, key in keys.values()}
    above = "".join(f"{name}/" for name in training.place)
    below = (above,) if above else tuple(f"{part}/" for part in checkpoint_graph.PARTS)
    unused = sorted(
        key
        for key in training.reader.get_variable_to_shape_map()
        if key.startswith(below) and ".OPTIMIZER_SLOT" not in key and key not in used
    )
    return len(keys), unused


Keys = dict[str, tuple[Any, Optional[str]]]
"""A model's variables: path -> (variable, its key in the checkpoint or None)."""


def _keys(model: Any, training: Training) -> Keys:
    """Find the keys of a model's variables."""
    above = "".join(f"{name}/" for name in training.place)
    paths = {f"{above}{path}": variable for path, variable in object_paths(model).items()}
    return object_keys(paths, training.reader)


def _taken(keys: Keys, training: Training) -> Keys:
    """Replace the keys of weights by those of their averages, where the averages are taken."""
    return {
        path: (variable, key if key is None else training.averages.get(key, key))
        for path, (variable, key) in keys.items()
    }


_FROM_ONE_RUN = (
    "pipeline.config and checkpoint must come from the same training run (same architecture,"
    " same num_classes)."
)


_WITHOUT_AVERAGES = (
    "Give the checkpoint of a training with optimizer { use_moving_average: true }, or set"
    " eval_config { use_moving_averages: false } in pipeline.config."
)


def check_fit(keys: Keys, reader: Any, remedy: str = _FROM_ONE_RUN) -> None:
    """Check that a checkpoint has every variable, in its shape.

    Args:
        keys: which tensor of the checkpoint belongs to which variable.
        reader: of the checkpoint.
        remedy: what to do about a checkpoint that does not fit.

    Raises:
        StageError: it does not; the message names some variables.
    """
    shapes = reader.get_variable_to_shape_map()
    missing = sorted(path for path, (_, key) in keys.items() if key not in shapes)
    if missing:
        what = f"{len(missing)} of the model's {len(keys)} variables are not in it"
        raise mismatch(what, missing, remedy)
    reshaped = sorted(
        f"{path} (model {list(variable.shape)}, checkpoint {list(shapes[key])})"
        for path, (variable, key) in keys.items()
        if list(variable.shape) != list(shapes[key])
    )
    if reshaped:
        raise mismatch(f"{len(reshaped)} variables have other shapes in it", reshaped, remedy)


def check_finite(keys: Keys, reader: Any, what: str = "checkpoint") -> None:
    """Check that no variable's value in a checkpoint has a NaN or an infinity.

    Args:
        keys: as :func:`check_fit`'s, all of them in the checkpoint.
        reader: of the checkpoint.
        what: what the message calls it.

    Raises:
        StageError: one has; the message names some, and says how many of their numbers.
    """
    import numpy as np

    found = []
    for path, (_, key) in sorted(keys.items()):
        values = np.asarray(reader.get_tensor(key))
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            found.append(f"{path} ({np.count_nonzero(~np.isfinite(values))} of {values.size})")
    if found:
        shown = ", ".join(found[:_NAMED]) + (", …" if len(found) > _NAMED else "")
        raise StageError(
            "checkpoint",
            f"{len(found)} of the {len(keys)} variables of the {what} hold numbers that are NaN or"
            f" infinite: {shown}.",
            "The training diverged. Take an earlier checkpoint of it, or train again with a smaller"
            " learning rate or with clipped gradients.",
        )


def check_values(keys: Keys, reader: Any, remedy: str = _FROM_ONE_RUN) -> None:
    """Check that every variable holds its checkpoint's value, bit by bit.

    Raises:
        StageError: one does not; arguments and message are those of :func:`check_fit`.
    """
    different = []
    for path, (variable, key) in keys.items():
        if variable.numpy().tobytes() != reader.get_tensor(key).tobytes():
            different.append(path)
    if different:
        what = f"{len(different)} variables were not restored from it"
        raise mismatch(what, sorted(different), remedy)


def mismatch(what: str, names: list[str], remedy: str = _FROM_ONE_RUN) -> StageError:
    """Build the error about a checkpoint that does not fit its model, naming some variables."""
    shown = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    return StageError(
        "checkpoint", f"The checkpoint does not fit the model: {what}: {shown}.", remedy
    )


def object_paths(root: Any) -> dict[str, Any]:
    """Map the variables below a trackable object by object path.

    A path is the attribute names that lead to the variable, joined with ``/``. A variable with
    several paths is listed once, under the one that TensorFlow's own breadth-first walk finds
    first.
    """
    import tensorflow as tf

    try:
        from tensorflow.python.checkpoint.graph_view import ObjectGraphView
    except ImportError:  # its location up to TensorFlow 2.8
        from tensorflow.python.training.tracking.graph_view import ObjectGraphView

    view = ObjectGraphView(root)
    walk = getattr(view, "breadth_first_traversal", None) or view._breadth_first_traversal
    trackables, paths = walk()
    return {
        "/".join(reference.name for reference in paths[trackable]): trackable
        for trackable in trackables
        if isinstance(trackable, tf.Variable)
    }


def object_keys(paths: dict[str, Any], reader: Any) -> Keys:
    """Find the keys of variables in an object-based checkpoint.

    The key is found the way TensorFlow restores: by walking the checkpoint's own object graph
    along the attribute names. (Keys mostly look like these paths, but need not.)

    Args:
        paths: object path below the checkpoint's root -> variable (:func:`object_paths`), or
            anything else that is to be looked up.
        reader: of the checkpoint.
    """
    graph = checkpoint_graph.read(reader)
    children = [{c.local_name: c.node_id for c in node.children} for node in graph.nodes]
    found: Keys = {}
    for path, variable in paths.items():
        node = _walk(children, 0, path)
        found[path] = (variable, None if node is None else checkpoint_graph.key_of(graph, node))
    return found


def _walk(children: list[dict[str, int]], node: int, path: str) -> Optional[int]:
    """Return the node at the end of a path from ``node``. Names may contain a ``/`` themselves, as
    in CenterNet's heads (``box/offset``)."""
    for name, child in children[node].items():
        if path == name:
            return child
        if path.startswith(f"{name}/"):
            found = _walk(children, child, path[len(name) + 1 :])
            if found is not None:
                return found
    return None


def object_children(reader: Any, name: str = "") -> set[str]:
    """List the attributes of an object-based checkpoint's root, or of its child ``name``."""
    nodes = checkpoint_graph.read(reader).nodes
    root = {child.local_name: child.node_id for child in nodes[0].children}
    if not name:
        return set(root)
    return {child.local_name for child in nodes[root[name]].children} if name in root else set()


def _damaged(prefix: Path, error: Exception) -> StageError:
    return StageError(
        "checkpoint",
        f"The checkpoint {prefix.name} cannot be read: {_first_line(error)}.",
        "Its files are damaged or truncated; unpack or download the archive again.",
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
