"""Verify that a checkpoint was restored into a model: every variable, value by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from stages.protocol.failures import StageError

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_NAMED = 5  # how many variables a message names


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
    return bool(reader.has_tensor(_GRAPH_KEY))


def restore(model: Any, prefix: Path) -> int:
    """Restore a model whose variables exist, and verify it (:func:`check_restored`).

    Returns:
        Number of the model's variables.

    Raises:
        StageError: the checkpoint does not fit the model.
    """
    import tensorflow as tf

    try:
        tf.train.Checkpoint(model=model).restore(str(prefix)).expect_partial()
    except ValueError as error:
        # Shapes differ: the comparison names them.
        check_restored(model, prefix)
        raise mismatch(str(error), []) from error
    return check_restored(model, prefix)[0]


def check_restored(model: Any, prefix: Path) -> tuple[int, list[str]]:
    """Compare every variable of a built and restored model with the checkpoint.

    Args:
        model: the detection model, as the ``model`` child of the checkpoint's root.
        prefix: the checkpoint.

    Returns:
        (number of the model's variables, checkpoint keys below ``model`` that the model does
        not have).

    Raises:
        StageError: a variable is not in the checkpoint, has another shape there, or does not
            hold the checkpoint's value; the message names some of them.
    """
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    paths = {f"model/{path}": variable for path, variable in object_paths(model).items()}
    keys = object_keys(paths, reader)
    check_fit(keys, reader)
    check_values(keys, reader)
    used = {key for _, key in keys.values()}
    unused = sorted(
        key
        for key in reader.get_variable_to_shape_map()
        if key.startswith("model/") and ".OPTIMIZER_SLOT" not in key and key not in used
    )
    return len(keys), unused


Keys = dict[str, tuple[Any, Optional[str]]]
"""A model's variables: path -> (variable, its key in the checkpoint or None)."""

_FROM_ONE_RUN = (
    "pipeline.config and checkpoint must come from the same training run (same architecture,"
    " same num_classes)."
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
    graph = _object_graph(reader)
    children = [{c.local_name: c.node_id for c in node.children} for node in graph.nodes]
    found: Keys = {}
    for path, variable in paths.items():
        node = _walk(children, 0, path)
        attributes = [] if node is None else graph.nodes[node].attributes
        found[path] = (variable, attributes[0].checkpoint_key if len(attributes) else None)
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
    nodes = _object_graph(reader).nodes
    root = {child.local_name: child.node_id for child in nodes[0].children}
    if not name:
        return set(root)
    return {child.local_name for child in nodes[root[name]].children} if name in root else set()


def _object_graph(reader: Any) -> Any:
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(reader.get_tensor(_GRAPH_KEY))
    return graph


def _damaged(prefix: Path, error: Exception) -> StageError:
    return StageError(
        "checkpoint",
        f"The checkpoint {prefix.name} cannot be read: {_first_line(error)}.",
        "Its files are damaged or truncated; unpack or download the archive again.",
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
