"""Sum up a comparison in one sentence."""

from __future__ import annotations

from kiln.tflite import facts
from kiln.tflite.pairing import Both
from kiln.tflite.reading import TfliteFile
from kiln.tflite.report import Section
from kiln.tflite.tensor_changes import percent
from kiln.tflite.wording import count, shown

GRAPH_SECTIONS = ("operators", "tensors", "interface", "signatures", "postprocess", "other")
"""Sections whose presence means that the graph differs."""

_TITLES = {
    "operators": "the operators' details",
    "tensors": "the tensors",
    "interface": "the inputs and outputs",
    "signatures": "the signatures",
    "postprocess": "the post-processing options",
    "other": "other fields",
}


_AROUND = {"feeding": "how to feed it", "metadata": "the metadata", "labels": "the labels"}


def verdict(both: Both, sections: dict[str, Section], unchanged: bool) -> str:
    """Sum up the whole comparison in one sentence.

    Args:
        both: the two files, whose bytes differ.
        sections: what differs, by name.
        unchanged: whether graphs and weights are the same.
    """
    around = _around(sections)
    if unchanged:
        if around:
            plural = len(around) > 1 or around[0].startswith(("the labels", "the packed files"))
            verb = "differ" if plural else "differs"
            return f"same graph and weights; only {_join(around)} {verb}"
        if sections["bytes"].items[-1].data["same_flatbuffer"]:
            return "same graph, weights and packed files; only the archive's own headers differ"
        packed = both.a.packing.start < len(both.a.data)
        behind = " and the same packed files" if packed else ""
        return (
            f"the same model{behind}, serialised differently: only the order, padding or "
            "sharing of parts of the file differs"
        )
    also = f"; {_join(around)} too" if around else ""
    differing = "weights" in sections and sections["weights"].summary["differing_tensors"]
    if not any(name in sections for name in GRAPH_SECTIONS):
        parts = []
        if differing:
            parts.append(f"different weights: {_weight_words(sections)}")
        elif "weights" in sections:
            parts.append("other constants, or shared differently; no common value differs")
        if "quantisation" in sections:
            some = len(sections["quantisation"].items)
            parts.append(f"other quantisation of {count(some, 'tensor')}")
        return f"same graph; {'; '.join(parts)}{also}"
    common = min((paired.common for paired in both.pairings), default=0.0)
    kinds = [_kind(file) for file in (both.a, both.b)]
    if common == 1 and len(both.a.graphs) == len(both.b.graphs):
        if kinds[0] != kinds[1]:
            text = f"same network in another precision: {kinds[0]} -> {kinds[1]}"
            if differing:
                text += f"; weights differ in {_weight_words(sections)}"
            return text + also
        if shapes := _only_shapes(sections):
            return f"same operators and weights; other shapes of {count(shapes, 'tensor')}{also}"
        parts = [_TITLES[name] for name in GRAPH_SECTIONS if name in sections]
        if parts == [_TITLES["other"]]:
            field = sections["other"].items[0].text
            return f"same operators, tensors and weights; other fields differ: {field}{also}"
        text = f"same sequence of operators; {_join(parts)} differ"
        if differing:
            text += f"; different weights: {_weight_words(sections)}"
        return text + also
    totals = [
        sum(op.name not in facts.CONVERTERS for graph in file.graphs for op in graph.operators)
        for file in (both.a, both.b)
    ]
    text = (
        f"different graphs: {totals[0]} operators -> {totals[1]}, "
        f"{100 * common:.0f} % of them in common"
    )
    if differing:
        text += f"; different weights: {_weight_words(sections)}"
    return text + also


def _only_shapes(sections: dict[str, Section]) -> int:
    """Return of how many tensors the shapes differ, if nothing else of the graph does; else 0."""
    if set(sections) & {*GRAPH_SECTIONS, "weights", "quantisation"} - {"tensors", "interface"}:
        return 0
    items = [
        item
        for name in ("tensors", "interface")
        if name in sections
        for item in sections[name].items
    ]
    whats = [item.data["what"] for item in items]
    return whats.count("shape") if all(what.endswith("shape") for what in whats) else 0


def _kind(file: TfliteFile) -> str:
    found = facts.precision(file)
    integer = found.kind in ("full integer", "integer with float islands")
    return found.words.split(" with ")[0] if integer else found.kind


def _weight_words(sections: dict[str, Section]) -> str:
    weights = sections["weights"]
    some, compared = weights.summary["differing_tensors"], weights.summary["compared_tensors"]
    largest = max(
        (item for item in weights.items if "largest" in item.data),
        key=lambda item: (item.data["values"] == 0, item.data["relative"]),
    )
    data = largest.data
    where = shown(data["tensor"], 60)
    if not data["values"]:
        return f"{some} of {count(compared, 'constant tensor')}, among them {where}"
    place = str(data["index"]) if data["index"] else ""
    top = weights.summary["largest_difference"]
    word = "largest" if data["largest"] == top else "relatively largest"
    return (
        f"{some} of {count(compared, 'constant tensor')}, {word} difference "
        f"{data['largest']:.3g} ({percent(data['relative'])} of its tensor's largest value) "
        f"at {where}{place}"
    )


def _around(sections: dict[str, Section]) -> list[str]:
    found = []
    for name, words in _AROUND.items():
        if name in sections:
            sides = {item.data.get("only") for item in sections[name].items}
            side = sides.pop() if len(sides) == 1 else None
            found.append(f"{words} (only in {side})" if side else words)
    if "packed" in sections and "labels" not in sections:
        items = sections["packed"].items
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


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
