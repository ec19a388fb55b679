"""Which operation makes an output of a SavedModel, followed through calls and identities."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stages.saved import output_names
from stages.saved.saved_model_graph import IMPLEMENTS


def node(name: str, op: str, *inputs: str, calls: str = "") -> Any:
    attributes = {"f": SimpleNamespace(func=SimpleNamespace(name=calls))}
    return SimpleNamespace(name=name, op=op, input=list(inputs), attr=attributes)


def function(*nodes: Any, implements: str = "", **ret: str) -> Any:
    """A function; ``ret`` are its outputs, in order."""
    outputs = [SimpleNamespace(name=name) for name in ret]
    attributes = {IMPLEMENTS: implements} if implements else {}
    signature = SimpleNamespace(output_arg=outputs)
    return SimpleNamespace(node_def=list(nodes), ret=ret, signature=signature, attr=attributes)


LIBRARY = {
    "wrapper": function(
        node("inner", "StatefulPartitionedCall", "image", calls="body"),
        node("Identity", "Identity", "inner:output:1"),
        node("Identity_1", "IdentityN", "inner:output:0", "inner:output:1"),
        first="Identity:output:0",
        second="Identity_1:output:1",
        third="inner:output:2",
        fourth="image",
    ),
    "body": function(
        node("net/Squeeze", "Squeeze", "image"),
        node("named", "Identity", "net/Squeeze:output:0"),
        node("post", "PartitionedCall", "named:output:0", calls="operator"),
        scores="net/Squeeze:output:0",
        boxes="named:output:0",
        made="post:output:0",
    ),
    "operator": function(node("boxes", "Const"), implements="an operator", a="boxes:output:0"),
    "endless": function(node("again", "PartitionedCall", calls="endless"), a="again:output:0"),
}
NODES = {
    "Call": node("Call", "StatefulPartitionedCall", "image", calls="wrapper"),
    "Endless": node("Endless", "PartitionedCall", calls="endless"),
    "Gone": node("Gone", "PartitionedCall", calls="gone"),
    "image": node("image", "Placeholder"),
}


@pytest.mark.parametrize(
    ("tensor", "operation"),
    [
        ("Call:0", "net/Squeeze"),
        ("Call:1", "net/Squeeze"),
        ("Call:2", None),  # what stands for TFLite's operator
        ("Call:3", None),  # the function's argument
        ("Endless:0", None),
        ("Gone:0", None),
        ("nowhere:0", None),
        ("image:0", "image"),
        ("image", "image"),
    ],
)
def test_an_output_is_followed_to_its_operation(tensor: str, operation: str | None) -> None:
    assert output_names._operation(tensor, NODES, LIBRARY) == operation
