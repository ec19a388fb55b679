"""What a comparison says: single differences, and sections of them."""

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
    """One difference: a line for people, and the same as plain values.

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
            ``other``, ``quantisation``, ``weights``, ``metadata``, ``labels``, ``packed`` or
            ``bytes``.
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
        """The section for people, at most ``few`` items of it."""
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
    """A section, or ``None`` where nothing differs."""
    kept = tuple(items)
    return Section(name, title, kept, summary, head) if kept else None


def changed(what: str, one: Any, other: Any, **more: Any) -> Item:
    """A value that is another one in the second file."""
    return Item(
        f"{shown(what)}: {value_text(one)} -> {value_text(other)}",
        {"what": what, "a": one, "b": other, **more},
    )


def fields(one: dict[str, Any], other: dict[str, Any]) -> list[Item]:
    """The fields whose values differ."""
    return [
        changed(name, one.get(name), other.get(name))
        for name in dict.fromkeys([*one, *other])
        if wording.plain(one.get(name)) != wording.plain(other.get(name))
    ]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested values as one dict, keys like ``outputs[0].box.type``."""
    if isinstance(value, dict):
        items = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {path: value}
    return {key: leaf for name, item in items for key, leaf in flat(item, name).items()}


def value_text(value: Any) -> str:
    """A value for people."""
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
    """Several names for people."""
    return ", ".join(shown(name, 40) for name in names) or "none"
