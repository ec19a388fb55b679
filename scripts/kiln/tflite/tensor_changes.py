"""Compare the tensors of two files: weights, quantisation, names, types and shapes."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from kiln.tflite import facts, values, wording
from kiln.tflite.pairing import Both
from kiln.tflite.reading import Graph, TfliteFile, type_name
from kiln.tflite.report import Item, Section, section
from kiln.tflite.wording import count, number, shown

_WEIGHT_HEAD = ("tensor", "worst at", "A", "B", "off by", "of largest", "values that differ")


def weights(both: Both) -> Section | None:
    """Compare the values of constant tensors, the worst first, and list those without a partner."""
    found: list[tuple[values.ValueDifference, Item]] = []
    compared = 0
    stored: Counter[tuple[str, str]] = Counter()
    alone: list[Item] = []
    for index, ((a, b), paired) in enumerate(zip(both.graphs, both.pairings, strict=True)):
        place = both.place(index)
        pairs = [
            (first, paired.tensors[first])
            for first in facts.iterate_constants(both.a, a)
            if first in paired.tensors
        ]
        pairs += paired.copies_a.items()
        pairs += [(first, second) for second, first in paired.copies_b.items()]
        compared += len(pairs)
        same_copies = dict.fromkeys("AB", 0)
        for first, second in pairs:
            one, other = a.tensors[first], b.tensors[second]
            change = values.compare(
                one, both.a.model.buffers[one.buffer], other, both.b.model.buffers[other.buffer]
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
            ("A", both.a, a, {*paired.tensors, *paired.copies_a}),
            ("B", both.b, b, {*paired.tensors.values(), *paired.copies_b}),
        ):
            for tensor in facts.iterate_constants(file, graph):
                if tensor not in known:
                    alone.append(_alone(side, graph.tensors[tensor], place))
    found.sort(key=lambda pair: -pair[0].relative)
    if found or alone:
        return _weight_section(
            [change for change, _ in found],
            [item for _, item in found],
            alone,
            stored,
            compared,
        )
    return None


def _weight_section(
    changes: list[values.ValueDifference],
    items: list[Item],
    alone: list[Item],
    stored: Counter[tuple[str, str]],
    compared: int,
) -> Section | None:
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
    return section(
        "weights",
        title,
        [*items, *alone],
        _WEIGHT_HEAD,
        differing_tensors=len(changes),
        compared_tensors=compared,
        differing_values=sum(change.differing for change in changes),
        largest_difference=max((c.largest for c in changes), default=0.0),
        largest_relative_difference=max((c.relative for c in changes), default=0.0),
        largest_steps=max(steps, default=None),
        rounded_tensors=sum(halves) if halves else None,
    )


def quantisation(both: Both) -> Iterable[Item]:
    """Yield scales and zero points that differ, the largest relative difference first."""
    found: list[tuple[float, Item]] = []
    gained: Counter[tuple[str, str]] = Counter()
    for index, ((a, b), paired) in enumerate(zip(both.graphs, both.pairings, strict=True)):
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
                found.append(_scale_item(one, other, both.place(index)))
    found.sort(key=lambda pair: -pair[0])
    yield from (item for _, item in found)
    for (side, kind), some in gained.most_common():
        yield Item(
            f"{count(some, 'tensor')} quantised only in {side} ({kind})",
            {"what": "quantised", "only": side, "type": kind, "tensors": some},
        )


def tensors(both: Both) -> Iterable[Item]:
    """Yield shapes, types and names that differ, and tensors without a partner."""
    types: dict[tuple[str, str], list[str]] = defaultdict(list)
    for index, ((a, b), paired) in enumerate(zip(both.graphs, both.pairings, strict=True)):
        place = both.place(index)
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
    for index, ((a, b), paired) in enumerate(zip(both.graphs, both.pairings, strict=True)):
        place = both.place(index)
        for first in sorted(paired.renamed):
            second = paired.tensors[first]
            names = [a.tensors[first].name, b.tensors[second].name]
            before, after = wording.shown_apart(*names)
            yield Item(
                f"{place}renamed: {before} -> {after}",
                {"what": "renamed", "a": names[0], "b": names[1]},
            )
        for side, file, graph, alone in (
            ("A", both.a, a, paired.only_a),
            ("B", both.b, b, paired.only_b),
        ):
            yield from _unpaired(side, file, graph, alone, place)


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
    off, share = f"{change.largest:.3g}", percent(change.relative)
    text = f"{name}{where}: {before} -> {after}, off by {off} ({share}); {amount} values differ"
    return Item(text, data, (place + shown(one.name, 56), where, before, after, off, share, amount))


def percent(relative: float) -> str:
    """Express a difference as a share of the largest value in its tensor."""
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
            continue  # reported with the weights
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
