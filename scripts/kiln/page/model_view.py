"""Describe one model's section of the page as data for its template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kiln.page.accuracy import Accuracy, DataSet, Scores
from kiln.page.compiled import CompiledFile, compiled_files
from kiln.page.contents import Detection, Gate, Model, Picture, Problem, Variant
from kiln.page.differences import SAME, Drawn, compare
from kiln.page.formats import anchor, count
from kiln.page.pictures import Canvas, Mark, canvas, marks, names_and_scores
from kiln.page.records import Record
from kiln.page.snippets import Snippet, snippets
from kiln.page.trade_off import TradeOff, trade_off
from kiln.recipes.export_options import SUPPRESSION

_MEANINGS = {
    "structure": "Inputs, outputs, operators and metadata are those of a detector.",
    "parity": "Detections match the source model’s.",
    "normalization": "The declared normalisation is the one that fits best.",
    "feeding": "Fed as described, the file finds most of what the source model finds.",
    "labels": "Every class id has the right name.",
    "trained": "The prediction heads were trained.",
    "runtime-tensorflow": "TensorFlow’s interpreter runs the file.",
    "runtime-task-library": "The Task Library runs the file.",
    "runtime-litert": "LiteRT runs the file.",
    "runtime-mediapipe": "MediaPipe Tasks runs the file.",
    "compiled": "The compiler left input, outputs, labels and metadata as they were.",
}

#: Levels of a source's record that become separate rows.
_SOURCE_DEPTH = 4
_MOST_DIFFERENCES = 50  # the stages find a dozen kinds


@dataclass(frozen=True)
class Notice:
    """A sentence with a status."""

    status: str
    words: str


@dataclass(frozen=True)
class Figure:
    """Detections of one file, or of the source model, in a picture.

    Attributes:
        label: accessible name of the drawing.
        words: text below it.
        differs: whether it differs from the source model.
    """

    name: str
    marks: tuple[Mark, ...]
    label: str
    words: str
    differs: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture with the detections of the source model and of every file.

    Attributes:
        source: ``None`` without a source model to compare with.
    """

    name: str
    canvas: Canvas
    source: Figure | None
    files: tuple[Figure, ...]

    @property
    def differs(self) -> bool:
        """Whether a file differs from the source."""
        return any(figure.differs for figure in self.files)

    @property
    def objects(self) -> int:
        """The largest number of detections drawn for a file."""
        return max((len(figure.marks) for figure in self.files), default=0)


@dataclass(frozen=True)
class Check:
    """A gate's row: its result for each checked file, ``None`` if it was not run."""

    name: str
    meaning: str
    gates: tuple[Gate | None, ...]

    @property
    def alike(self) -> bool:
        """Whether one cell can show the result of several files."""
        return len(self.gates) > 1 and len({g and (g.status, g.summary) for g in self.gates}) == 1


@dataclass(frozen=True)
class Finding:
    """A problem that a gate found in a file."""

    file: str
    gate: Gate
    problem: Problem


@dataclass(frozen=True)
class Measured:
    """Files measured on the same data set, with the figures of their source."""

    data: DataSet
    source: Scores | None
    files: tuple[tuple[str, Accuracy], ...]

    def sure(self) -> bool:
        """Whether intervals are known."""
        return any(any(found.result.intervals) for _, found in self.files)


@dataclass(frozen=True)
class Use:
    """A file with the code that runs it; ``id`` identifies it in the page.

    Attributes:
        feeding: sentences: how to feed the file, and what other ways cost.
    """

    id: str
    variant: Variant
    feeding: tuple[str, ...]
    snippets: tuple[Snippet, ...]


@dataclass(frozen=True)
class Fact:
    """A named value, or a name and a collapsed list of files."""

    name: str
    value: str
    files: tuple[Fact, ...] = ()

    @property
    def is_digest(self) -> bool:
        """Whether the value looks like a digest."""
        value = self.value.removeprefix("sha256:")
        return len(value) >= 40 and not set(" /") & set(value)


