"""Make a SavedModel's bytes independent of what ran before in the same process.

TensorFlow ends function names with a process-wide counter (``__inference_inference_fn_7756``) and
writes the function library in no fixed order. Both are made canonical here, so that an export
always has the same digest.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_COUNTED = re.compile(r"(?P<base>__(?:inference|forward|backward)_.*?)_(?P<number>\d+)\Z")


def canonicalize(folder: Path) -> None:
    """Rewrite ``folder/saved_model.pb`` in place; ``fingerprint.pb`` (optional) is removed.

    Args:
        folder: a SavedModel saved without custom gradients. Function names lose their
            process-wide counter and get their rank among functions of the same name instead (in
            order of creation).
    """
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel()
    model.ParseFromString(path.read_bytes())
    for meta in model.meta_graphs:
        names = _new_names([item.signature.name for item in meta.graph_def.library.function])
        _rename_graph(meta.graph_def, names)
        _rename_objects(meta.object_graph_def, names)
    path.write_bytes(model.SerializeToString(deterministic=True))
    # It is a hash of the original file, to tell SavedModels apart; readers do not need it.
    (folder / "fingerprint.pb").unlink(missing_ok=True)


def _new_names(old: list[str]) -> dict[str, str]:
    """Map old to new names, for the names that end in a counter."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in old:
        match = _COUNTED.match(name)
        if match:
            groups.setdefault(match["base"], []).append((int(match["number"]), name))
    return {
        name: f"{base}_{rank}"
        for base, members in groups.items()
        for rank, (_, name) in enumerate(sorted(members))
    }


def _rename_graph(graph: Any, names: dict[str, str]) -> None:
    _rename_nodes(graph.node, names)
    library = graph.library
    for function in library.function:
        function.signature.name = names.get(function.signature.name, function.signature.name)
        _rename_attributes(function.attr, names)
        _rename_nodes(function.node_def, names)
        for argument in function.arg_attr.values():
            # Captured variables are "named" after the counter as well.
            key = "_user_specified_name"
            if key in argument.attr and argument.attr[key].s.isdigit():
                del argument.attr[key]
    for gradient in library.gradient:
        gradient.function_name = names.get(gradient.function_name, gradient.function_name)
        gradient.gradient_func = names.get(gradient.gradient_func, gradient.gradient_func)
    ordered = sorted(library.function, key=lambda function: str(function.signature.name))
    copies = [type(function).FromString(function.SerializeToString()) for function in ordered]
    del library.function[:]
    library.function.extend(copies)


def _rename_nodes(nodes: Any, names: dict[str, str]) -> None:
    for node in nodes:
        node.op = names.get(node.op, node.op)
        _rename_attributes(node.attr, names)


def _rename_attributes(attributes: Any, names: dict[str, str]) -> None:
    # The gradient's registry key has a counter too, and is meaningless once saved.
    attributes.pop("_gradient_op_type", None)
    for value in attributes.values():
        for function in (value.func, *value.list.func):
            if function.name in names:
                function.name = names[function.name]


def _rename_objects(graph: Any, names: dict[str, str]) -> None:
    for node in graph.nodes:
        kind = node.WhichOneof("kind")
        if kind == "function":
            renamed = [names.get(name, name) for name in node.function.concrete_functions]
            node.function.concrete_functions[:] = renamed
        elif kind == "bare_concrete_function":
            bare = node.bare_concrete_function
            bare.concrete_function_name = names.get(
                bare.concrete_function_name, bare.concrete_function_name
            )
        elif kind == "captured_tensor":
            owner = node.captured_tensor.concrete_function
            node.captured_tensor.concrete_function = names.get(owner, owner)
    functions = graph.concrete_functions
    for old, new in names.items():
        if old in functions:
            functions[new].CopyFrom(functions[old])
            del functions[old]
