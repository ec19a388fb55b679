"""Build the report of a comparison from differences and sections."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kiln.core.output import table
from kiln.tflite import wording
from kiln.tflite.wording import number, shown


@dataclass(frozen=True)
class Item:
    """One difference: a line for people, and plain values for JSON.

    ``cells`` are the same as ``text``, for sections that have a table.
    """

    text: str
    data: dict[str, Any]
    cells: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """All differences of one kind, the most important first.

    Attributes:
        name: ``operators``, ``tensors``, ``interface``, ``signatures``, ``postprocess``,
            ``other``, ``quantisation``, ``weights``, ``feeding``, ``metadata``, ``labels``,
            ``packed`` or ``bytes``.
        title: for people, with the numbers that matter.
        items: the differences.
        summary: figures of the whole section.
        head: of the table that the items with cells make.
    """

    name: str
    title: str
    items: tuple[Item, ...]
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    head: tuple[str, ...] = ()

    def lines(self, few: int | None) -> list[str]:
        """Return the section for people, at most ``few`` items of it."""
        kept = self.items[:few]
        rows = [item.cells for item in kept if item.cells]
        lines = table(list(self.head), [list(row) for row in rows]).splitlines() if rows else []
        lines += [item.text for item in kept if not item.cells]
        if len(kept) < len(self.items):
            lines.append(f"... and {len(self.items) - len(kept):,} more (--all)")
        return [self.title, *(f"  {line}" for line in lines)]


def section(
    name: str,
    title: str,
    items: Iterable[Item],
    head: tuple[str, ...] = (),
    **summary: Any,
) -> Section | None:
    """Build a section, or return ``None`` where nothing differs."""
    kept = tuple(items)
    return Section(name, title, kept, summary, head) if kept else None


def changed(what: str, one: Any, other: Any, **more: Any) -> Item:
    """Describe a value that differs in the second file."""
    return Item(
        f"{shown(what)}: {value_text(one)} -> {value_text(other)}",
        {"what": what, "a": one, "b": other, **more},
    )


def fields(one: dict[str, Any], other: dict[str, Any]) -> list[Item]:
    """List the fields whose values differ."""
    return [
        changed(name, one.get(name), other.get(name))
        for name in dict.fromkeys([*one, *other])
        if wording.plain(one.get(name)) != wording.plain(other.get(name))
    ]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Flatten nested values to one dict, keys like ``outputs[0].box.type``."""
    if isinstance(value, dict):
        items = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {path: value}
    return {key: leaf for name, item in items for key, leaf in flat(item, name).items()}


def value_text(value: Any) -> str:
    """Format a value for people."""
    if value is None or value in ("", (), []):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, (list, tuple)):
        return shown(", ".join(value_text(item) for item in value))
    return shown(repr(value) if isinstance(value, str) else str(wording.plain(value)))


def names_text(names: list[str]) -> str:
    """Format several names for people."""
    return ", ".join(shown(name, 40) for name in names) or "none"