@dataclass(frozen=True)
class Stage:
    """Time and memory that a stage took."""

    name: str
    seconds: float | None
    peak_bytes: float | None
    key: str


@dataclass(frozen=True)
class Difference:
    """What a model's configuration says and its files do otherwise."""

    what: str
    config: str
    built: str
    effect: str


@dataclass(frozen=True)
class ModelView:
    """The data that ``model.html`` shows of a model; unknown text is empty.

    Attributes:
        id: of the section.
        source_runtime: the runtime that ran the source model.
        first_panel: number of the picture shown first: the first that differs, or the one with
            the most objects.
        suppression: how overlapping boxes are suppressed, where the recipe chose it.
        output_order: the outputs in their order, where the recipe chose it.
        compiled: what is estimated of files for an NPU.
        checked: files that have a verdict in ``checks.json``.
        trade_off: what the files cost and keep, if there are several.
    """

    id: str
    model: Model
    description: str
    architecture: str
    input: str
    feeding: str
    classes: str
    max_detections: str
    suppression: str
    output_order: str
    licence: str
    notices: tuple[Notice, ...]
    differences: tuple[Difference, ...]
    source_runtime: str
    panels: tuple[Panel, ...]
    first_panel: int
    checked: tuple[Variant, ...]
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    compiled: tuple[CompiledFile, ...]
    accuracy: tuple[Measured, ...]
    trade_off: TradeOff | None
    uses: tuple[Use, ...]
    origin: tuple[Fact, ...]
    stages: tuple[Stage, ...]


def model_view(model: Model) -> ModelView:
    """Describe a model for the page."""
    export = model.conversion.record("stages", "export", "facts")
    stages = [stage for _, stage in model.conversion.records("stages")]
    descriptions = (stage.text("params", "description") for stage in stages)
    # An export's `num_classes` is its highest class id; a label map may leave some ids out.
    names = (stage.number("facts", "labels") for stage in stages)
    classes = next((n for n in names if n is not None), export.number("num_classes"))
    most = export.number("max_detections")
    panels = tuple(_panel(model, picture) for picture in model.pictures if _shown(model, picture))
    checked = tuple(variant for variant in model.variants if variant.passed is not None)
    return ModelView(
        id=anchor("model", model.name),
        model=model,
        description=next(filter(None, descriptions), ""),
        architecture=export.text("architecture"),
        input=", ".join(dict.fromkeys(filter(None, map(_input, model.variants)))),
        feeding=". ".join(dict.fromkeys(v.how_to_feed for v in model.variants if v.how_to_feed)),
        classes="" if classes is None else f"{classes:g}",
        max_detections="" if most is None else f"{most:g}",
        suppression=_suppression(model.conversion.record("stages", "export")),
        output_order=_output_order(stages),
        licence=model.conversion.text("licence"),
        notices=tuple(_notices(model)),
        differences=tuple(_differences(model)),
        source_runtime=model.checks.text("source", "runtime"),
        panels=panels,
        first_panel=max(
            range(len(panels)), key=lambda n: (panels[n].differs, panels[n].objects), default=0
        ),
        checked=checked,
        checks=tuple(_checks(checked)),
        findings=tuple(
            Finding(variant.name, gate, problem)
            for variant in model.variants
            for gate in variant.gates
            for problem in gate.problems
        ),
        compiled=tuple(compiled_files(model.conversion)),
        accuracy=tuple(_measured(model)),
        trade_off=trade_off(model.variants),
        uses=tuple(
            Use(
                f"use-{anchor('model', model.name)}-{n}",
                variant,
                tuple(_how_to_feed(variant)),
                tuple(snippets(model, variant)),
            )
            for n, variant in enumerate(model.variants)
        ),
        origin=tuple(_origin(model)),
        stages=tuple(
            Stage(name, stage.number("seconds"), stage.number("peak_rss"), stage.text("key"))
            for name, stage in model.conversion.records("stages")
        ),
    )


