"""Reduce a ``.tflite`` file to its content, independent of how it was serialised.

Two FlatBuffers may hold the same model in different bytes: tables in another order, other padding,
buffers and operator codes numbered differently, defaults written out. Here indices into shared
lists are replaced by the items they point to, so equal contents are equal values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kiln.tflite.reading import TfliteFile

_METADATA_APART = ("metadata", "metadata_buffer", "description", "version")
_MAX_PATHS = 200


def content(file: TfliteFile) -> dict[str, Any]:
    """Return every field of the file except metadata, description and schema version."""
    model = {key: item for key, item in file.tree.model.items() if key not in _METADATA_APART}
    codes = model.pop("operator_codes")
    model.pop("buffers")
    graphs = []
    # Each buffer counts once, however many tensors share it.
    buffers = [bytes(buffer) for buffer in file.model.buffers]
    for graph in model["subgraphs"]:
        tensors = [{**tensor, "buffer": buffers[tensor["buffer"]]} for tensor in graph["tensors"]]
        operators = [
            {**operator, "opcode_index": _code(codes[operator["opcode_index"]])}
            for operator in graph["operators"]
        ]
        graphs.append({**graph, "tensors": tensors, "operators": operators})
    found: dict[str, Any] = _plain({**model, "subgraphs": graphs})
    return found


def same_content(a: TfliteFile, b: TfliteFile) -> bool:
    """Whether two files hold the same model, as far as the schema knows their fields.

    Files with fields that the schema does not know are never reported as the same.
    """
    return not (a.tree.unknown or b.tree.unknown) and content(a) == content(b)


def first_differences(a: TfliteFile, b: TfliteFile) -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields that differ, as path and both values; the first few hundred."""
    for number, found in enumerate(_walk(content(a), content(b), "")):
        if number >= _MAX_PATHS:
            return
        yield found


def _code(code: dict[str, Any]) -> tuple[int, str, int]:
    # Files for old runtimes repeat the code in the older field; which one is set does not matter.
    builtin = max(code["deprecated_builtin_code"], code["builtin_code"])
    return builtin, code["custom_code"], code["version"]


def _plain(value: Any) -> Any:
    """Return views as bytes, and an empty quantisation as None: converters use both."""
    if isinstance(value, dict):
        return {
            key: None if key == "quantization" and not _any(item) else _plain(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return bytes(value) if isinstance(value, memoryview) else value


def _any(value: Any) -> bool:
    return bool(value) and any(
        len(item) if isinstance(item, (list, dict, memoryview)) else item for item in value.values()
    )


def _walk(a: Any, b: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            yield from _walk(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _walk(one, other, f"{path}[{index}]")
    elif a != b and not (a != a and b != b):  # NaN is equal to NaN
        yield path, _short(a), _short(b)


def _short(value: Any) -> Any:
    return f"{len(value)} bytes" if isinstance(value, bytes) and len(value) > 16 else value
