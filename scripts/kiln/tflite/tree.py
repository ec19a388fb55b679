"""Read a whole ``.tflite`` FlatBuffer as plain values, by the layout in :mod:`kiln.tflite.schema`.

:mod:`stages.tflite.tflite_model` reads only what kiln's own stages need. This module reads every
field, so that a comparison overlooks none: operator options, sparsity, blockwise quantisation and
so on. Fields that the schema does not know are counted. Standard library only.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from kiln.project.stagecode import stage_module
from kiln.tflite.schema import ENUMS, TABLES, UNIONS

_DEPTH = 16  # the schema itself nests 5 levels deep
_SPARE_TABLES, _SPARE_NUMBERS, _SPARE_BYTES = 10_000, 100_000, 1 << 20

#: More than any real file has. The largest detector seen, an EfficientDet D0 converted node by
#: node, has some 160,000 tables; reading as many as this takes seconds.
_MOST_TABLES, _MOST_NUMBERS = 250_000, 10_000_000


class Tree:
    """The contents of one FlatBuffer.

    Attributes:
        model: the fields of the root table by name. A table is a dict with every field that the
            schema knows (absent ones with their default), a vector of bytes a ``memoryview``, any
            other vector a list, an enumeration its name (or number, where it has none).
        unknown: fields that are set, but that the schema does not know, as ``Table slot N``.
    """

    def __init__(self, data: bytes) -> None:
        """Read ``data``.

        Raises:
            FlatError: it is not a TFLite model, or is truncated or damaged (a ValueError).
        """
        flat = stage_module("tflite.flatbuffer")
        self._flat = flat
        self.unknown: set[str] = set()
        # Parts may be shared, but a hostile file can make its reader visit everything again and
        # again. In an honest file each table, number and byte takes its own space.
        self._tables = min(len(data) // 4 + _SPARE_TABLES, _MOST_TABLES)
        self._numbers = min(4 * len(data) + _SPARE_NUMBERS, _MOST_NUMBERS)
        self._bytes = 2 * len(data) + _SPARE_BYTES
        root = flat.root(data, b"TFL3", "TFLite model")
        self.model: dict[str, Any] = self._table("Model", root, 0)

    def _table(self, name: str, table: Any, depth: int) -> dict[str, Any]:
        flat = self._flat
        self._tables -= 1
        self._check_tables(0)
        if depth > _DEPTH:
            raise flat.FlatError("its tables are nested over and over: damaged")
        fields = _fields(name)
        vtable = table.position - flat.scalar(table.view, table.position, "i")
        slots = (flat.scalar(table.view, vtable, "H") - 4) // 2
        found: dict[str, Any] = {}
        for slot, (field, kind, default) in enumerate(fields):
            if slot >= slots or field == "-" or not table.where(slot):
                if field == "-" and slot < slots and table.where(slot):
                    self.unknown.add(f"{name} slot {slot}")
                elif field != "-":
                    found[field] = _empty(kind) if default is None else default
                continue
            if kind.startswith("union/"):
                found[field] = self._union(kind[6:], found[fields[slot - 1][0]], table, slot, depth)
            else:
                found[field] = self._value(kind, table, slot, depth)
        self.unknown.update(
            f"{name} slot {slot}" for slot in range(len(fields), slots) if table.where(slot)
        )
        return found

    def _value(self, kind: str, table: Any, slot: int, depth: int) -> Any:
        if kind == "s":
            return self._text(table.text(slot))
        if kind.startswith("@"):
            return self._table(kind[1:], table.table(slot), depth + 1)
        if kind in ENUMS:
            return _named(kind, table.number(slot, "b"))
        if kind == "?":
            return bool(table.number(slot, "B"))
        if not kind.startswith("["):
            return table.number(slot, kind)
        inner = kind[1:-1]
        if inner == "B":
            raw = table.raw(slot)
            self._bytes -= len(raw)
            if self._bytes < 0:
                raise self._flat.FlatError("its contents are shared over and over: damaged")
            return raw
        if inner.startswith("@"):
            some = len(table.raw(slot, 4)) // 4
            self._count(some)
            self._check_tables(some)
            return [self._table(inner[1:], item, depth + 1) for item in table.tables(slot)]
        code = "B" if inner == "?" else inner
        self._count(len(table.raw(slot)))
        return table.numbers(slot, code)

    def _union(self, name: str, kind: int, table: Any, slot: int, depth: int) -> dict[str, Any]:
        members = UNIONS[name]
        if kind == 0:
            return {}
        if kind >= len(members):
            self.unknown.add(f"{name} {kind}")
            return {"options": kind}
        inner = table.table(slot)
        return {"options": members[kind], **self._table(members[kind], inner, depth + 1)}

    def _check_tables(self, more: int) -> None:
        if self._tables < more:
            raise self._flat.FlatError(
                "its tables refer to each other over and over, or are more than "
                f"{_MOST_TABLES:,}: damaged"
            )

    def _text(self, text: str) -> str:
        self._count(len(text))
        return text

    def _count(self, numbers: int) -> None:
        self._numbers -= numbers
        if self._numbers < 0:
            raise self._flat.FlatError(
                "its values refer to each other over and over, or are more than "
                f"{_MOST_NUMBERS:,}: damaged"
            )


@cache
def _fields(name: str) -> tuple[tuple[str, str, Any], ...]:
    """Return name, type and default of every slot; a default of ``None`` is the type's own."""
    fields: list[tuple[str, str, Any]] = []
    for word in TABLES[name].split():
        field, _, kind = word.partition(":")
        kind, _, text = kind.partition("=")
        default: Any = None
        if text:
            default = text == "True" if kind == "?" else int(text)
            if kind in ENUMS:
                default = _named(kind, default)
        fields.append((field, kind, default))
    return tuple(fields)


def _named(kind: str, value: int) -> Any:
    names = ENUMS[kind]
    return names[value] if 0 <= value < len(names) else value


def _empty(kind: str) -> Any:
    if kind == "[B]":
        return memoryview(b"")
    if kind.startswith("["):
        return []
    if kind.startswith("@"):
        return None
    if kind.startswith("union/"):
        return {}
    if kind in ENUMS:
        return _named(kind, 0)
    return {"s": "", "?": False, "f": 0.0}.get(kind, 0)
