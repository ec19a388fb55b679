"""Name the layers of a graph, and find those that a user wants left in float.

An operator is known to the quantiser by the name of its output tensor. Where the converter fused
several operators into one, that name lists them all, with ``;`` between. Its first part is a
layer's short name, where no other operator has it.

An output of the graph is named after the output instead. Its operator is known by its own name, as
in a graph that goes on behind it, so that one list of layers is for files with post-processing and
without it.
"""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from stages.protocol.failures import StageError
from stages.tflite import dequantize_order, tflite_model

_NEAR = 5
"""How many similar names an error lists."""


def short_names(model: tflite_model.Model, outputs: Mapping[str, str]) -> dict[str, str]:
    """Return layer name -> name of the output tensor, in the order of execution.

    Operators with several outputs are left out: the quantiser only knows them by kind.

    Args:
        model: the graph.
        outputs: tensor of an output of the graph -> the operation that makes it
            (:func:`stages.saved.output_names.operations`).
    """
    graph = model.graph
    full = [graph.tensors[op.outputs[0]].name for op in graph.operators if len(op.outputs) == 1]
    taken = {tensor.name for tensor in graph.tensors}
    own = [_unused(outputs[name], taken) if name in outputs else name for name in full]
    short = [name.split(";")[0] for name in own]
    times = Counter(short)
    return {a if times[a] == 1 else b: c for a, b, c in zip(short, own, full)}


def _unused(name: str, taken: set[str]) -> str:
    """Return what the converter would call a tensor: ``name``, with a number where it is taken.

    The shape that a reshaping takes is a constant tensor of the same name, which comes first.
    """
    numbered = (f"{name}{number}" for number in itertools.count(1))
    return name if name not in taken else next(item for item in numbered if item not in taken)


def kinds(model: tflite_model.Model) -> set[str]:
    """Return the kinds of a graph's builtin operators, such as ``CONV_2D``."""
    names = kind_names()
    return {names[op.builtin] for op in model.graph.operators if not op.custom}


def kind_names() -> dict[int, str]:
    """Return the number of a builtin operator -> its kind."""
    operators = dequantize_order.schema_module().BuiltinOperator
    return {number: name for name, number in vars(operators).items() if name.isupper()}


def chosen(
    model: tflite_model.Model, wanted: Sequence[str], outputs: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Find layers by their short or whole names, and kinds of operators.

    Args:
        model: the float graph that is quantised.
        wanted: names of layers or kinds.
        outputs: as of :func:`short_names`.

    Returns:
        (names of the layers' output tensors, kinds).

    Raises:
        StageError: there is no such layer and no such kind.
    """
    if not wanted:
        return [], []
    layers, present = short_names(model, outputs), kinds(model)
    whole = set(layers.values())
    unknown = [name for name in wanted if name not in {*layers, *whole, *present}]
    if unknown:
        raise _unknown(unknown[0], [*layers, *sorted(present)])
    named = [layers.get(name, name) for name in wanted if name not in present]
    return named, [name for name in wanted if name in present]


def _unknown(name: str, known: Iterable[str]) -> StageError:
    near = _near(name, list(known))
    listed = f" Names near to it: {', '.join(near)}." if near else ""
    return StageError(
        "unsupported-model",
        f"int8.float_layers (--float-layer): the model has no layer or operator {name!r}.{listed}",
        "Correct it, or leave it out. `kiln explain-int8` lists the layers of a recipe's model by"
        " the names to write; `kiln init` writes a recipe.",
    )


def _near(name: str, known: list[str]) -> list[str]:
    """Return similar names: those with the same last part first."""
    end = name.rsplit("/", 1)[-1]
    alike = difflib.get_close_matches(name, known, _NEAR, 0.6)
    within = [item for item in known if name and (name in item or item.endswith(f"/{end}"))]
    return list(dict.fromkeys([*alike, *within]))[:_NEAR]