def _input(variant: Variant) -> str:
    if variant.model is None or not variant.model.graph.inputs:
        return ""
    graph = variant.model.graph
    tensor = graph.tensors[graph.inputs[0]]
    if len(tensor.shape) != 4:
        return ""
    return f"{tensor.shape[2]} × {tensor.shape[1]} {tensor.type}"


def _suppression(export: Record) -> str:
    """Describe the suppression of overlapping boxes; empty where it is the model's own."""
    chosen = [export.raw("params", name) for name in SUPPRESSION]
    built = export.record("facts", "suppression")
    if not built or all(value is None or value is False for value in chosen):
        return ""
    regular = built.raw("regular") is True
    said = ["within each class (regular NMS)" if regular else "across classes (fast NMS)"]
    overlap, score = built.number("iou_threshold"), built.number("score_threshold")
    if overlap is not None:
        said.append(f"from an overlap (IoU) of {overlap:.6g}")
    if score is not None:
        said.append(f"scores below {score:.6g} left out")
    most = built.number("detections_per_class")
    if regular and most is not None:
        said.append(f"at most {most:g} of a class")
    return ", ".join(said)


def _output_order(stages: Sequence[Record]) -> str:
    for stage in stages:
        if stage.text("params", "output_order"):
            names = stage.list("facts", "output_order")
            return ", ".join(name for name in names if isinstance(name, str))
    return ""


def _how_to_feed(variant: Variant) -> Iterator[str]:
    if variant.input_size is None:
        return
    if variant.raw:
        yield (
            "The file has no post-processing: it outputs raw boxes and scores, and holds what it "
            "takes to decode them. The Task Library and MediaPipe cannot read it; the code below "
            "decodes."
        )
    if variant.feeding is None:
        yield (
            "The file does not say how to feed it. The Task Library and MediaPipe stretch "
            "pictures to its input, and so does the code below."
        )
        return
    yield f"{variant.how_to_feed}."
    if variant.for_npu:
        return
    right, stretched = (variant.fits.get(name) for name in ("described", "stretch"))
    costs = ""
    if right is not None and stretched is not None:
        costs = (
            "on check images of another shape than the input’s, its agreement with the source "
            f"model is then {stretched:.3f} instead of {right:.3f}"
        )
    if variant.raw:
        if costs:
            yield f"Where a program stretches pictures in the usual way: {costs}."
    elif variant.feeding.letterboxed:
        costs = costs or "what that costs was not measured"
        yield (
            f"The Task Library and MediaPipe stretch pictures: {costs}. So the code below gives "
            "them a picture that is letterboxed already."
        )
    elif costs:
        yield f"The Task Library and MediaPipe resize pictures in their own way: {costs}."


def _notices(model: Model) -> Iterator[Notice]:
    for problem in model.problems:
        yield Notice("failed", problem)
    if model.conversion.text("profile") == "seed":
        yield Notice(
            "allowed",
            "Made with the hand-written recipe of 2021, faults included, to measure what the "
            "faults cost. Do not use it.",
        )
    untrained = [reason for reason in model.conversion.list("untrained") if isinstance(reason, str)]
    if untrained:
        yield Notice(
            "allowed",
            f"The prediction heads were never trained ({'; '.join(untrained)}): detections are "
            "random.",
        )
    for note in model.conversion.list("label_notes"):
        if isinstance(note, str):
            yield Notice("allowed", f"Labels: {note}")
    if not model.checked:
        yield Notice(
            "skipped",
            "This model was not checked: there is no checks.json in its folder, so nothing here "
            "says how close its files are to the source.",
        )
    elif model.source is None:
        yield Notice("skipped", "There is no source model to compare with.")
    failed = [variant.name for variant in model.variants if variant.passed is False]
    if failed:
        yield Notice("failed", f"Failed its checks: {', '.join(failed)}. The reasons are below.")
    for variant in model.variants:
        for note in variant.notes:
            yield Notice("failed", f"{variant.name}: {note}")


