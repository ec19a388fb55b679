"""Find the operations that make the outputs of a SavedModel.

The converter names a tensor after the operation that makes it, but an output of the graph after the
signature's own tensor (``StatefulPartitionedCall:1``). So one layer has two names: in a graph
without post-processing the raw boxes are an output, and in one with it they are an inner tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from stages.saved import saved_model_graph

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_PASSES_ON = frozenset({"Identity", "IdentityN"})

_DEEPEST = 100
"""How many calls and identities are followed: an export has five, a call of itself has no end."""


def operations(folder: Path) -> dict[str, str]:
    """Return name of an output's tensor -> name of the operation that makes it.

    Outputs of TFLite's detection operator are left out: functions that stand for an operator are
    not what makes them.

    Raises:
        StageError: ``saved_model.pb`` is damaged.
    """
    graph = saved_model_graph.parse(folder / "saved_model.pb").meta_graphs[0]
    library = {item.signature.name: item for item in graph.graph_def.library.function}
    nodes = {node.name: node for node in graph.graph_def.node}
    found = {}
    for tensor in graph.signature_def[saved_model_graph.SIGNATURE].outputs.values():
        operation = _operation(tensor.name, nodes, library)
        if operation is not None:
            found[str(tensor.name)] = operation
    return found


def _operation(tensor: str, nodes: Mapping[str, Any], library: Mapping[str, Any]) -> Optional[str]:
    """Follow a tensor back through calls and identities.

    Args:
        tensor: ``node:number``, within a function ``node:output:number``.
        nodes: of the graph or function that it is in, by name.
        library: functions by name.
    """
    for _ in range(_DEEPEST):
        name, _, number = tensor.partition(":")
        place = int(number.rpartition(":")[2] or 0)
        node = nodes.get(name)
        if node is None:  # an argument of the function
            return None
        if node.op in _PASSES_ON:
            tensor = node.input[place]
        elif node.op in _CALLS:
            function = library.get(node.attr["f"].func.name)
            if function is None or saved_model_graph.IMPLEMENTS in function.attr:
                return None
            tensor = function.ret[function.signature.output_arg[place].name]
            nodes = {node.name: node for node in function.node_def}
        else:
            return str(node.name)
    return None
