"""Read the object graph of a TensorFlow 2 checkpoint: where its model is, and the averages of it.

A checkpoint holds tensors under keys, and a graph of the objects that were saved
(``TrackableObjectGraph``): nodes, whose children have the names of attributes, and whose attributes
have the keys of tensors. What a training called its model is in the graph only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""The key of the graph itself, a string."""

Names = tuple[str, ...]
"""The attributes' names that lead from the checkpoint's root to an object; empty: the root."""

_BACKBONE = "_feature_extractor"
_HEADS = frozenset({"_box_predictor", "_prediction_head_dict"})
PARTS = (_BACKBONE, *sorted(_HEADS))
"""Attributes of the Object Detection API's models that hold variables: every model has the first,
an SSD the second, a CenterNet the third."""

_AVERAGE = "average"
"""What the Object Detection API's ``ExponentialMovingAverage`` calls its slots."""

_COUNTER = "save_counter"
"""An attribute of the root that ``tf.train.Checkpoint.save`` makes, and ``write`` does not."""


def read(reader: Any) -> Any:
    """Parse a checkpoint's ``TrackableObjectGraph``."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(reader.get_tensor(GRAPH_KEY))
    return graph


def places(graph: Any) -> dict[int, Names]:
    """Map every node to the shortest way that leads to it from the root."""
    found: dict[int, Names] = {0: ()}
    level = [0]
    while level:
        following = []
        for node in level:
            for child in graph.nodes[node].children:
                if child.node_id not in found:
                    found[child.node_id] = (*found[node], child.local_name)
                    following.append(child.node_id)
        level = following
    return found


def models(graph: Any) -> dict[Names, int]:
    """Find the Object Detection API's models among the objects: where they are -> their node."""
    found = {}
    for node, names in places(graph).items():
        children = {child.local_name for child in graph.nodes[node].children}
        if _BACKBONE in children and _HEADS & children:
            found[names] = node
    return found


def node_at(graph: Any, names: Names) -> int:
    """Return the node that names lead to from the root, which must exist."""
    node = 0
    for name in names:
        children = {child.local_name: child.node_id for child in graph.nodes[node].children}
        node = children[name]
    return node


def averages(graph: Any) -> tuple[dict[str, str], Names]:
    """Find the moving averages of variables, which an optimizer keeps as slots.

    Returns:
        (key of a variable -> key of its average, where the optimizer is); both are empty where
        there are no averages.
    """
    for node, names in places(graph).items():
        slots = [slot for slot in graph.nodes[node].slot_variables if slot.slot_name == _AVERAGE]
        found = {}
        for slot in slots:
            keys = [
                key_of(graph, number)
                for number in (slot.original_variable_node_id, slot.slot_variable_node_id)
            ]
            if keys[0] is not None and keys[1] is not None:
                found[keys[0]] = keys[1]
        if found:
            return found, names
    return {}, ()


def key_of(graph: Any, node: int) -> Optional[str]:
    """Return the key of a variable's value; None where the node is no variable."""
    attributes = graph.nodes[node].attributes
    return str(attributes[0].checkpoint_key) if len(attributes) else None


def names(graph: Any) -> dict[str, str]:
    """Map keys of variables to the variables' own names, where those are known and different.

    An exported graph's keys are numbered; the names are those of the model that it was made from.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for node in graph.nodes:
        for attribute in node.attributes:
            if attribute.full_name and attribute.full_name not in taken:
                taken.add(attribute.full_name)
                found[attribute.checkpoint_key] = attribute.full_name
    return found


def write_as_exported(reader: Any, model: int, averaged: Mapping[str, str], prefix: Path) -> None:
    """Write a checkpoint of one model the way the Object Detection API's exporter restores it.

    The exporter restores ``tf.train.Checkpoint(model=…)``, and takes no averages. The tensors are
    copied as they are, under their keys; the graph is changed: the model becomes the new root's
    child ``model``, and an averaged variable has the key of its average.

    Args:
        reader: of the training's checkpoint.
        model: the model's node.
        averaged: key of a variable -> key of the average to take instead.
        prefix: of the new checkpoint, in a folder that exists.
    """
    import numpy as np
    import tensorflow as tf

    old = read(reader)
    graph = type(old)()
    root = graph.nodes.add()
    for node in old.nodes:
        copy = graph.nodes.add()
        copy.CopyFrom(node)
        del copy.slot_variables[:]
        for child in copy.children:
            child.node_id += 1  # the new root comes first
        for attribute in copy.attributes:
            key = attribute.checkpoint_key
            attribute.checkpoint_key = averaged.get(key, key)
    root.children.add(local_name="model", node_id=model + 1)
    root.children.add(local_name=_COUNTER, node_id=len(graph.nodes))
    counter = graph.nodes.add()
    counter.attributes.add(name="VARIABLE_VALUE", full_name=_COUNTER, checkpoint_key=_COUNTER)

    keys = {key for node in _below(graph, model + 1) if (key := key_of(graph, node)) is not None}
    tensors = {key: reader.get_tensor(key) for key in sorted(keys)}
    tensors[_COUNTER] = np.int64(0)
    tensors[GRAPH_KEY] = graph.SerializeToString(deterministic=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )


def has_counter(graph: Any) -> bool:
    """Whether a checkpoint has the counter that the exporter insists on."""
    return any(child.local_name == _COUNTER for child in graph.nodes[0].children)


def _below(graph: Any, node: int) -> set[int]:
    """Return a node and all that can be reached from it."""
    found, waiting = {node}, [node]
    while waiting:
        for child in graph.nodes[waiting.pop()].children:
            if child.node_id not in found:
                found.add(child.node_id)
                waiting.append(child.node_id)
    return found