def _differences(model: Model) -> Iterator[Difference]:
    for item in model.conversion.list("differences")[:_MOST_DIFFERENCES]:
        said = Record(item)
        if said.text("what"):
            yield Difference(*(said.text(key) for key in ("what", "config", "built", "effect")))


def _shown(model: Model, picture: Picture) -> bool:
    """Whether there is anything to draw: a model with a large input is not run on all pictures."""
    lists = [{} if model.source is None else model.source, *(v.detections for v in model.variants)]
    return not picture.problem and any(picture.name in found for found in lists)


def _panel(model: Model, picture: Picture) -> Panel:
    below = canvas(picture)

    def figure(name: str, drawn: Sequence[Drawn], words: str, differs: bool = False) -> Figure:
        label = f"{picture.name}, {name}: {names_and_scores(item.detection for item in drawn)}"
        return Figure(name, marks(below, drawn), label, words, differs)

    def alone(name: str, found: list[Detection], nothing: str) -> Figure:
        drawn = [Drawn(item, SAME) for item in found if item["score"] >= model.score_threshold]
        return figure(name, drawn, f"{count(len(drawn), 'object')}." if drawn else nothing)

    source = None if model.source is None else model.source.get(picture.name)
    files = []
    for variant in model.variants:
        found = variant.detections.get(picture.name)
        if found is None:
            continue
        if source is None:
            files.append(alone(variant.name, found, "0 objects."))
        else:
            result = compare(source, found, model.score_threshold)
            differs = bool(result.differences)
            files.append(figure(variant.name, result.drawn, result.summary(), differs))
    shown = None if source is None else alone("source", source, "Nothing found.")
    return Panel(picture.name, below, shown, tuple(files))


def _checks(checked: tuple[Variant, ...]) -> Iterator[Check]:
    for name in dict.fromkeys(gate.name for variant in checked for gate in variant.gates):
        gates = (next((g for g in v.gates if g.name == name), None) for v in checked)
        yield Check(name, _MEANINGS.get(name, ""), tuple(gates))


def _measured(model: Model) -> Iterator[Measured]:
    groups: dict[tuple[DataSet, Scores | None], list[tuple[str, Accuracy]]] = {}
    for variant in model.variants:
        if (found := variant.accuracy) is not None:
            groups.setdefault((found.data, found.source), []).append((variant.name, found))
    for (data, source), files in groups.items():
        yield Measured(data, source, tuple(files))


def _origin(model: Model) -> Iterator[Fact]:
    record = model.conversion
    yield Fact("kiln", record.text("kiln"))
    yield Fact("Profile", record.text("profile"))
    yield Fact("Recipe", record.text("recipe", "sha256"))
    yield Fact("Image", record.text("image", "name"))
    yield Fact("Image identity", record.text("image", "identity"))
    yield Fact("Stage code", record.text("stage_code"))
    source = record.raw("source")
    if isinstance(source, dict):
        yield from _flat("Source", source)


def _flat(name: str, value: Any, depth: int = 0) -> Iterator[Fact]:
    """Flatten a record of any form into rows; long lists of files are collapsed."""
    if isinstance(value, dict) and depth < _SOURCE_DEPTH:
        leaves = {key: item for key, item in sorted(value.items()) if isinstance(item, str)}
        if depth > 0 and len(leaves) == len(value) > 3:
            yield Fact(name, "", tuple(Fact(key, item) for key, item in leaves.items()))
            return
        for key, item in sorted(value.items()):
            label = f"{name}, {key.replace('_', ' ')}" if depth < 1 else f"{name} / {key}"
            yield from _flat(label, item, depth + 1)
    elif isinstance(value, list):
        yield Fact(name, ", ".join(str(item) for item in value))
    elif value is not None:
        yield Fact(name, str(value))
