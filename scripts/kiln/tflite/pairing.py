"""Find which operators and tensors of two graphs correspond.

Operators are aligned by their names, in order and without QUANTIZE and DEQUANTIZE, so that the
float32, float16 and int8 forms of one network line up. Tensors are paired by name and, where a
name has no partner, by their position at an aligned operator.
"""

from __future__ import annotations

import difflib
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kiln.tflite.facts import CONVERTERS, is_constant, producers
from kiln.tflite.reading import Graph, TfliteFile, type_name

_SIMILAR = 0.8  # below this share of common operators, positions tell nothing about tensors
_TOO_MANY = 4_000_000  # above this many pairs of operators, they are aligned by position only
_STEPS = 10_000_000  # to align all graphs of two files: seconds; the samples take up to 31,000


COMMUTATIVE = ("ADD", "MUL", "MAXIMUM", "MINIMUM", "LOGICAL_AND", "LOGICAL_OR")
"""Operators of two inputs whose order does not matter."""


@dataclass(frozen=True)
class Edit:
    """Operators ``a`` of one graph are replaced by ``b`` in the other (indices)."""

    a: tuple[int, ...]
    b: tuple[int, ...]


@dataclass(frozen=True)
class Pairing:
    """What corresponds between two graphs.

    Attributes:
        operators: pairs of aligned operators (indices), QUANTIZE and DEQUANTIZE left out.
        edits: where the sequences of operators differ.
        common: share of operators in common, 0 to 1.
        tensors: tensor of the first graph -> tensor of the second.
        renamed: those of ``tensors`` that were paired by their position.
        only_a: tensors of the first graph without a partner.
        only_b: tensors of the second graph without a partner.
        copies_a: constants of the first graph without a partner -> the one constant that the
            second graph shares in place of several.
        copies_b: the same in the other direction.
    """

    operators: tuple[tuple[int, int], ...]
    edits: tuple[Edit, ...]
    common: float
    tensors: dict[int, int]
    renamed: frozenset[int]
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]
    copies_a: dict[int, int]
    copies_b: dict[int, int]


@dataclass(frozen=True)
class Both:
    """Two files side by side, graph by graph (as many as the one with fewer graphs has)."""

    a: TfliteFile
    b: TfliteFile
    graphs: tuple[tuple[Graph, Graph], ...]
    pairings: tuple[Pairing, ...]

    @classmethod
    def of(cls, a: TfliteFile, b: TfliteFile) -> Both:
        """Pair what two files hold."""
        graphs = tuple(zip(a.graphs, b.graphs, strict=False))
        effort = Effort()
        return cls(a, b, graphs, tuple(pair(a, one, b, other, effort) for one, other in graphs))

    def place(self, graph: int) -> str:
        """Return a prefix with the graph's number, where there are several graphs."""
        return f"graph {graph}, " if max(len(self.a.graphs), len(self.b.graphs)) > 1 else ""


@dataclass
class Effort:
    """The remaining budget for aligning; difflib can take cubic time."""

    left: int = _STEPS


class _TooMuchError(Exception):
    pass


class _Matcher(difflib.SequenceMatcher[str]):
    """difflib's matcher with its steps counted."""

    def __init__(self, a: Sequence[str], b: Sequence[str], effort: Effort) -> None:
        super().__init__(None, a, b, autojunk=False)
        self._effort = effort
        there = Counter(b)
        self._steps = list(itertools.accumulate((there[item] + 1 for item in a), initial=0))

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> difflib.Match:
        last = len(self._steps) - 1 if ahi is None else ahi
        self._effort.left -= self._steps[last] - self._steps[alo]
        if self._effort.left < 0:
            raise _TooMuchError
        return super().find_longest_match(alo, ahi, blo, bhi)


