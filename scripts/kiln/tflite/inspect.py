"""Describe the contents of a ``.tflite`` file (``kiln inspect``)."""

from __future__ import annotations

import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.core.output import table
from kiln.project.stagecode import stage_module
from kiln.tflite import facts, wording
from kiln.tflite.feeding import FEEDING_FILE, UNSTATED
from kiln.tflite.known_kinds import description
from kiln.tflite.reading import POSTPROCESS, TfliteFile, load, text_of, type_name
from kiln.tflite.wording import count, number, numbers, shown

_RUNTIME, _CONVERSION = "min_runtime_version", "CONVERSION_METADATA"
_FIRST_LABELS = 5
_TEXTS = ("name", "description", "version", "author", "license", "min_parser_version", "proof")
_LONG_TEXT = 600
_SENTENCE = 70  # characters in a line of a sentence in the head


@dataclass(frozen=True)
class Inspection:
    """Everything that ``kiln inspect`` reports about one file."""

    file: TfliteFile
    precision: facts.Precision
    weights: facts.Weights
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain values for strict JSON: no NaN, no bytes."""
        file = self.file
        labels = file.labels
        result: dict[str, Any] = wording.plain(
            {
                "file": file.name,
                "size": len(file.data),
                "sha256": file.sha256,
                "schema_version": file.model.version,
                "description": file.model.description,
                "what_it_is": description(file) or None,
                "min_runtime_version": _entry(file, _RUNTIME),
                "converter": _converter(file),
                "graphs": len(file.graphs),
                "signatures": [
                    {
                        "key": item.key,
                        "graph": item.subgraph,
                        "inputs": item.inputs,
                        "outputs": item.outputs,
                    }
                    for item in file.model.signatures
                ],
                "inputs": _tensors(file, "inputs"),
                "outputs": _tensors(file, "outputs"),
                "output_order": _output_order(file),
                "operators": _operators(file),
                "precision": {
                    "kind": self.precision.kind,
                    "words": self.precision.words,
                    "float_islands": self.precision.islands,
                },
                "weights": {
                    "tensors": self.weights.tensors,
                    "bytes": self.weights.bytes,
                    "by_type": [vars(item) for item in self.weights.by_type],
                    "by_operator": [vars(item) for item in self.weights.by_operator],
                },
                "bytes": _composition(file, self.weights.bytes),
                "postprocess": facts.postprocessing(file),
                "feeding": None if file.feeding is None else file.feeding.as_json(),
                "metadata": _metadata(file),
                "labels": None
                if labels is None
                else {
                    "file": labels[0],
                    "count": len(labels[1]),
                    "gaps": labels[1].count(facts.GAP),
                    "looks_like_pbtxt": facts.looks_like_pbtxt(labels[1]),
                    "lines": labels[1],
                },
                "packed_files": [
                    {
                        "name": item.name,
                        "size": item.size,
                        "date": item.date,
                        "crc32": item.crc,
                        "stored": item.stored,
                    }
                    for item in file.packing.files
                ],
                "warnings": self.warnings,
            }
        )
        return result

    def text(self) -> str:
        """Return the report for people."""
        file = self.file
        blocks = [_head(file, self.precision)]
        blocks.append(_tensor_table("inputs", _tensors(file, "inputs")))
        title = _ORDER_TITLES.get(_output_order(file) or "", "outputs")
        blocks.append(_tensor_table(title, _tensors(file, "outputs")))
        blocks += [_operator_table(file), _weight_tables(file, self.weights)]
        options = facts.postprocessing(file)
        if options is not None:
            items = [f"{shown(key)} {_option(value)}" for key, value in options.items()]
            blocks.append(f"{POSTPROCESS}\n" + _wrap(items))
        blocks += [_metadata_text(file), _label_text(file)]
        if file.packing.files:
            rows = [
                [
                    shown(item.name),
                    f"{item.size:,}",
                    item.date,
                    item.crc,
                    "" if item.stored else "compressed",
                ]
                for item in file.packing.files
            ]
            blocks.append(_block("packed files", ["name", "bytes", "date", "CRC-32", ""], rows))
        blocks += ["\n".join(f"warning: {shown(text, 400)}" for text in self.warnings)]
        return "\n\n".join(block for block in blocks if block)


def inspect(source: Path | bytes, name: str = "") -> Inspection:
    """Inspect a ``.tflite`` file.

    Args:
        source: where it is, or its bytes.
        name: what to call it; by default the path.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        UnsupportedModelError: it is not a TFLite model, or is truncated or damaged.
    """
    file = load(source, name)
    return Inspection(
        file, facts.precision(file), facts.weights(file), (*file.warnings, *_doubts(file))
    )


def _doubts(file: TfliteFile) -> list[str]:
    """List contradictions: parts that can be read, but cannot be right."""
    found = []
    graph, metadata = facts.graph_roles(file), facts.metadata_roles(file)
    for index in sorted(set(graph) & set(metadata)):
        if graph[index] != metadata[index]:
            found.append(
                f"output {index} is called the {metadata[index]} in the metadata, but the graph "
                f"makes it the {graph[index]}"
            )
    labels = file.labels
    if labels is not None and facts.looks_like_pbtxt(labels[1]):
        found.append(f"the label file {labels[0]} is a raw label map, not one name a line")
    elif labels is not None:
        classes = (facts.postprocessing(file) or {}).get("num_classes")
        if isinstance(classes, int) and classes != len(labels[1]):
            found.append(
                f"{count(len(labels[1]), 'label')} for {count(classes, 'class', 'classes')}"
            )
    if file.metadata is not None:
        for kind in ("inputs", "outputs"):
            said, real = len(getattr(file.metadata, kind)), len(getattr(file.graphs[0], kind))
            if said != real:
                found.append(f"the metadata describes {said} {kind}, the graph has {real}")
    return found


def _entry(file: TfliteFile, name: str) -> str | None:
    data = file.model.metadata.get(name)
    return None if data is None else text_of(data)


def _converter(file: TfliteFile) -> str | None:
    """Return the TensorFlow version that converted the model, from ``conversion_metadata.fbs``."""
    data = file.model.metadata.get(_CONVERSION)
    if data is None:
        return None
    flat = stage_module("tflite.flatbuffer")
    try:
        environment = flat.Table(data, flat.scalar(data, 0, "I")).table(0)
        return (environment.text(0) or None) if environment is not None else None
    except flat.FlatError:
        return None


def _tensors(file: TfliteFile, kind: str) -> list[dict[str, Any]]:
    graph = file.graphs[0]
    described = getattr(file.metadata, kind) if file.metadata else ()
    names = facts.signature_names(file)[kind == "outputs"]
    roles = {**facts.graph_roles(file), **facts.metadata_roles(file)} if kind == "outputs" else {}
    found = []
    for position, index in enumerate(getattr(graph, kind)):
        if index < 0:
            continue
        tensor = graph.tensors[index]
        said = described[position].name if position < len(described) else None
        found.append(
            {
                "position": position,
                "tensor": index,
                "name": tensor.name,
                "signature_name": names.get(index),
                "role": roles.get(position) or said or None,
                "shape": list(tensor.shape),
                "shape_signature": list(tensor.shape_signature),
                "type": type_name(tensor),
                "scale": list(tensor.quantization.scale) if tensor.quantization else [],
                "zero_point": list(tensor.quantization.zero_point) if tensor.quantization else [],
                "shown": wording.shape(tensor),
            }
        )
    return found


_TF1_ORDER = ["boxes", "classes", "scores", "count"]
_ORDER_TITLES = {"tf1": "outputs, in the order of TensorFlow 1's files"}


def _output_order(file: TfliteFile) -> str | None:
    """Return ``tf1`` or ``other``; ``None`` where the outputs are not those of a detector."""
    roles = {**facts.graph_roles(file), **facts.metadata_roles(file)}
    found = [roles.get(position) for position in range(len(file.graphs[0].outputs))]
    if sorted(filter(None, found)) != sorted(_TF1_ORDER) or len(found) != len(_TF1_ORDER):
        return None
    return "tf1" if found == _TF1_ORDER else "other"


def _operators(file: TfliteFile) -> list[dict[str, Any]]:
    counts = Counter((op.name, op.kind, op.version) for g in file.graphs for op in g.operators)
    order = sorted(counts, key=lambda item: (-counts[item], item))
    return [
        {"name": name, "kind": kind, "version": version, "count": counts[name, kind, version]}
        for name, kind, version in order
    ]


def _composition(file: TfliteFile, weights: int) -> dict[str, int]:
    metadata = sum(len(data) for data in file.model.metadata.values())
    packed = len(file.data) - file.packing.start
    graph = max(0, len(file.data) - weights - metadata - packed)
    return {"weights": weights, "graph": graph, "metadata": metadata, "packed": packed}


def _metadata(file: TfliteFile) -> dict[str, Any] | None:
    meta = file.metadata
    if meta is None:
        return None
    first = meta.inputs[0] if meta.inputs else None
    boxes = next((item.box for item in meta.outputs if item.box), None)
    thresholds = [item.score_threshold for item in meta.outputs if item.score_threshold is not None]
    return {
        "name": meta.name,
        "description": meta.description,
        "version": meta.version,
        "author": meta.author,
        "license": meta.license,
        "min_parser_version": meta.min_parser_version,
        "proof": facts.NO_PROOF if meta.description.endswith(facts.UNPROVED) else None,
        "normalization": {"mean": list(first.mean), "std": list(first.std)}
        if first is not None and first.mean
        else None,
        "color_space": first.color_space if first is not None else None,
        "box_format": {
            "type": boxes.type,
            "coordinates": boxes.coordinates,
            "index": list(boxes.index),
        }
        if boxes
        else None,
        "score_threshold": thresholds[0] if thresholds else None,
        "inputs": [item.name for item in meta.inputs],
        "outputs": [item.name for item in meta.outputs],
        "groups": {name: list(items) for name, items in meta.groups.items()},
    }


# --- text ---------------------------------------------------------------------------------


def _head(file: TfliteFile, precision: facts.Precision) -> str:
    rows = [
        ["size", count(len(file.data), "byte")],
        ["sha256", file.sha256],
        ["format", f"TFLite schema {file.model.version}"],
    ]
    if file.model.description:
        rows[-1][1] += f", described as {shown(file.model.description)!r}"
    runtime, converter = _entry(file, _RUNTIME), _converter(file)
    if runtime:
        rows.append(["needs", f"TensorFlow Lite {shown(runtime)} or later"])
    if converter:
        rows.append(["made by", f"the converter of TensorFlow {shown(converter)}"])
    rows.append(["computes in", precision.words])
    for island in precision.islands:
        items = [f"{shown(name)} {n}" for name, n in island.items()]
        rows.append(["  island" if len(precision.islands) > 1 else "", ", ".join(items)])
    if what := description(file):
        rows += _rows("what it is", what)
    if feeding := _feeding(file):
        rows += _rows("how to feed", feeding)
    for item in file.model.signatures:
        ins, outs = ", ".join(map(shown, item.inputs)), ", ".join(map(shown, item.outputs))
        rows.append([f"signature {shown(item.key)}", f"{ins} -> {outs}"])
    if len(file.graphs) > 1:
        rows.append(["graphs", ", ".join(shown(graph.name) for graph in file.graphs)])
    width = max(len(row[0]) for row in rows)
    lines = [_fold(f"{key.ljust(width)}  {value}", width + 2) for key, value in rows]
    return "\n".join([shown(file.name, 400), *("  " + line for line in lines)])


def _rows(key: str, sentence: str) -> list[list[str]]:
    lines = textwrap.wrap(sentence, _SENTENCE)
    return [[key, lines[0]], *(["", line] for line in lines[1:])]


def _feeding(file: TfliteFile) -> str:
    """Say how pictures become the input; "" where the input is no picture."""
    size = facts.picture_size(file.model)
    if size is None:
        return ""
    if file.feeding is not None:
        return file.feeding.words("{1}x{0}".format(*size))
    broken = any(item.name == FEEDING_FILE for item in file.packing.files)
    return f"{FEEDING_FILE} cannot be read" if broken else UNSTATED


def _fold(line: str, indent: int, width: int = 98) -> str:
    """Break ``line`` at commas where it is too long."""
    if len(line) <= width or ", " not in line[indent:]:
        return line
    lines = [line[:indent]]
    for item in line[indent:].split(", "):
        if len(lines[-1]) + len(item) > width and len(lines[-1]) > indent:
            lines.append(" " * indent)
        lines[-1] += item + ", "
    return "\n  ".join(text.rstrip(" ") for text in lines).removesuffix(",")


def _block(title: str, head: list[str], rows: list[list[str]]) -> str:
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    text = table([head[i] for i in used], [[row[i] for i in used] for row in rows])
    return title + "\n" + "\n".join("  " + line for line in text.splitlines())


def _tensor_table(kind: str, items: list[dict[str, Any]]) -> str:
    rows = [
        [
            str(item["position"]),
            shown(item["role"] or ""),
            shown(item["name"]),
            shown(item["signature_name"] or ""),
            item["type"],
            item["shown"],
            _quantisation(item),
        ]
        for item in items
    ]
    head = ["#", "role", "tensor", "signature", "type", "shape", "quantisation"]
    return _block(kind, head, rows) if rows else f"{kind}\n  none"


def _quantisation(item: dict[str, Any]) -> str:
    if not item["scale"]:
        return ""
    return f"scale {numbers(item['scale'])}, zero point {numbers(item['zero_point'] or [0])}"


def _operator_table(file: TfliteFile) -> str:
    items = _operators(file)
    words = {"custom": "custom", "select-tf": "select TF (Flex)", "unknown": "not in the schema"}
    rows = [
        [
            str(item["count"]),
            shown(item["name"]),
            str(item["version"]),
            words.get(item["kind"], ""),
        ]
        for item in items
    ]
    total = sum(item["count"] for item in items)
    if not rows:
        return "operators\n  none"
    return _block(f"operators: {total}", ["count", "operator", "version", ""], rows)


def _weight_tables(file: TfliteFile, weights: facts.Weights) -> str:
    def share(size: int, whole: int) -> str:
        return f"{100 * size / whole:.1f} %" if whole else ""

    parts = _composition(file, weights.bytes)
    names = {
        "weights": "weights",
        "graph": "graph",
        "metadata": "metadata",
        "packed": "packed files",
    }
    whole = len(file.data)
    rows = [[names[key], f"{size:,}", share(size, whole), ""] for key, size in parts.items()]
    blocks = [_block("bytes", ["part", "bytes", "share", ""], rows)]
    for what, items in (("type", weights.by_type), ("operator", weights.by_operator)):
        rows = [
            [shown(i.name), f"{i.bytes:,}", share(i.bytes, weights.bytes), str(i.tensors)]
            for i in items
        ]
        if rows:
            head = [what, "bytes", "share", "tensors"]
            blocks.append(_block(f"weights by {what}", head, rows))
    return "\n\n".join(blocks)


def _option(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return number(value)
    return shown(str(wording.plain(value)))


def _wrap(items: list[str], width: int = 96) -> str:
    lines = [""]
    for item in items:
        if lines[-1] and len(lines[-1]) + len(item) + 2 > width:
            lines[-1] += ","
            lines.append("")
        lines[-1] += f", {item}" if lines[-1] else item
    return "\n".join("  " + line for line in lines)


def _metadata_text(file: TfliteFile) -> str:
    meta = _metadata(file)
    if meta is None:
        return "" if any("metadata" in text for text in file.warnings) else "metadata\n  none"
    rows = [
        [key.replace("_", " "), shown(str(meta[key]), _LONG_TEXT)] for key in _TEXTS if meta[key]
    ]
    if (norm := meta["normalization"]) is not None:
        words = f"(pixel - {numbers(norm['mean'])}) / {numbers(norm['std'])}"
        rows.append(["normalisation", words.replace("pixel - -", "pixel + ")])
    if meta["color_space"]:
        rows.append(["colours", meta["color_space"]])
    if (box := meta["box_format"]) is not None:
        order = " ".join(str(index) for index in box["index"])
        rows.append(["boxes", f"{box['type']}, {box['coordinates']}, coordinates at {order}"])
    if meta["score_threshold"] is not None:
        rows.append(["score threshold", number(meta["score_threshold"])])
    if not rows:
        return "metadata\n  present, but empty"
    width = max(len(row[0]) for row in rows)
    lines = []
    for key, value in rows:
        folded = textwrap.wrap(value, 94 - width) or [""]
        lines += [f"  {key.ljust(width)}  {folded[0]}"]
        lines += [" " * (width + 4) + line for line in folded[1:]]
    return "\n".join(["metadata", *lines])


def _label_text(file: TfliteFile) -> str:
    found = file.labels
    if found is None:
        return ""
    name, lines = found
    gaps = lines.count(facts.GAP)
    title = f"labels: {shown(name)}, {count(len(lines), 'line')}"
    if gaps:
        title += f", {count(gaps, 'gap')} ({facts.GAP})"
    first = [shown(line, 40) for line in lines[:_FIRST_LABELS]]
    return f"{title}\n" + _wrap(first + ["..."] * (len(lines) > _FIRST_LABELS))
