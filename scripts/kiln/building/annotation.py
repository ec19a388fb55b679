"""Write metadata into a finished ``.tflite`` file, for ``kiln annotate``.

The file was made elsewhere. What its graph tells is taken from the graph; the rest is the user's
word, unless there is a checkpoint to check it against (:mod:`kiln.building.annotation_check`).
Whatever can be refused is refused before a container starts, and the result is compared with the
file that was given.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.building.annotation_check import prepare
from kiln.building.annotation_request import Wanted, check, feeding_of
from kiln.building.from_training import slugify
from kiln.building.output_file import check_target, write
from kiln.cache.opening import shared_results
from kiln.checks import verdict
from kiln.core.errors import LabelMapError, UnsupportedModelError, UsageError
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.core.version import __version__
from kiln.images.lock import Locked, locked_image
from kiln.project.closures import StageCode, read_stage_code
from kiln.project.folders import Project
from kiln.project.stagecode import stage_module
from kiln.recipes.pipeline_config import told_by_stages
from kiln.recipes.plan import Files, Plan
from kiln.recipes.steps import lone_step
from kiln.running.executor import Runner
from kiln.running.executor_protocol import OnEvent
from kiln.running.limits import Limits
from kiln.sources.local import check_labels, reading
from kiln.tflite import diff, facts
from kiln.tflite.feeding import FEEDING_FILE
from kiln.tflite.known_kinds import is_raw, says_how_to_decode
from kiln.tflite.reading import POSTPROCESS, TfliteFile, load, type_name
from kiln.tflite.verdict import GRAPH_SECTIONS

#: The image whose environment without TensorFlow writes metadata.
IMAGE = "odapi"

STEP = "annotate"

#: The record's name is the file's with this ending.
RECORD_SUFFIX = ".json"

GIVEN, OPERATOR, GRAPH, SIGNATURE = "given", "operator", "graph", "signature"
QUANTIZATION, LABEL_MAP, CHECKPOINT = "quantisation", "label map", "checkpoint"
"""Where something is known from, in the record."""

_MOST_ROWS = 1_000_000  # detections; models are far below


@dataclass(frozen=True)
class Annotated:
    """The result.

    Attributes:
        path: of the file.
        record_path: of the record beside it.
        record: its content, plain data.
        proof: in one line.
        notes: what the user should know.
    """

    path: Path
    record_path: Path
    record: Mapping[str, Any]
    proof: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Known:
    """What the metadata will say of a file, and where each of it is known from."""

    architecture: str
    roles: Mapping[str, Any]  # stages.tflite.output_roles.Output
    roles_from: str
    classes: int
    classes_from: str
    normalization: Mapping[str, list[float]]
    normalization_from: str

    def params(self) -> dict[str, Any]:
        """Return them as parameters of the stage, which derives roles by itself.

        What is known from a checkpoint, the stage learns from the one that reads the checkpoint.
        """
        found: dict[str, Any] = {}
        if self.normalization_from != CHECKPOINT:
            found = {
                "architecture": self.architecture,
                "num_classes": self.classes,
                "normalization": dict(self.normalization),
            }
        if self.roles_from in (GIVEN, SIGNATURE):
            found["roles"] = {
                role: output.signature_name or output.name for role, output in self.roles.items()
            }
        return found


def annotate_file(
    wanted: Wanted, output: Path, on_event: OnEvent | None = None, *, force: bool = False
) -> Annotated:
    """Do :func:`annotate` with the user's own store."""
    store = Store(Store.default_root())
    store.sweep()
    return annotate(Project.find(), store, wanted, output, on_event or _silent, force=force)


def _silent(event: str, **fields: Any) -> None:
    pass