def pair(
    file_a: TfliteFile, a: Graph, file_b: TfliteFile, b: Graph, effort: Effort | None = None
) -> Pairing:
    """Pair the operators and tensors of two graphs; ``effort`` is shared by those of two files."""
    plain_a = [i for i, op in enumerate(a.operators) if op.name not in CONVERTERS]
    plain_b = [i for i, op in enumerate(b.operators) if op.name not in CONVERTERS]
    names_a, names_b = (
        [a.operators[i].name for i in plain_a],
        [b.operators[i].name for i in plain_b],
    )
    blocks = align(names_a, names_b, effort)
    aligned: list[tuple[int, int]] = []
    edits = []
    for same, (a0, a1), (b0, b1) in blocks:
        if same:
            aligned += zip(plain_a[a0:a1], plain_b[b0:b1], strict=True)
        else:
            edits.append(Edit(tuple(plain_a[a0:a1]), tuple(plain_b[b0:b1])))
    total = len(plain_a) + len(plain_b)
    common = 2 * len(aligned) / total if total else 1.0
    tensors = _by_name(file_a, a, file_b, b)
    renamed = _by_place(file_a, a, file_b, b, aligned, tensors) if common >= _SIMILAR else {}
    tensors.update(renamed)
    taken = set(tensors.values())
    copies_a: dict[int, int] = {}
    copies_b: dict[int, int] = {}
    if common >= _SIMILAR:
        copies_a, copies_b = _copies(file_a, a, file_b, b, aligned, tensors)
    return Pairing(
        tuple(aligned),
        tuple(edits),
        common,
        tensors,
        frozenset(renamed),
        tuple(i for i in range(len(a.tensors)) if i not in tensors),
        tuple(i for i in range(len(b.tensors)) if i not in taken),
        copies_a,
        copies_b,
    )


def align(
    a: Sequence[str], b: Sequence[str], effort: Effort | None = None
) -> list[tuple[bool, tuple[int, int], tuple[int, int]]]:
    """Split into runs of equal and of different items, as (equal?, range in a, range in b).

    Over budget, everything between the common beginning and end is reported as different.

    >>> align("xyz", "xz")
    [(True, (0, 1), (0, 1)), (False, (1, 2), (1, 1)), (True, (2, 3), (1, 2))]
    """
    head = 0
    while head < min(len(a), len(b)) and a[head] == b[head]:
        head += 1
    tail = 0
    while tail < min(len(a), len(b)) - head and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    inner_a, inner_b = a[head : len(a) - tail], b[head : len(b) - tail]
    found = [(True, (0, head), (0, head))] if head else []
    try:
        if len(inner_a) * len(inner_b) > _TOO_MANY:
            raise _TooMuchError
        matcher = _Matcher(inner_a, inner_b, effort or Effort())
        for tag, a0, a1, b0, b1 in matcher.get_opcodes():
            found.append((tag == "equal", (head + a0, head + a1), (head + b0, head + b1)))
    except _TooMuchError:
        found.append((False, (head, len(a) - tail), (head, len(b) - tail)))
    if tail:
        found.append((True, (len(a) - tail, len(a)), (len(b) - tail, len(b))))
    return found


def source(graph: Graph, makers: dict[int, int], tensor: int) -> int:
    """Return the tensor that ``tensor`` is a requantised or dequantised form of (or itself)."""
    for _ in range(4):
        maker = makers.get(tensor)
        if maker is None:
            break
        op = graph.operators[maker]
        if op.name not in CONVERTERS or not op.inputs or op.inputs[0] < 0:
            break
        tensor = op.inputs[0]
    return tensor


def _by_name(file_a: TfliteFile, a: Graph, file_b: TfliteFile, b: Graph) -> dict[int, int]:
    def key(file: TfliteFile, tensor: Any) -> tuple[str, int]:
        # Converters reuse the name for whatever replaces a tensor: constants of different size
        # that share a name (a kernel here, a bias there) are not the same thing.
        constant = is_constant(file.model, tensor)
        return tensor.name, _size(tensor.shape) if constant else -1

    names: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index, tensor in enumerate(b.tensors):
        names[key(file_b, tensor)].append(index)
    for items in names.values():
        items.reverse()
    found = {}
    for index, tensor in enumerate(a.tensors):
        candidates = names.get(key(file_a, tensor))
        if candidates:
            found[index] = candidates.pop()
    return found


