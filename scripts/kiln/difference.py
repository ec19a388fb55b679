"""How two ``.tflite`` files differ, in an engineer's terms: the matter of ``kiln diff``."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.tflite import facts, pairing, values, wording
from kiln.tflite.canonical import first_differences, same_content
from kiln.tflite.reading import POSTPROCESS, Graph, TfliteFile, load, text_of, type_name
from kiln.tflite.wording import count, number, shown
from kiln.ui import table

_FEW = 5
"""How many differences of each kind are shown unless all are asked for."""

_GRAPH = ("operators", "tensors", "interface", "signatures", "postprocess", "other")
"""Sections that say the graph is another one."""

_ORDER = (
    "weights", "quantisation", "operators", "interface", "signatures", "postprocess", "tensors",
    "other", "metadata", "labels", "packed", "bytes",
)  # fmt: skip

_METADATA = "TFLITE_METADATA"


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


@dataclass(frozen=True)
class Difference:
    """The result of :func:`compare`.

    Attributes:
        verdict: one sentence.
        identical: every byte is the same.
        same_model: the graph and every weight are the same; only what surrounds them differs.
        sections: what differs, empty where ``identical``.
    """

    a: TfliteFile
    b: TfliteFile
    verdict: str
    identical: bool
    same_model: bool
    sections: tuple[Section, ...]

    def as_json(self, all_items: bool = False) -> dict[str, Any]:
        """The same as plain values (strict JSON); few of each kind, or all."""
        result: dict[str, Any] = wording.plain(
            {
                "verdict": self.verdict,
                "identical": self.identical,
                "same_model": self.same_model,
                **{
                    side: {"file": file.name, "size": len(file.data), "sha256": file.sha256}
                    for side, file in (("a", self.a), ("b", self.b))
                },
                "sections": [
                    {
                        "name": section.name,
                        "title": section.title,
                        "count": len(section.items),
                        **section.summary,
                        "items": [
                            {"text": item.text, **item.data}
                            for item in (section.items if all_items else section.items[:_FEW])
                        ],
                    }
                    for section in self.sections
                ],
            }
        )
        return result

    def text(self, all_items: bool = False) -> str:
        """The same for people: the verdict, then a block for each kind of difference."""
        if self.identical:
            return self.verdict
        lines = [self.verdict, "", f"  A  {shown(self.a.name, 400)}"]
        lines.append(f"  B  {shown(self.b.name, 400)}")
        for section in self.sections:
            lines += ["", *section.lines(None if all_items else _FEW)]
        return "\n".join(lines)


def compare(a: bytes | Path, b: bytes | Path, name_a: str = "", name_b: str = "") -> Difference:
    """Compare two ``.tflite`` files.

    Args:
        a: the first file, or its bytes.
        b: the second.
        name_a: what to call the first; by default its path, or "A".
        name_b: what to call the second; by default its path, or "B".

    Raises:
        UsageError: a file does not exist, or cannot be read.
        UnsupportedModelError: one is no TFLite model, or a truncated or damaged one.
    """
    first = load(a, name_a or ("A" if isinstance(a, bytes) else ""))
    second = load(b, name_b or ("B" if isinstance(b, bytes) else ""))
    if first.data == second.data:
        verdict = f"identical: the same {count(len(first.data), 'byte')}"
        return Difference(first, second, verdict, True, True, ())
    return _Comparison(first, second).difference()


class _Comparison:
    def __init__(self, a: TfliteFile, b: TfliteFile) -> None:
        self.a, self.b = a, b
        self.graphs = list(zip(a.graphs, b.graphs, strict=False))
        self.pairings = [pairing.pair(a, one, b, other) for one, other in self.graphs]
        self.precisions = facts.precision(a), facts.precision(b)
        self.sections: dict[str, Section] = {}

    def difference(self) -> Difference:
        a, b = self.a, self.b
        self._add("operators", "operators", self._operators())
        self._add("interface", "inputs and outputs", self._interface())
        self._add("signatures", "signatures", self._signatures())
        self._postprocess()
        self._weights()
        self._add("quantisation", "quantisation", self._quantisation())
        self._add("tensors", "tensors", self._tensors())
        self._metadata()
        self._labels()
        self._packed()
        unchanged = not any(name in self.sections for name in (*_GRAPH, "weights", "quantisation"))
        same = same_content(a, b)
        if unchanged and not same:
            self._add("other", "other fields", self._other())
            unchanged = "other" not in self.sections
        self._add("bytes", "bytes", self._bytes())
        return Difference(a, b, self._verdict(unchanged), False, unchanged, self._ordered())

    def _ordered(self) -> tuple[Section, ...]:
        order = list(_ORDER)
        weights = self.sections.get("weights")
        if weights is not None and not weights.summary["differing_tensors"]:
            order.remove("weights")  # other constants follow from another graph: behind it
            order.insert(order.index("tensors"), "weights")
        return tuple(self.sections[name] for name in order if name in self.sections)

    def _add(self, name: str, title: str, items: Iterable[Item], **summary: Any) -> None:
        kept = tuple(items)
        if kept:
            head = _WEIGHT_HEAD if name == "weights" else ()
            self.sections[name] = Section(name, title, kept, summary, head)

    def _place(self, graph: int) -> str:
        return f"graph {graph}, " if max(len(self.a.graphs), len(self.b.graphs)) > 1 else ""

    # --- operators ------------------------------------------------------------------------

    def _operators(self) -> Iterable[Item]:
        if len(self.a.graphs) != len(self.b.graphs):
            numbers = len(self.a.graphs), len(self.b.graphs)
            yield Item(
                f"{count(numbers[0], 'graph')} -> {numbers[1]}",
                {"what": "graphs", "a": numbers[0], "b": numbers[1]},
            )
        for index, ((a, b), paired) in enumerate(zip(self.graphs, self.pairings, strict=True)):
            place = self._place(index)
            yield from _sequence(a, b, paired, place)
            yield from _versions(a, b, paired, place)
            yield from _options(a, b, paired, place)
            yield from _wiring(a, b, paired, place)

    # --- interface ------------------------------------------------------------------------

    def _interface(self) -> Iterable[Item]:
        for kind in ("inputs", "outputs"):
            ends = [_ends(file, kind) for file in (self.a, self.b)]
            partners = self.pairings[0].tensors
            order = [partners.get(end["tensor"]) for end in ends[0]]
            here = [end["tensor"] for end in ends[1]]
            if len(ends[0]) != len(ends[1]):
                yield Item(
                    f"{len(ends[0])} {kind} -> {len(ends[1])}",
                    {"what": f"number of {kind}", "a": len(ends[0]), "b": len(ends[1])},
                )
            elif order != here and sorted(map(str, order)) == sorted(map(str, here)):
                shown_order = [", ".join(_called(end) for end in side) for side in ends]
                yield Item(
                    f"{kind} in another order: {shown_order[0]} -> {shown_order[1]}",
                    {"what": f"order of {kind}", "a": shown_order[0], "b": shown_order[1]},
                )
            else:
                for one, other in zip(*ends, strict=True):
                    yield from _end_items(kind[:-1], one, other)

    def _signatures(self) -> Iterable[Item]:
        sides = [_signature_maps(file) for file in (self.a, self.b)]
        for key in dict.fromkeys([*sides[0], *sides[1]]):
            one, other = sides[0].get(key), sides[1].get(key)
            if one is None or other is None:
                yield Item(
                    f"signature {shown(key)!r} only in {'B' if one is None else 'A'}",
                    {"what": "signature", "key": key, "only": "B" if one is None else "A"},
                )
                continue
            for kind in ("inputs", "outputs"):
                yield from self._signature(key, kind, one, other)

    def _signature(
        self, key: str, kind: str, one: dict[str, Any], other: dict[str, Any]
    ) -> Iterable[Item]:
        names = list(one[kind]), list(other[kind])
        data = {"what": f"signature {kind}", "key": key}
        if sorted(names[0]) != sorted(names[1]):
            yield Item(
                f"{shown(key)}: {kind} {_list(names[0])} -> {_list(names[1])}",
                {**data, "a": names[0], "b": names[1]},
            )
            return
        if names[0] != names[1]:
            yield Item(
                f"{shown(key)}: {kind} listed in another order: "
                f"{_list(names[0])} -> {_list(names[1])}",
                {**data, "a": names[0], "b": names[1]},
            )
        if one["graph"] != other["graph"] or one["graph"] >= len(self.graphs):
            return
        graphs, paired = self.graphs[one["graph"]], self.pairings[one["graph"]]
        for name in names[0]:
            first, second = one[kind][name], other[kind][name]
            partner = paired.tensors.get(first)
            if partner is not None and partner != second:
                tensors = graphs[0].tensors[first].name, graphs[1].tensors[second].name
                yield Item(
                    f"{shown(key)}: {shown(name)} is {shown(tensors[0])} -> {shown(tensors[1])}",
                    {**data, "name": name, "a": tensors[0], "b": tensors[1]},
                )

    def _postprocess(self) -> None:
        one, other = facts.postprocessing(self.a), facts.postprocessing(self.b)
        if one is None or other is None:
            return  # a missing operator is among the operators
        self._add("postprocess", "post-processing options", _fields(one, other))

    # --- weights --------------------------------------------------------------------------

    def _weights(self) -> None:
        found: list[tuple[values.ValueDifference, Item]] = []
        compared = 0
        stored: Counter[tuple[str, str]] = Counter()
        alone: list[Item] = []
        for index, ((a, b), paired) in enumerate(zip(self.graphs, self.pairings, strict=True)):
            place = self._place(index)
            pairs = [
                (first, paired.tensors[first])
                for first in facts.iterate_constants(self.a, a)
                if first in paired.tensors
            ]
            pairs += paired.copies_a.items()
            pairs += [(first, second) for second, first in paired.copies_b.items()]
            compared += len(pairs)
            same_copies = dict.fromkeys("AB", 0)
            for first, second in pairs:
                one, other = a.tensors[first], b.tensors[second]
                change = values.compare(
                    one, self.a.model.buffers[one.buffer], other, self.b.model.buffers[other.buffer]
                )
                if change is None or (
                    change.values and not change.differing and type_name(one) != type_name(other)
                ):
                    same_copies["A"] += first in paired.copies_a
                    same_copies["B"] += second in paired.copies_b
                    continue
                stored[type_name(one), type_name(other)] += 1
                found.append((change, _weight_item(one, other, change, place)))
            for side, some in same_copies.items():
                if some:
                    other_side = "B" if side == "A" else "A"
                    text = f"{count(some, 'constant')} of {side} that {other_side} shares"
                    alone.append(
                        Item(
                            f"{place}{text} between operators (the same values)",
                            {"what": "copies", "side": side, "tensors": some},
                        )
                    )
            for side, file, graph, known in (
                ("A", self.a, a, {*paired.tensors, *paired.copies_a}),
                ("B", self.b, b, {*paired.tensors.values(), *paired.copies_b}),
            ):
                for tensor in facts.iterate_constants(file, graph):
                    if tensor not in known:
                        alone.append(_alone(side, graph.tensors[tensor], place))
        found.sort(key=lambda pair: -pair[0].relative)
        if found or alone:
            self._weight_section(
                [change for change, _ in found],
                [item for _, item in found],
                alone,
                stored,
                compared,
            )

    def _weight_section(
        self,
        changes: list[values.ValueDifference],
        items: list[Item],
        alone: list[Item],
        stored: Counter[tuple[str, str]],
        compared: int,
    ) -> None:
        parts = []
        if changes:
            parts.append(f"{len(changes):,} of {count(compared, 'constant tensor')} differ")
            differing = sum(change.differing for change in changes)
            parts.append(f"{differing:,} of {sum(c.values for c in changes):,} values in them")
        for what, side in (("only in A", "A"), ("only in B", "B")):
            some = sum(item.data.get("only") == side for item in alone)
            if some:
                parts.append(f"{some} {what}")
        title = f"weights: {', '.join(parts)}"
        forms = [f"{a} -> {b} ({n})" for (a, b), n in stored.most_common() if a != b]
        if forms:
            title += f"\n  stored as {', '.join(forms)}; compared as the numbers they stand for"
        halves = [change.rounded for change in changes if change.rounded is not None]
        if halves:
            good = sum(halves)
            title += f"\n  float16 is float32 rounded to nearest in {good} of {len(halves)} tensors"
        steps = [change.steps for change in changes if change.steps is not None]
        if steps:
            title += (
                f"\n  quantised values are off by at most {max(steps):.3g} steps "
                f"(0.5: rounding and nothing else)"
            )
        self._add(
            "weights",
            title,
            [*items, *alone],
            differing_tensors=len(changes),
            compared_tensors=compared,
            differing_values=sum(change.differing for change in changes),
            largest_difference=max((c.largest for c in changes), default=0.0),
            largest_relative_difference=max((c.relative for c in changes), default=0.0),
            largest_steps=max(steps, default=None),
            rounded_tensors=sum(halves) if halves else None,
        )

    # --- quantisation and tensors ---------------------------------------------------------

    def _quantisation(self) -> Iterable[Item]:
        found: list[tuple[float, Item]] = []
        gained: Counter[tuple[str, str]] = Counter()
        for index, ((a, b), paired) in enumerate(zip(self.graphs, self.pairings, strict=True)):
            for first, second in paired.tensors.items():
                one, other = a.tensors[first], b.tensors[second]
                if one.quantization == other.quantization:
                    continue
                if one.quantization is None or other.quantization is None:
                    gained[
                        "B" if one.quantization is None else "A",
                        type_name(other if one.quantization is None else one),
                    ] += 1
                else:
                    found.append(_scale_item(one, other, self._place(index)))
        found.sort(key=lambda pair: -pair[0])
        yield from (item for _, item in found)
        for (side, kind), some in gained.most_common():
            yield Item(
                f"{count(some, 'tensor')} quantised only in {side} ({kind})",
                {"what": "quantised", "only": side, "type": kind, "tensors": some},
            )

    def _tensors(self) -> Iterable[Item]:
        types: dict[tuple[str, str], list[str]] = defaultdict(list)
        for index, ((a, b), paired) in enumerate(zip(self.graphs, self.pairings, strict=True)):
            place = self._place(index)
            for first, second in paired.tensors.items():
                one, other = a.tensors[first], b.tensors[second]
                if type_name(one) != type_name(other):
                    types[type_name(one), type_name(other)].append(one.name)
                shapes = wording.shape(one), wording.shape(other)
                if shapes[0] != shapes[1]:
                    yield Item(
                        f"{place}{shown(one.name)}: shape {shapes[0]} -> {shapes[1]}",
                        {"what": "shape", "tensor": one.name, "a": shapes[0], "b": shapes[1]},
                    )
        for (one_type, other_type), names in types.items():
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            yield Item(
                f"type {one_type} -> {other_type}: {shown(names[0])}{more}",
                {"what": "type", "a": one_type, "b": other_type, "tensors": names},
            )
        for index, ((a, b), paired) in enumerate(zip(self.graphs, self.pairings, strict=True)):
            place = self._place(index)
            for first in sorted(paired.renamed):
                second = paired.tensors[first]
                names = [a.tensors[first].name, b.tensors[second].name]
                before, after = wording.shown_apart(*names)
                yield Item(
                    f"{place}renamed: {before} -> {after}",
                    {"what": "renamed", "a": names[0], "b": names[1]},
                )
            for side, file, graph, alone in (
                ("A", self.a, a, paired.only_a),
                ("B", self.b, b, paired.only_b),
            ):
                yield from _unpaired(side, file, graph, alone, place)

    # --- what surrounds the graph ---------------------------------------------------------

    def _metadata(self) -> None:
        items: list[Item] = []
        a, b = self.a, self.b
        for name in ("version", "description"):
            one, other = getattr(a.model, name), getattr(b.model, name)
            if one != other:
                items.append(_changed(f"file {name}", one, other))
        sides = [dataclasses.asdict(file.metadata) if file.metadata else None for file in (a, b)]
        if sides[0] is None or sides[1] is None:
            if sides[0] is not sides[1]:
                side = "B" if sides[0] is None else "A"
                items.append(Item(f"metadata only in {side}", {"what": "metadata", "only": side}))
        else:
            items += _fields(_flat(sides[0]), _flat(sides[1]))
        parsed = len(items)
        names = dict.fromkeys([*a.model.metadata, *b.model.metadata])
        for name in names:
            entries = a.model.metadata.get(name), b.model.metadata.get(name)
            one_raw, other_raw = (None if e is None else bytes(e) for e in entries)
            if one_raw == other_raw:
                continue
            if name == _METADATA and None in (sides[0], sides[1]) and None in entries:
                continue  # said above
            if name == _METADATA and parsed:
                continue
            items.append(_entry_item(name, one_raw, other_raw))
        self._add("metadata", f"metadata: {count(len(items), 'difference')}", items)

    def _labels(self) -> None:
        one, other = self.a.labels, self.b.labels
        if one is None or other is None:
            if one is not other:
                side, found = ("B", other) if one is None else ("A", one)
                assert found is not None
                text = f"{count(len(found[1]), 'label')} only in {side} ({shown(found[0])})"
                self._add("labels", "labels", [Item(text, {"what": "labels", "only": side})])
            return
        items = []
        if len(one[1]) != len(other[1]):
            items.append(_changed("number of lines", len(one[1]), len(other[1])))
        longest = max(len(one[1]), len(other[1]))
        for line in range(longest):
            first = one[1][line] if line < len(one[1]) else None
            second = other[1][line] if line < len(other[1]) else None
            if first != second:
                items.append(_changed(f"line {line + 1}", first, second))
        lines = sum(item.data["what"].startswith("line") for item in items)
        self._add("labels", f"labels: {count(lines, 'line')} of {longest} differ", items)

    def _packed(self) -> None:
        sides = [{item.name: item for item in file.packing.files} for file in (self.a, self.b)]
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
                    items.append(_changed(f"{shown(name)}: {what}", first, second, name=name))
            if one.content != other.content and one.crc == other.crc and not one.problem:
                items.append(_changed(f"{shown(name)}: content", "", "other bytes", name=name))
        if list(sides[0]) != list(sides[1]) and set(sides[0]) == set(sides[1]):
            items.append(_changed("order", list(sides[0]), list(sides[1])))
        self._add("packed", "packed files", items)

    def _other(self) -> Iterable[Item]:
        for path, one, other in first_differences(self.a, self.b):
            yield _changed(path, one, other)
        unknown = sorted(self.a.tree.unknown | self.b.tree.unknown)
        if unknown:
            yield Item(
                f"fields that kiln's schema does not know: {', '.join(unknown)}",
                {"what": "unknown fields", "fields": unknown},
            )

    def _bytes(self) -> Iterable[Item]:
        a, b = self.a, self.b
        if len(a.data) != len(b.data):
            yield _changed("size", len(a.data), len(b.data))
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
        yield Item(
            text, {"what": "bytes", "first": where, "part": part, "same_flatbuffer": same_flat}
        )

    # --- verdict --------------------------------------------------------------------------

    def _verdict(self, unchanged: bool) -> str:
        around = self._around()
        if unchanged:
            if around:
                plural = len(around) > 1 or around[0].startswith(("the labels", "the packed files"))
                verb = "differ" if plural else "differs"
                return f"same graph and weights; only {_join(around)} {verb}"
            if self.sections["bytes"].items[-1].data["same_flatbuffer"]:
                return "same graph, weights and packed files; only the archive's own headers differ"
            packed = self.a.packing.start < len(self.a.data)
            behind = " and the same packed files" if packed else ""
            return (
                f"the same model{behind}, serialised differently: only the order, padding or "
                "sharing of parts of the file differs"
            )
        also = f"; {_join(around)} too" if around else ""
        if not any(name in self.sections for name in _GRAPH):
            parts = []
            if "weights" in self.sections:
                parts.append(f"different weights: {self._weight_words()}")
            if "quantisation" in self.sections:
                some = len(self.sections["quantisation"].items)
                parts.append(f"other quantisation of {count(some, 'tensor')}")
            return f"same graph; {'; '.join(parts)}{also}"
        common = min((paired.common for paired in self.pairings), default=0.0)
        kinds = [self._kind(index) for index in (0, 1)]
        if common == 1 and len(self.a.graphs) == len(self.b.graphs):
            if kinds[0] != kinds[1]:
                verdict = f"same network in another precision: {kinds[0]} -> {kinds[1]}"
                if "weights" in self.sections:
                    verdict += f"; weights differ in {self._weight_words()}"
                return verdict + also
            parts = [_TITLES[name] for name in _GRAPH if name in self.sections]
            if parts == [_TITLES["other"]]:
                field = self.sections["other"].items[0].text
                return f"same operators, tensors and weights; other fields differ: {field}{also}"
            verdict = f"same sequence of operators; {_join(parts)} differ"
            if "weights" in self.sections:
                verdict += f"; different weights: {self._weight_words()}"
            return verdict + also
        totals = [
            sum(op.name not in facts.CONVERTERS for graph in file.graphs for op in graph.operators)
            for file in (self.a, self.b)
        ]
        verdict = (
            f"different graphs: {totals[0]} operators -> {totals[1]}, "
            f"{100 * common:.0f} % of them in common"
        )
        if "weights" in self.sections and self.sections["weights"].summary["differing_tensors"]:
            verdict += f"; different weights: {self._weight_words()}"
        return verdict + also

    def _kind(self, side: int) -> str:
        kind = self.precisions[side].kind
        types = "int8 " if kind in ("full integer", "integer with float islands") else ""
        return kind if not types else self.precisions[side].words.split(" with ")[0]

    def _weight_words(self) -> str:
        section = self.sections["weights"]
        some, compared = section.summary["differing_tensors"], section.summary["compared_tensors"]
        if not some:
            return f"{len(section.items)} constant tensors without a counterpart"
        largest = max(
            (item for item in section.items if "largest" in item.data),
            key=lambda item: (item.data["values"] == 0, item.data["relative"]),
        )
        data = largest.data
        where = shown(data["tensor"], 60)
        if not data["values"]:
            return f"{some} of {count(compared, 'constant tensor')}, among them {where}"
        place = str(data["index"]) if data["index"] else ""
        top = section.summary["largest_difference"]
        word = "largest" if data["largest"] == top else "relatively largest"
        return (
            f"{some} of {count(compared, 'constant tensor')}, {word} difference "
            f"{data['largest']:.3g} ({_percent(data['relative'])} of its tensor's largest value) "
            f"at {where}{place}"
        )

    def _around(self) -> list[str]:
        found = []
        for name in ("metadata", "labels"):
            if name in self.sections:
                sides = {item.data.get("only") for item in self.sections[name].items}
                side = sides.pop() if len(sides) == 1 else None
                found.append(f"the {name} (only in {side})" if side else f"the {name}")
        if "packed" in self.sections and "labels" not in self.sections:
            items = self.sections["packed"].items
            if all(item.data["what"].endswith(": date") for item in items):
                one = len(items) == 1
                found.append(
                    f"the packed file's time stamp ({shown(items[0].data['name'])})"
                    if one
                    else "the packed files' time stamps"
                )
            else:
                found.append("the packed files")
        return found


_TITLES = {
    "operators": "the operators' details",
    "tensors": "the tensors",
    "interface": "the inputs and outputs",
    "signatures": "the signatures",
    "postprocess": "the post-processing options",
    "other": "other fields",
}


# --- operators ----------------------------------------------------------------------------


def _sequence(a: Graph, b: Graph, paired: pairing.Pairing, place: str) -> Iterable[Item]:
    if paired.edits:
        kinds = [Counter(op.name for op in graph.operators) for graph in (a, b)]
        changed = [
            name
            for name in sorted({*kinds[0], *kinds[1]} - set(facts.CONVERTERS))
            if kinds[0][name] != kinds[1][name]
        ]
        changed.sort(key=lambda name: -abs(kinds[0][name] - kinds[1][name]))
        for name in changed:
            yield Item(
                f"{place}{shown(name)}: {kinds[0][name]} -> {kinds[1][name]}",
                {"what": "count", "operator": name, "a": kinds[0][name], "b": kinds[1][name]},
            )
    for edit in paired.edits:
        names = [
            [graph.operators[i].name for i in side] for graph, side in ((a, edit.a), (b, edit.b))
        ]
        sides = [
            f"{_run(name)} (from operator {side[0]})" if side else "nothing"
            for name, side in zip(names, (edit.a, edit.b), strict=True)
        ]
        yield Item(
            f"{place}{sides[0]} -> {sides[1]}",
            {"what": "sequence", "a": list(edit.a), "b": list(edit.b), "names": names},
        )
    for name in facts.CONVERTERS:
        counts = [sum(op.name == name for op in graph.operators) for graph in (a, b)]
        if counts[0] != counts[1]:
            yield Item(
                f"{place}{name}: {counts[0]} -> {counts[1]}",
                {"what": "converters", "operator": name, "a": counts[0], "b": counts[1]},
            )


def _versions(a: Graph, b: Graph, paired: pairing.Pairing, place: str) -> Iterable[Item]:
    found: Counter[tuple[str, int, int]] = Counter()
    for i, j in paired.operators:
        one, other = a.operators[i], b.operators[j]
        if one.version != other.version:
            found[one.name, one.version, other.version] += 1
    for (name, first, second), some in found.most_common():
        yield Item(
            f"{place}{shown(name)}: version {first} -> {second} ({count(some, 'operator')})",
            {"what": "version", "operator": name, "a": first, "b": second, "operators": some},
        )


def _options(a: Graph, b: Graph, paired: pairing.Pairing, place: str) -> Iterable[Item]:
    found: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    for i, j in paired.operators:
        one, other = a.operators[i], b.operators[j]
        if one.name == POSTPROCESS:
            continue  # a section of its own
        first, second = one.settings(), other.settings()
        for option in dict.fromkeys([*first, *second]):
            values_ = wording.plain(first.get(option)), wording.plain(second.get(option))
            if values_[0] != values_[1]:
                found[one.name, option, str(values_[0]), str(values_[1])].append(i)
    for (name, option, before, after), places in sorted(
        found.items(), key=lambda pair: -len(pair[1])
    ):
        where = f"operator {places[0]}" + (f" and {len(places) - 1} more" if places[1:] else "")
        yield Item(
            f"{place}{shown(name)}: {shown(option)} {shown(before)} -> {shown(after)} ({where})",
            {
                "what": "option",
                "operator": name,
                "option": option,
                "a": before,
                "b": after,
                "operators": places,
            },
        )


def _wiring(a: Graph, b: Graph, paired: pairing.Pairing, place: str) -> Iterable[Item]:
    makers_a, makers_b = facts.producers(a), facts.producers(b)
    swapped: Counter[str] = Counter()
    for i, j in paired.operators:
        one, other = a.operators[i], b.operators[j]
        data = {"what": "reads", "operator": one.name, "a_operator": i, "b_operator": j}
        if len(one.inputs) != len(other.inputs):
            yield Item(
                f"{place}operator {i} {shown(one.name)}: {len(one.inputs)} inputs -> "
                f"{len(other.inputs)}",
                {**data, "a": len(one.inputs), "b": len(other.inputs)},
            )
            continue
        here = [pairing.source(a, makers_a, tensor) for tensor in one.inputs]
        there = [pairing.source(b, makers_b, tensor) for tensor in other.inputs]
        partners = [paired.tensors.get(tensor) for tensor in here]
        if one.name in pairing.COMMUTATIVE and partners != there and partners[::-1] == there:
            swapped[one.name] += 1
            continue
        for first, partner, second in zip(here, partners, there, strict=True):
            if first in paired.copies_a or second in paired.copies_b:
                continue  # among the weights
            if partner is not None and second >= 0 and partner != second:
                names = a.tensors[first].name, b.tensors[second].name
                before, after = wording.shown_apart(*names)
                yield Item(
                    f"{place}operator {i} {shown(one.name)} reads {before} -> {after}",
                    {**data, "a": names[0], "b": names[1]},
                )
    for name, some in swapped.most_common():
        yield Item(
            f"{place}{shown(name)}: the two inputs in the other order ({count(some, 'operator')}; "
            "the result is the same)",
            {"what": "input order", "operator": name, "operators": some},
        )


def _run(names: list[str]) -> str:
    """A sequence of operators, runs of the same one shortened."""
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    words = [shown(name) if some == 1 else f"{some} x {shown(name)}" for name, some in runs]
    return ", ".join(words[:6]) + (f" ... ({len(names)} operators)" if len(words) > 6 else "")


# --- tensors ------------------------------------------------------------------------------


def _weight_item(one: Any, other: Any, change: values.ValueDifference, place: str) -> Item:
    data: dict[str, Any] = {
        "what": "values",
        "tensor": one.name,
        "type_a": type_name(one),
        "type_b": type_name(other),
        **dataclasses.asdict(change),
        "index": list(change.index),
    }
    name = place + shown(one.name, 56)
    if one.name != other.name:
        name += f" -> {shown(other.name, 56)}"
    if not change.values:
        return Item(f"{name}: other content (not comparable as numbers)", data)
    if not change.differing:
        return Item(f"{name}: other bytes for the same numbers", data)
    where = str(list(change.index)) if change.index else ""
    before, after = wording.apart(change.a, change.b)
    amount = f"{change.differing:,} of {change.values:,}"
    off, share = f"{change.largest:.3g}", _percent(change.relative)
    text = f"{name}{where}: {before} -> {after}, off by {off} ({share}); {amount} values differ"
    return Item(text, data, (place + shown(one.name, 56), where, before, after, off, share, amount))


_WEIGHT_HEAD = ("tensor", "worst at", "A", "B", "off by", "of largest", "values that differ")


def _percent(relative: float) -> str:
    """A difference as a share of the largest value in its tensor."""
    percent = 100 * relative
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _alone(side: str, tensor: Any, place: str) -> Item:
    return Item(
        f"{place}only in {side}: {shown(tensor.name)} ({type_name(tensor)} "
        f"{wording.shape(tensor)})",
        {"what": "constant", "only": side, "tensor": tensor.name},
    )


def _scale_item(one: Any, other: Any, place: str) -> tuple[float, Item]:
    scales = one.quantization.scale, other.quantization.scale
    zeros = one.quantization.zero_point, other.quantization.zero_point
    data: dict[str, Any] = {"what": "quantisation", "tensor": one.name}
    name = place + shown(one.name)
    if len(scales[0]) != len(scales[1]) or one.quantization.axis != other.quantization.axis:
        kinds = [
            f"{count(len(q.scale), 'scale')}" + (f" on axis {q.axis}" if len(q.scale) > 1 else "")
            for q in (one.quantization, other.quantization)
        ]
        data |= {"a": kinds[0], "b": kinds[1]}
        return float("inf"), Item(f"{name}: {kinds[0]} -> {kinds[1]}", data)
    gaps = [
        abs(a - b) / max(abs(a), abs(b)) if a != b and max(abs(a), abs(b)) > 0 else 0.0
        for a, b in zip(*scales, strict=True)
    ]
    worst = max(range(len(gaps)), key=gaps.__getitem__)
    parts = []
    if gaps[worst]:
        channel = f" of channel {worst}" if len(gaps) > 1 else ""
        parts.append(
            f"scale{channel} {number(scales[0][worst])} -> {number(scales[1][worst])} "
            f"({100 * gaps[worst]:.3g} %)"
        )
    if zeros[0] != zeros[1]:
        parts.append(f"zero point {wording.numbers(zeros[0])} -> {wording.numbers(zeros[1])}")
    data |= {
        "relative": gaps[worst],
        "channel": worst,
        "scale": [scales[0][worst], scales[1][worst]],
        "zero_point": [list(zeros[0]), list(zeros[1])],
    }
    return gaps[worst], Item(f"{name}: {', '.join(parts) or 'NaN'}", data)


def _unpaired(
    side: str, file: TfliteFile, graph: Graph, alone: tuple[int, ...], place: str
) -> Iterable[Item]:
    makers = facts.producers(graph)
    between = 0
    for index in alone:
        tensor = graph.tensors[index]
        if facts.is_constant(file.model, tensor):
            continue  # among the weights
        maker = makers.get(index)
        if maker is not None and graph.operators[maker].name in facts.CONVERTERS:
            between += 1
            continue
        yield Item(
            f"{place}only in {side}: {shown(tensor.name)} ({type_name(tensor)} "
            f"{wording.shape(tensor)})",
            {"what": "tensor", "only": side, "tensor": tensor.name},
        )
    if between:
        yield Item(
            f"{place}only in {side}: {count(between, 'tensor')} made by QUANTIZE or DEQUANTIZE",
            {"what": "converted tensors", "only": side, "tensors": between},
        )


# --- the rest -----------------------------------------------------------------------------


def _ends(file: TfliteFile, kind: str) -> list[dict[str, Any]]:
    graph = file.graphs[0]
    roles = facts.graph_roles(file) if kind == "outputs" else {}
    return [
        {
            "position": position,
            "tensor": index,
            "name": graph.tensors[index].name if index >= 0 else "",
            "role": roles.get(position, ""),
            "type": type_name(graph.tensors[index]) if index >= 0 else "",
            "shape": wording.shape(graph.tensors[index]) if index >= 0 else "",
        }
        for position, index in enumerate(getattr(graph, kind))
    ]


def _called(end: dict[str, Any]) -> str:
    return end["role"] or shown(end["name"], 40)


def _end_items(kind: str, one: dict[str, Any], other: dict[str, Any]) -> Iterable[Item]:
    for what in ("name", "role", "type", "shape"):
        if one[what] != other[what]:
            yield _changed(f"{kind} {one['position']} {what}", one[what], other[what])


def _signature_maps(file: TfliteFile) -> dict[str, dict[str, Any]]:
    return {
        item.key: {"graph": item.subgraph, "inputs": item.inputs, "outputs": item.outputs}
        for item in file.model.signatures
    }


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested values as one dict, keys like ``outputs[0].box.type``."""
    if isinstance(value, dict):
        items = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {path: value}
    return {key: leaf for name, item in items for key, leaf in _flat(item, name).items()}


def _fields(one: dict[str, Any], other: dict[str, Any]) -> list[Item]:
    return [
        _changed(name, one.get(name), other.get(name))
        for name in dict.fromkeys([*one, *other])
        if wording.plain(one.get(name)) != wording.plain(other.get(name))
    ]


def _changed(what: str, one: Any, other: Any, **more: Any) -> Item:
    return Item(
        f"{shown(what)}: {_value(one)} -> {_value(other)}",
        {"what": what, "a": one, "b": other, **more},
    )


def _value(value: Any) -> str:
    if value is None or value in ("", (), []):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, (list, tuple)):
        return shown(", ".join(_value(item) for item in value))
    return shown(repr(value) if isinstance(value, str) else str(wording.plain(value)))


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


def _list(names: list[str]) -> str:
    return ", ".join(shown(name, 40) for name in names) or "none"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _first_difference(a: bytes, b: bytes) -> int:
    """The first position where two different byte strings differ."""
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
    """How many bytes of two equally long strings differ."""
    step, found = 1 << 16, 0
    for start in range(0, len(a), step):
        one, other = a[start : start + step], b[start : start + step]
        if one != other:
            mixed = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
            found += len(one) - mixed.to_bytes(len(one), "little").count(0)
    return found
