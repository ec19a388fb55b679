"""Print the messages of a ``pipeline.config`` and the known feature extractors, as JSON.

:mod:`schemas.generate_pipeline` runs this file inside the image that holds the Object Detection
API, with that image's Python 3.9. The package is read as text and not imported.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_PACKAGE = "object_detection.protos."
_ROOT = "TrainEvalPipelineConfig"

#: Codes of a field's type, by its number in ``FieldDescriptorProto.Type``.
_SCALARS = {1: "f", 2: "f", 3: "i", 4: "u", 5: "i", 8: "b", 9: "s", 12: "s", 13: "u"}
_ENUM, _MESSAGE = 14, 11
_REPEATED = 3

#: Kind of extractor -> the dictionary in ``model_builder.py`` whose keys are their names.
_EXTRACTORS = {
    "ssd": "SSD_KERAS_FEATURE_EXTRACTOR_CLASS_MAP",
    "center_net": "CENTER_NET_EXTRACTOR_FUNCTION_MAP",
    "ssd of TensorFlow 1": "SSD_FEATURE_EXTRACTOR_CLASS_MAP",
}


def describe(package: Path) -> dict[str, Any]:
    """Describe the ``object_detection`` package in the folder ``package``.

    Returns:
        ``messages`` (name -> fields, each ``name:type`` or ``name:type|number of its oneof``),
        ``enums`` (name -> values), ``extractors`` (kind -> names).
    """
    messages: dict[str, Any] = {}
    enums: dict[str, list[str]] = {}
    for path in sorted((package / "protos").glob("*_pb2.py")):
        for file in _files(path):
            enums.update(_enums(file.enum_type, ""))
            for name, message in _messages(file.message_type, ""):
                messages[name] = message
                enums.update(_enums(message.enum_type, f"{name}."))
    fields = {name: [_field(it) for it in message.field] for name, message in _reached(messages)}
    used = {
        word.split(":")[1].split("|")[0].strip("[]") for words in fields.values() for word in words
    }
    return {
        "messages": fields,
        "enums": {name: values for name, values in enums.items() if name in used},
        "extractors": _extractors(package / "builders" / "model_builder.py"),
    }


def _files(path: Path) -> Iterator[Any]:
    """Find the serialized file descriptors in a module that protoc generated."""
    parse = import_module("google.protobuf.descriptor_pb2").FileDescriptorProto.FromString
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "serialized_pb":
            yield parse(ast.literal_eval(node.value))


def _messages(messages: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for message in messages:
        yield f"{prefix}{message.name}", message
        yield from _messages(message.nested_type, f"{prefix}{message.name}.")


def _enums(enums: Any, prefix: str) -> dict[str, list[str]]:
    return {f"{prefix}{enum.name}": [value.name for value in enum.value] for enum in enums}


def _reached(messages: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the messages that a configuration can hold, by name."""
    todo, found = [_ROOT], set()
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [_type_name(it) for it in messages[name].field if it.type == _MESSAGE]
    return [(name, messages[name]) for name in sorted(found)]


def _field(field: Any) -> str:
    if field.type == _MESSAGE:
        kind = f"@{_type_name(field)}"
    else:
        kind = _type_name(field) if field.type == _ENUM else _SCALARS[field.type]
    if field.label == _REPEATED:
        kind = f"[{kind}]"
    oneof = f"|{field.oneof_index}" if field.HasField("oneof_index") else ""
    return f"{field.name}:{kind}{oneof}"


def _type_name(field: Any) -> str:
    return str(field.type_name).replace(f".{_PACKAGE}", "")


def _extractors(path: Path) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {kind: set() for kind in _EXTRACTORS}
    kinds = {name: kind for kind, name in _EXTRACTORS.items()}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for target in node.targets:
                kind = kinds.get(target.id) if isinstance(target, ast.Name) else None
                if kind is not None:
                    keys = (key for key in node.value.keys if key is not None)
                    found[kind].update(ast.literal_eval(key) for key in keys)
    return {kind: sorted(names) for kind, names in found.items()}


def main() -> None:
    """Describe the package that this Python has."""
    spec = find_spec("object_detection")
    if spec is None or spec.origin is None:
        sys.exit("This Python has no object_detection.")
    print(json.dumps(describe(Path(spec.origin).parent), indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
