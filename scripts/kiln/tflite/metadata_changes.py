"""Compare what surrounds the graphs of two files: metadata, labels, packed files, bytes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

from kiln.tflite.canonical import first_differences
from kiln.tflite.pairing import Both
from kiln.tflite.reading import text_of
from kiln.tflite.report import Item, Section, changed, fields, flat, section
from kiln.tflite.wording import count, shown

_METADATA = "TFLITE_METADATA"

#: How many differing lines of label files are listed; equal neighbours count as one. Detectors
#: have some hundred classes; a hostile file with millions of lines must not flood the report.
_MOST_LINES = 10_000


def metadata(both: Both) -> Section | None:
    """Compare metadata entries and, field by field, their contents."""
    items: list[Item] = []
    a, b = both.a, both.b
    for name in ("version", "description"):
        one, other = getattr(a.model, name), getattr(b.model, name)
        if one != other:
            items.append(changed(f"file {name}", one, other))
    sides = [dataclasses.asdict(file.metadata) if file.metadata else None for file in (a, b)]
    if sides[0] is None or sides[1] is None:
        if sides[0] is not sides[1]:
            side = "B" if sides[0] is None else "A"
            items.append(Item(f"metadata only in {side}", {"what": "metadata", "only": side}))
    else:
        items += fields(flat(sides[0]), flat(sides[1]))
    parsed = len(items)
    names = dict.fromkeys([*a.model.metadata, *b.model.metadata])
    for name in names:
        entries = a.model.metadata.get(name), b.model.metadata.get(name)
        one_raw, other_raw = (None if e is None else bytes(e) for e in entries)
        if one_raw == other_raw:
            continue
        if name == _METADATA and None in (sides[0], sides[1]) and None in entries:
            continue  # reported above
        if name == _METADATA and parsed:
            continue
        items.append(_entry_item(name, one_raw, other_raw))
    return section("metadata", f"metadata: {count(len(items), 'difference')}", items)


def feeding(both: Both) -> Section | None:
    """Compare how pictures become the input, as the files state it."""
    one, other = both.a.feeding, both.b.feeding
    if one == other:
        return None
    if one is None or other is None:
        side = "B" if one is None else "A"
        items = [Item(f"stated only in {side}", {"what": "feeding", "only": side})]
    else:
        items = fields(one.as_json(), other.as_json())
    return section("feeding", "how to feed it", items)


def labels(both: Both) -> Section | None:
    """Compare label files, line by line."""
    one, other = both.a.labels, both.b.labels
    if one is None or other is None:
        if one is not other:
            side, found = ("B", other) if one is None else ("A", one)
            assert found is not None
            text = f"{count(len(found[1]), 'label')} only in {side} ({shown(found[0])})"
            return section("labels", "labels", [Item(text, {"what": "labels", "only": side})])
        return None
    items = []
    if len(one[1]) != len(other[1]):
        items.append(changed("number of lines", len(one[1]), len(other[1])))
    start, differing, left_out = 0, 0, 0
    for (first, second), run in itertools.groupby(itertools.zip_longest(one[1], other[1])):
        some = sum(1 for _ in run)
        if first != second:
            where = f"line {start + 1}" if some == 1 else f"lines {start + 1} to {start + some}"
            differing += some
            if len(items) < _MOST_LINES:
                items.append(changed(where, first, second))
            else:
                left_out += some
        start += some
    if left_out:
        text = f"{count(left_out, 'more line')} differ"
        items.append(Item(text, {"what": "more lines", "lines": left_out}))
    return section("labels", f"labels: {count(differing, 'line')} of {start} differ", items)


def packed(both: Both) -> Section | None:
    """Compare names, sizes, dates, checksums and contents of packed files."""
    sides = [{item.name: item for item in file.packing.files} for file in (both.a, both.b)]
    items = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        one, other = sides[0].get(name), sides[1].get(name)
        if one is None or other is None:
            side = "B" if one is None else "A"
            items.append(
                Item(
                    f"{shown(name)} only in {side}",
                    {"what": "packed file", "name": name, "only": side},
                )
            )
            continue
        for what in ("size", "date", "crc", "stored", "problem"):
            first, second = getattr(one, what), getattr(other, what)
            if first != second:
                items.append(changed(f"{shown(name)}: {what}", first, second, name=name))
        if one.content != other.content and one.crc == other.crc and not one.problem:
            items.append(changed(f"{shown(name)}: content", "", "other bytes", name=name))
    if list(sides[0]) != list(sides[1]) and set(sides[0]) == set(sides[1]):
        items.append(changed("order", list(sides[0]), list(sides[1])))
    return section("packed", "packed files", items)


def other_fields(both: Both) -> Iterable[Item]:
    """Yield fields that differ, by their path; for files where nothing else does."""
    for path, one, other in first_differences(both.a, both.b):
        yield changed(path, one, other)
    unknown = sorted(both.a.tree.unknown | both.b.tree.unknown)
    if unknown:
        yield Item(
            f"fields that kiln's schema does not know: {', '.join(unknown)}",
            {"what": "unknown fields", "fields": unknown},
        )


def raw_bytes(both: Both) -> Iterable[Item]:
    """Compare sizes, and find where and how much the bytes differ."""
    a, b = both.a, both.b
    if len(a.data) != len(b.data):
        yield changed("size", len(a.data), len(b.data))
    flats = [memoryview(file.data)[: file.packing.start] for file in (a, b)]
    where = _first_difference(a.data, b.data)
    part = "packed files" if where >= max(map(len, flats)) else "FlatBuffer"
    text = f"first different byte: {where:,}, in the {part}"
    same_flat = bytes(flats[0]) == bytes(flats[1])
    if same_flat:
        text += f"; the FlatBuffer ({len(flats[0]):,} bytes) is the same"
    elif len(a.data) == len(b.data):
        differing = _differing_bytes(a.data, b.data)
        text += f"; {count(differing, 'byte')} of {len(a.data):,} differ"
    yield Item(text, {"what": "bytes", "first": where, "part": part, "same_flatbuffer": same_flat})


def _entry_item(name: str, one: bytes | None, other: bytes | None) -> Item:
    def said(raw: bytes | None) -> str:
        if raw is None:
            return "none"
        text = text_of(memoryview(raw))
        return text if text is not None else f"{len(raw)} bytes"

    words = said(one), said(other)
    if words[0] == words[1]:
        return Item(
            f"{shown(name)}: other bytes ({words[0]})", {"what": name, "bytes": len(one or b"")}
        )
    return Item(
        f"{shown(name)}: {shown(words[0])} -> {shown(words[1])}",
        {"what": name, "a": words[0], "b": words[1]},
    )


def _first_difference(a: bytes, b: bytes) -> int:
    """Return the first position where two different byte strings differ."""
    low, high = 0, min(len(a), len(b))
    one, other = memoryview(a), memoryview(b)
    while low < high:
        middle = (low + high + 1) // 2
        if bytes(one[low:middle]) == bytes(other[low:middle]):
            low = middle
        else:
            high = middle - 1
    return low


def _differing_bytes(a: bytes, b: bytes) -> int:
    """Count the bytes in which two equally long strings differ."""
    step, found = 1 << 16, 0
    for start in range(0, len(a), step):
        one, other = a[start : start + step], b[start : start + step]
        if one != other:
            mixed = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
            found += len(one) - mixed.to_bytes(len(one), "little").count(0)
    return found
