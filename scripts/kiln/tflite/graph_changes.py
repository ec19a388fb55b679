"""Compare the graphs of two files: operators, inputs and outputs, signatures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from kiln.tflite import facts, pairing, wording
from kiln.tflite.pairing import Both
from kiln.tflite.reading import POSTPROCESS, Graph, TfliteFile, type_name
from kiln.tflite.report import Item, changed, fields, names_text
from kiln.tflite.wording import count, shown


def operators(both: Both) -> Iterable[Item]:
    """Yield operators that differ in sequence, version, options or inputs."""
    if len(both.a.graphs) != len(both.b.graphs):
        numbers = len(both.a.graphs), len(both.b.graphs)
        yield Item(
            f"{count(numbers[0], 'graph')} -> {numbers[1]}",
            {"what": "graphs", "a": numbers[0], "b": numbers[1]},
        )
    for index, ((a, b), paired) in enumerate(zip(both.graphs, both.pairings, strict=True)):
        place = both.place(index)
        yield from _sequence(a, b, paired, place)
        yield from _versions(a, b, paired, place)
        yield from _options(a, b, paired, place)
        yield from _wiring(a, b, paired, place)


def interface(both: Both) -> Iterable[Item]:
    """Yield inputs and outputs that differ, or are in another order."""
    for kind in ("inputs", "outputs"):
        ends = [_ends(file, kind) for file in (both.a, both.b)]
        partners = both.pairings[0].tensors
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


def signatures(both: Both) -> Iterable[Item]:
    """Yield signatures that differ in name, inputs, outputs, or the tensors they name."""
    sides = [_signature_maps(file) for file in (both.a, both.b)]
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        one, other = sides[0].get(key), sides[1].get(key)
        if one is None or other is None:
            yield Item(
                f"signature {shown(key)!r} only in {'B' if one is None else 'A'}",
                {"what": "signature", "key": key, "only": "B" if one is None else "A"},
            )
            continue
        for kind in ("inputs", "outputs"):
            yield from _signature(both, key, kind, one, other)


def _signature(
    both: Both, key: str, kind: str, one: dict[str, Any], other: dict[str, Any]
) -> Iterable[Item]:
    names = list(one[kind]), list(other[kind])
    data = {"what": f"signature {kind}", "key": key}
    if sorted(names[0]) != sorted(names[1]):
        yield Item(
            f"{shown(key)}: {kind} {names_text(names[0])} -> {names_text(names[1])}",
            {**data, "a": names[0], "b": names[1]},
        )
        return
    if names[0] != names[1]:
        yield Item(
            f"{shown(key)}: {kind} listed in another order: "
            f"{names_text(names[0])} -> {names_text(names[1])}",
            {**data, "a": names[0], "b": names[1]},
        )
    if one["graph"] != other["graph"] or one["graph"] >= len(both.graphs):
        return
    graphs, paired = both.graphs[one["graph"]], both.pairings[one["graph"]]
    for name in names[0]:
        first, second = one[kind][name], other[kind][name]
        partner = paired.tensors.get(first)
        if partner is not None and partner != second:
            tensors = graphs[0].tensors[first].name, graphs[1].tensors[second].name
            yield Item(
                f"{shown(key)}: {shown(name)} is {shown(tensors[0])} -> {shown(tensors[1])}",
                {**data, "name": name, "a": tensors[0], "b": tensors[1]},
            )


def postprocess(both: Both) -> list[Item]:
    """List the options of ``TFLite_Detection_PostProcess`` that differ."""
    one, other = facts.postprocessing(both.a), facts.postprocessing(both.b)
    if one is None or other is None:
        return []  # a missing operator is reported by operators()
    return fields(one, other)


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
            continue  # reported by postprocess()
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
                continue  # reported with the weights
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
    """Describe a sequence of operators, with runs of the same one shortened."""
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    words = [shown(name) if some == 1 else f"{some} x {shown(name)}" for name, some in runs]
    return ", ".join(words[:6]) + (f" ... ({len(names)} operators)" if len(words) > 6 else "")


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
            yield changed(f"{kind} {one['position']} {what}", one[what], other[what])


def _signature_maps(file: TfliteFile) -> dict[str, dict[str, Any]]:
    return {
        item.key: {"graph": item.subgraph, "inputs": item.inputs, "outputs": item.outputs}
        for item in file.model.signatures
    }