def _by_place(
    file_a: TfliteFile,
    a: Graph,
    file_b: TfliteFile,
    b: Graph,
    aligned: list[tuple[int, int]],
    tensors: dict[int, int],
) -> dict[int, int]:
    makers_a, makers_b = producers(a), producers(b)
    taken = set(tensors.values())
    found: dict[int, int] = {}

    def offer(first: int, second: int) -> None:
        if min(first, second) < 0 or first in tensors or first in found or second in taken:
            return
        one, other = a.tensors[first], b.tensors[second]
        constant = is_constant(file_a.model, one)
        if constant != is_constant(file_b.model, other):
            return
        if constant and (_size(one.shape), _family(one)) != (_size(other.shape), _family(other)):
            return
        found[first] = second
        taken.add(second)

    for i, j in aligned:
        one, other = a.operators[i], b.operators[j]
        for first, second in _inputs(file_a, a, makers_a, i, file_b, b, makers_b, j):
            offer(first, second)
        if len(one.outputs) == len(other.outputs):
            for first, second in zip(one.outputs, other.outputs, strict=True):
                offer(first, second)
    for kind in ("inputs", "outputs"):
        ends_a, ends_b = getattr(a, kind), getattr(b, kind)
        if len(ends_a) == len(ends_b):
            for first, second in zip(ends_a, ends_b, strict=True):
                offer(first, second)
    return found


def _inputs(
    file_a: TfliteFile,
    a: Graph,
    makers_a: dict[int, int],
    i: int,
    file_b: TfliteFile,
    b: Graph,
    makers_b: dict[int, int],
    j: int,
) -> list[tuple[int, int]]:
    """Pair the inputs of two aligned operators; none if their number differs.

    Where the order of two inputs does not matter, a constant is paired with a constant.
    """
    one = [source(a, makers_a, tensor) for tensor in a.operators[i].inputs]
    other = [source(b, makers_b, tensor) for tensor in b.operators[j].inputs]
    if len(one) != len(other):
        return []
    if a.operators[i].name in COMMUTATIVE and len(one) == 2 and min(*one, *other) >= 0:
        fixed_a = [is_constant(file_a.model, a.tensors[tensor]) for tensor in one]
        fixed_b = [is_constant(file_b.model, b.tensors[tensor]) for tensor in other]
        if fixed_a != fixed_b and fixed_a == fixed_b[::-1]:
            other.reverse()
    return list(zip(one, other, strict=True))


def _copies(
    file_a: TfliteFile,
    a: Graph,
    file_b: TfliteFile,
    b: Graph,
    aligned: list[tuple[int, int]],
    tensors: dict[int, int],
) -> tuple[dict[int, int], dict[int, int]]:
    makers_a, makers_b = producers(a), producers(b)
    taken = set(tensors.values())
    copies_a: dict[int, int] = {}
    copies_b: dict[int, int] = {}
    for i, j in aligned:
        for one, other in _inputs(file_a, a, makers_a, i, file_b, b, makers_b, j):
            if min(one, other) < 0 or not (
                is_constant(file_a.model, a.tensors[one])
                and is_constant(file_b.model, b.tensors[other])
            ):
                continue
            if one not in tensors:
                copies_a.setdefault(one, other)
            if other not in taken:
                copies_b.setdefault(other, one)
    return copies_a, copies_b


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for item in shape:
        size *= item
    return size


def _family(tensor: Any) -> str:
    """Return one name for all types that stand for real numbers; else the type itself."""
    name = type_name(tensor)
    real = name.startswith(("float", "bfloat")) or tensor.quantization is not None
    return "real" if real else name