def annotate(
    project: Project,
    store: Store,
    wanted: Wanted,
    output: Path,
    on_event: OnEvent,
    *,
    force: bool = False,
) -> Annotated:
    """Write ``wanted.file`` with metadata to ``output``, and a record beside it.

    Args:
        force: replace metadata that the file has already, and files that exist.

    Raises:
        UsageError: a file cannot be read or written, exists, or has metadata already; the
            normalisation is missing; or see :func:`kiln.building.annotation_request.check`.
        UnsupportedModelError: the file is damaged, is no detector, or cannot be rewritten.
        LabelMapError: the label map cannot be read, or has another number of classes.
        KilnError: the engine or the image failed.
    """
    check(wanted)
    record_path = output.with_name(output.name + RECORD_SUFFIX)
    for path in (output, record_path):
        check_target(path, force)
    file = load(wanted.file)
    feeding = feeding_of(wanted)
    packs_feeding = any(item.name == FEEDING_FILE for item in file.packing.files)
    notes = _replaced(file, force)
    if feeding is None and wanted.source is None and packs_feeding:
        notes += (f"how to feed {file.name} is no longer said in it: --fit says it",)
    known = _known(file, wanted)
    if known.classes_from == LABEL_MAP:
        notes += (
            f"{file.name} does not say how many classes it scores: taken to be "
            f"{known.classes}, as the label map has them",
        )
    params = {
        **known.params(),
        **_texts(wanted.texts, proved=wanted.source is not None),
        "score_threshold": wanted.score_threshold,
        **({} if feeding is None else {"feeding": feeding}),
    }
    ready = None
    if wanted.source is not None:
        ready = prepare(project, store, file, wanted.source, wanted.label_map)
        notes += ready.notes
    locked = locked_image(project.docker, IMAGE if ready is None else ready.recipe.image)
    code, model = read_stage_code(project.stages, store), store.add_bytes(file.data)
    with reading():
        labels = store.add_file(wanted.label_map.resolve())
    if ready is None:
        plan = _alone(wanted.file, model, labels, params, locked, code)
    else:
        plan = ready.plan(model, params, locked.identity, code)
    results = _run(project, store, plan, on_event)
    (step_id,) = plan.artefacts.values()
    digest = results[step_id].files["model.tflite"].sha256
    data = store.read(digest, f"{file.name} with metadata")
    check_unchanged(file, data)
    report = None if ready is None else ready.report(plan, results, store)
    record = {
        **_record(known, results[step_id].facts, locked, code.digest),
        "proof": facts.NO_PROOF if report is None else report,
        "source": None if ready is None else ready.record,
        "file": {"name": output.name, "sha256": digest, "size": len(data)},
        "made_from": {"name": wanted.file.name, "sha256": file.sha256, "size": len(file.data)},
        "label_map": {"name": wanted.label_map.name, "sha256": labels},
    }
    write(record_path, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
    write(output, data)
    proof = f"{facts.NO_PROOF}: not compared with a source model"
    if report is not None:
        proof = verdict.one_line(report)
    return Annotated(output, record_path, record, proof, notes)


# --- what can be refused at once ---------------------------------------------------------------


def _replaced(file: TfliteFile, force: bool) -> tuple[str, ...]:
    """Return notes about what will be replaced.

    Raises:
        UsageError: there is something, and it may not be.
    """
    entry = stage_module("tflite.tflite_meta").ENTRY
    there = ["metadata"] * (entry in file.model.metadata)
    there += sorted(item.name for item in file.packing.files)
    if not there and not file.packing.problem:
        return ()
    first, last = ", ".join(there[:-1]), "".join(there[-1:])
    what = " and ".join(filter(None, (first, last))) or "something behind its FlatBuffer"
    if not force:
        raise UsageError(
            f"{file.name} holds {what} already.",
            "Look at it with `kiln inspect`; --force replaces it.",
        )
    return (f"{file.name}: {what} replaced",)


def _known(file: TfliteFile, wanted: Wanted) -> _Known:
    """Derive what the graph tells of a detector, and check what was given.

    Raises:
        UsageError, UnsupportedModelError, LabelMapError: see :func:`annotate`.
    """
    _refuse_raw(file)
    options = facts.postprocessing(file)
    architecture = "centernet" if options is None else "ssd"
    if options is not None:
        _rows(file, options)
    normalization, origin = _normalization(file, wanted)
    roles, roles_from = _roles(file, architecture, wanted.roles)
    said = None if options is None else options.get("num_classes")
    highest = _highest_id(wanted.label_map)
    if isinstance(said, int) and highest != said:
        raise LabelMapError(
            f"{wanted.label_map} names classes up to {highest}, but {file.name} scores {said} "
            "(its detection operator says so).",
            "Give the label map that the model was trained with: its highest id is the number of "
            "classes.",
        )
    classes_from = OPERATOR if isinstance(said, int) else LABEL_MAP
    return _Known(architecture, roles, roles_from, highest, classes_from, normalization, origin)


def _rows(file: TfliteFile, options: Mapping[str, Any]) -> int:
    """Return how many detections the detection operator has room for.

    Raises:
        UnsupportedModelError: its options do not tell.
    """
    counts = [options.get(name) for name in ("max_detections", "max_classes_per_detection")]
    rows = math.prod(one if type(one) is int and one > 0 else 0 for one in counts)
    if not 0 < rows <= _MOST_ROWS:
        raise _not_a_detector(
            file,
            f"the options of {POSTPROCESS} do not tell how many detections it has",
        )
    return rows


def _refuse_raw(file: TfliteFile) -> None:
    if not is_raw(file):
        return
    reason = "its outputs are raw boxes and scores, and clients read boxes, classes, scores, count"
    if says_how_to_decode(file):
        raise UnsupportedModelError(
            f"{file.name} cannot be described as a detector: {reason}.",
            "It says by itself how they are decoded (docs/raw-outputs.md), and has its labels: "
            "keep it as it is.",
        )
    raise _not_a_detector(file, reason)


def _highest_id(label_map: Path) -> int:
    with reading():
        check_labels(label_map, None)
        with told_by_stages():
            items = stage_module("files.labelmap").load(label_map).items
    return max(int(item.id) for item in items)


def _roles(
    file: TfliteFile, architecture: str, given: Mapping[str, str]
) -> tuple[Mapping[str, Any], str]:
    """Return the output of each role, and where that is known from."""
    module = stage_module("tflite.output_roles")
    outputs = [file.graphs[0].tensors[index] for index in file.graphs[0].outputs]
    types = [type_name(tensor) for tensor in outputs]
    if types != ["float32"] * len(module.ROLES):
        raise _not_a_detector(
            file,
            f"its outputs are {', '.join(types) or 'none'}; clients read four in float32: "
            "boxes, classes, scores and their count",
        )
    signature = facts.signature_names(file)[1].values()
    origin = OPERATOR if architecture == "ssd" else GRAPH
    chosen: dict[str, str] | None = None
    if given:
        origin, chosen = GIVEN, dict(given)
    elif architecture != "ssd" and sorted(signature) == sorted(module.ROLES):
        origin, chosen = SIGNATURE, {role: role for role in module.ROLES}
    try:
        return module.derive(file.model, architecture, chosen), origin
    except stage_module("protocol.failures").StageError as error:
        raise UnsupportedModelError(
            f"{file.name}: {error.message}",
            "Name them: --roles boxes=NAME,classes=NAME,scores=NAME,count=NAME, with names of "
            "outputs as `kiln inspect` shows them.",
        ) from None


def _normalization(file: TfliteFile, wanted: Wanted) -> tuple[dict[str, list[float]], str]:
    """Return the normalisation that the metadata will declare, and where it is known from."""
    tensors = [file.graphs[0].tensors[index] for index in file.graphs[0].inputs]
    shapes = " and ".join(str(list(tensor.shape)) for tensor in tensors) or "none"
    good = len(tensors) == 1 and len(tensors[0].shape) == 4 and min(tensors[0].shape) > 0
    if not good or (tensors[0].shape[0], tensors[0].shape[3]) != (1, 3):
        raise _not_a_detector(
            file, f"its inputs are {shapes}; one of [1, height, width, 3] is read"
        )
    kind = type_name(tensors[0])
    if kind not in ("float32", "uint8"):
        raise _not_a_detector(file, f"its input is {kind}; clients feed float32 and uint8 only")
    if wanted.source is not None:
        if wanted.mean is not None:
            raise UsageError(
                "--mean and --std cannot be combined with --checkpoint.",
                "Leave them out: they are measured from the model's own preprocessing.",
            )
        return {}, CHECKPOINT
    if wanted.mean is not None and wanted.std is not None:
        channels = max(len(wanted.mean), len(wanted.std))
        mean, std = (list(part) * (channels // len(part)) for part in (wanted.mean, wanted.std))
        if kind == "uint8":
            _check_pixels(file, tensors[0].quantization, mean, std)
        return {"mean": mean, "std": std}, GIVEN
    if kind == "uint8":
        return _of_raw_pixels(file, tensors[0].quantization), QUANTIZATION
    raise UsageError(
        f"{file.name} has a float input, and its graph does not say how pixels are scaled for it.",
        "Give what the model was trained with: --mean 127.5 --std 127.5 (-1 to 1: MobileNet), "
        "--mean 0 --std 255 (0 to 1), --mean 0 --std 1 (the graph takes raw pixels: CenterNet), "
        "--mean 123.675,116.28,103.53 --std 58.395,57.12,57.375 (EfficientDet, ResNet).",
    )


def _of_raw_pixels(file: TfliteFile, quantization: Any) -> dict[str, list[float]]:
    """Return the normalisation that a uint8 input's own quantisation is."""
    if quantization is None or not quantization.scale:
        return {"mean": [0.0], "std": [1.0]}  # the graph converts the pixels itself
    zero_points = quantization.zero_point or (0,)
    if len(quantization.scale) != 1 or len(zero_points) != 1 or not quantization.scale[0] > 0:
        raise _not_a_detector(file, "its input is quantised in a way that no metadata describes")
    # Six digits: the scale is a float32.
    return {"mean": [float(zero_points[0])], "std": [float(f"{1 / quantization.scale[0]:.6g}")]}


def _check_pixels(file: TfliteFile, quantization: Any, mean: list[float], std: list[float]) -> None:
    if quantization is None or not quantization.scale:
        return
    stage = stage_module("steps.annotate")
    error = stage.pixel_error(quantization, tuple(mean), tuple(std))
    if not error <= stage.PIXEL_LIMIT:
        raise UsageError(
            f"The uint8 input of {file.name} reads raw pixels up to {error:.1f} pixel values away "
            "from that mean and standard deviation.",
            "Leave out --mean and --std: the input's quantisation says them.",
        )


def _texts(given: Mapping[str, str], *, proved: bool) -> dict[str, str]:
    """Return the texts of the metadata; the description says if nothing was proved."""
    default = stage_module("steps.annotate").PARAMS
    names = ("name", "description", "version", "author", "license")
    texts = {name: given.get(name) or str(default[name]) for name in names}
    if not proved:
        texts["description"] += f" {facts.UNPROVED}"
    for name, text in texts.items():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(
                f"--{name} {os.fsencode(text)!r} is not text in UTF-8.", "Use another text."
            ) from None
    return texts


# --- running the stage -------------------------------------------------------------------------


def _alone(
    file: Path, model: str, labels: str, params: Mapping[str, Any], locked: Locked, code: StageCode
) -> Plan:
    """Plan the one stage that writes metadata."""
    inputs = {"model": Files({"": model}), "label_map": Files({"": labels})}
    step = lone_step(STEP, "annotate", params, inputs, image=locked.identity, code=code)
    name = f"annotate-{slugify(file.stem) or 'model'}"
    return Plan(name, locked.name, (step,), {STEP: STEP}, (), locked.identity, code)


def _run(
    project: Project, store: Store, plan: Plan, on_event: OnEvent
) -> Mapping[str, StageResult]:
    """Run the plan in its sealed image."""
    engines: list[Any] = []

    def engine() -> Any:
        from kiln.running.engine import Engine

        if not engines:
            engines.append(Engine.find())
            engines[0].sweep()
        return engines[0]

    def image() -> str:
        from kiln.images.builder import Images

        return Images(project.docker, engine, store, on_event).ensure(plan.image).tag

    shared = shared_results(store, lambda text: on_event("note", message=text))
    runner = Runner(engine, store, project.stages, on_event, shared=shared)
    return runner.run(plan, Limits(), image, facts=plan.ids())


def check_unchanged(file: TfliteFile, data: bytes) -> None:
    """Refuse a result whose graph or weights are not the given file's.

    The shapes of the detection operator's outputs may be others: the stage writes them.
    tflite-support writes the whole FlatBuffer anew, and leaves out what its schema does not have:
    parts of TFLite that are newer than it.

    Raises:
        UnsupportedModelError: they are not.
    """
    found = diff.compare(file.data, data)
    if not (found.same_model or _only_shapes(found)):
        raise UnsupportedModelError(
            f"Metadata cannot be written into {file.name} without changing it: {found.verdict}.",
            "It uses a newer form of TFLite than tflite-support can write. Convert the model with "
            "an older converter, or from its checkpoint with `kiln convert`.",
        )


def _only_shapes(found: diff.Difference) -> bool:
    """Whether nothing differs but the outputs' shapes, which are those of the operator's options.

    The options are decoded here by other code than the stage's.
    """
    options, graph = facts.postprocessing(found.b), found.b.graphs[0]
    graphs = [part for part in found.sections if part.name in (*GRAPH_SECTIONS, "weights")]
    quantised = any(part.name == "quantisation" for part in found.sections)
    if options is None or quantised or {part.name for part in graphs} - {"interface", "tensors"}:
        return False
    names = {graph.tensors[index].name for index in graph.outputs}
    for item in (item for part in graphs for item in part.items):
        what = item.data["what"]
        if not (what == "shape" and item.data["tensor"] in names) and not (
            what.startswith("output ") and what.endswith(" shape")
        ):
            return False
    rows = _rows(found.b, options)
    wanted = {"boxes": (1, rows, 4), "classes": (1, rows), "scores": (1, rows), "count": (1,)}
    roles = facts.graph_roles(found.b)
    stated = {roles.get(n): graph.tensors[index].shape for n, index in enumerate(graph.outputs)}
    return stated == wanted


def _record(
    known: _Known, facts_of_file: Mapping[str, Any], locked: Locked, code: str
) -> dict[str, Any]:
    normalization, feeding = facts_of_file["normalization"], facts_of_file["feeding"]
    origin = CHECKPOINT if known.normalization_from == CHECKPOINT else GIVEN
    return {
        "schema": 1,
        "kiln": __version__,
        "classes": {"count": known.classes, "from": known.classes_from},
        "normalization": {
            "mean": normalization["mean"],
            "std": normalization["std"],
            "from": known.normalization_from,
        },
        "feeding": None if feeding is None else {**feeding, "from": origin},
        "roles": {
            **{role: output.position for role, output in known.roles.items()},
            "from": known.roles_from,
        },
        "image": {"name": locked.name, "identity": locked.identity},
        "stage_code": code,
    }


def _not_a_detector(file: TfliteFile, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{file.name} cannot be described as a detector: {reason}.",
        "Export it with its post-processing, for single RGB images.",
    )
