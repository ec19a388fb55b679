"""Object graphs of checkpoints as TensorFlow saves them, made by the tests without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np


class Graph:
    """A graph with the fields of ``TrackableObjectGraph`` that are read.

    Args:
        children: of each node, by its number: attribute -> number of a node.
        values: number of a node that is a variable -> key of its value.
        slots: number of an optimizer's node -> (variable, name, slot) of each slot.
        full_names: number of a variable's node -> the variable's own name.
    """

    def __init__(
        self,
        children: Sequence[Mapping[str, int]],
        values: Mapping[int, str] = {},
        slots: Mapping[int, Sequence[tuple[int, str, int]]] = {},
        full_names: Mapping[int, str] = {},
    ) -> None:
        self.nodes = [
            SimpleNamespace(
                children=[
                    SimpleNamespace(local_name=name, node_id=node) for name, node in below.items()
                ],
                attributes=[
                    SimpleNamespace(
                        checkpoint_key=values[number], full_name=full_names.get(number, "")
                    )
                ]
                if number in values
                else [],
                slot_variables=[
                    SimpleNamespace(
                        original_variable_node_id=variable,
                        slot_name=name,
                        slot_variable_node_id=slot,
                    )
                    for variable, name, slot in slots.get(number, ())
                ],
            )
            for number, below in enumerate(children)
        ]


class Reader:
    """The methods of TensorFlow's checkpoint reader that are called; tensors by key."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._tensors = {key: np.asarray(value) for key, value in tensors.items()}

    def get_tensor(self, key: str) -> Any:
        return self._tensors[key]

    def get_variable_to_shape_map(self) -> dict[str, list[int]]:
        return {key: list(value.shape) for key, value in self._tensors.items()}
