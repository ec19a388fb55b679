"""Compare two ``.tflite`` files (``kiln diff``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.tflite import graph_changes, metadata_changes, tensor_changes, wording
from kiln.tflite.canonical import same_content
from kiln.tflite.pairing import Both
from kiln.tflite.reading import TfliteFile, load
from kiln.tflite.report import Section, section
from kiln.tflite.verdict import GRAPH_SECTIONS, verdict
from kiln.tflite.wording import count, shown

_FEW = 5
"""How many differences of each kind are shown unless all are asked for."""

_ORDER = (
    "weights", "quantisation", "operators", "interface", "signatures", "postprocess", "tensors",
    "other", "feeding", "metadata", "labels", "packed", "bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """The result of :func:`compare`.

    Attributes:
        verdict: one sentence.
        identical: every byte is the same.
        same_model: the graph and every weight are the same; only metadata or packed files differ.
        sections: what differs, empty where ``identical``.
    """

    a: TfliteFile
    b: TfliteFile
    verdict: str
    identical: bool
    same_model: bool
    sections: tuple[Section, ...]

    def as_json(self, all_items: bool = False) -> dict[str, Any]:
        """Return plain values for strict JSON; few of each kind, or all."""
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
                        "name": part.name,
                        "title": part.title,
                        "count": len(part.items),
                        **part.summary,
                        "items": [
                            {"text": item.text, **item.data}
                            for item in (part.items if all_items else part.items[:_FEW])
                        ],
                    }
                    for part in self.sections
                ],
            }
        )
        return result

    def text(self, all_items: bool = False) -> str:
        """Return the report for people: the verdict, then a block for each kind of difference."""
        if self.identical:
            return self.verdict
        lines = [self.verdict, "", f"  A  {shown(self.a.name, 400)}"]
        lines.append(f"  B  {shown(self.b.name, 400)}")
        for part in self.sections:
            lines += ["", *part.lines(None if all_items else _FEW)]
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
        UnsupportedModelError: one is not a TFLite model, or is truncated or damaged.
    """
    first = load(a, name_a or ("A" if isinstance(a, bytes) else ""))
    second = load(b, name_b or ("B" if isinstance(b, bytes) else ""))
    if first.data == second.data:
        words = f"identical: the same {count(len(first.data), 'byte')}"
        return Difference(first, second, words, True, True, ())
    both = Both.of(first, second)
    sections = _sections(both)
    unchanged = not any(name in sections for name in (*GRAPH_SECTIONS, "weights", "quantisation"))
    return Difference(
        first, second, verdict(both, sections, unchanged), False, unchanged, _ordered(sections)
    )


def _sections(both: Both) -> dict[str, Section]:
    found = [
        section("operators", "operators", graph_changes.operators(both)),
        section("interface", "inputs and outputs", graph_changes.interface(both)),
        section("signatures", "signatures", graph_changes.signatures(both)),
        section("postprocess", "post-processing options", graph_changes.postprocess(both)),
        tensor_changes.weights(both),
        section("quantisation", "quantisation", tensor_changes.quantisation(both)),
        section("tensors", "tensors", tensor_changes.tensors(both)),
    ]
    if not any(found) and not same_content(both.a, both.b):
        found.append(section("other", "other fields", metadata_changes.other_fields(both)))
    found += [
        metadata_changes.feeding(both),
        metadata_changes.metadata(both),
        metadata_changes.labels(both),
        metadata_changes.packed(both),
        section("bytes", "bytes", metadata_changes.raw_bytes(both)),
    ]
    return {item.name: item for item in found if item is not None}


def _ordered(sections: dict[str, Section]) -> tuple[Section, ...]:
    order = list(_ORDER)
    weights = sections.get("weights")
    if weights is not None and not weights.summary["differing_tensors"]:
        order.remove("weights")  # the constants differ because the graph does: list them after it
        order.insert(order.index("tensors"), "weights")
    return tuple(sections[name] for name in order if name in sections)
