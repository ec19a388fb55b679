"""Read an untrusted ``dist`` as plain data, and report what is missing or damaged."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kiln.core.digest import sha256_bytes, sha256_file
from kiln.core.errors import UsageError
from kiln.core.untrusted import MalformedError, read_file
from kiln.page.accuracy import Accuracy, find
from kiln.page.records import Record, load, number
from kiln.project import bounds
from kiln.project.stagecode import stage_module
from kiln.tflite import packing
from kiln.tflite.facts import picture_size
from kiln.tflite.feeding import FEEDING_FILE, Feeding, stated
from kiln.tflite.known_kinds import ETHOS_U
from kiln.tflite.reading import read_metadata, read_model

CONVERSION_FILE, CHECKS_FILE = "conversion.json", "checks.json"
LATENCY_FILE, ACCURACY_FILE = "latency.json", "accuracy.json"
LABEL_FILE, KEY_FILE, SIGNATURE_FILE = "labelmap.txt", "kiln.pub", "model.sig"

#: Order of variants after the default one; others follow by name.
_ORDER = ("float32", "float16", "dynamic", "int8", "int16x8", "prebuilt")
#: Order of gates; unknown ones follow.
_GATES = (
    "structure", "parity", "normalization", "feeding", "labels", "trained",
    "runtime-tensorflow", "runtime-task-library", "runtime-litert", "runtime-mediapipe",
    "compiled",
)  # fmt: skip

#: Limits on what the page shows of one model. A recipe makes six files; some forty images are
#: checked, with a hundred detections at most. All of them are compared with each other.
_MOST_VARIANTS, _MOST_PICTURES, _MOST_DETECTIONS = 20, 200, 200
_MAX_SIDE = 65_535  # JPEG's own limit, in pixels
_SHA256 = re.compile(r"[0-9a-f]{64}")

Detection = dict[str, Any]
"""``box`` [ymin, xmin, ymax, xmax] (fractions of the image), ``score``, ``class_id``, ``label``."""


@dataclass(frozen=True)
class Problem:
    """A problem that a gate found, as the check describes it."""

    code: str
    expected: str
    seen: str
    cause: str


@dataclass(frozen=True)
class Gate:
    """One check of one file; ``status`` is passed, failed, allowed, skipped, or unknown."""

    name: str
    status: str
    summary: str
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Latency:
    """Duration of one inference, in milliseconds."""

    median_ms: float
    p90_ms: float | None
    min_ms: float | None
    runs: int | None
    threads: int | None
    runtime: str
    cpu: str


@dataclass(frozen=True)
class Variant:
    """One artefact.

    Attributes:
        name: ``float32``, ``int8``, ...
        default: whether it is the default variant.
        sha256: of the present file; empty if there is none.
        notes: problems of the file or its records, as sentences.
        model: its ``stages.tflite.tflite_model.Model``, and ``metadata`` its
            ``stages.tflite.tflite_meta.Metadata``; ``None`` if it cannot be read (a note says
            why).
        feeding: how pictures become its input, as the file states it; ``None`` if it does not.
        fits: agreement with the source model by the way of feeding, from the gate ``feeding``.
        passed: whether it passed its checks; ``None`` if it was not checked.
        detections: by image name; empty if it was not checked.
        figures: of the parity gate, by name.
    """

    name: str
    file: str
    default: bool
    size: int | None
    sha256: str
    notes: tuple[str, ...] = ()
    model: Any = None
    metadata: Any = None
    feeding: Feeding | None = None
    fits: dict[str, float] = field(default_factory=dict)
    passed: bool | None = None
    gates: tuple[Gate, ...] = ()
    detections: dict[str, list[Detection]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    latency: Latency | None = None

    @property
    def raw(self) -> bool:
        """Whether its outputs are raw boxes and scores, which a program has to decode."""
        outputs = () if self.metadata is None else self.metadata.outputs
        raw_boxes = stage_module("tflite.tflite_meta").RAW_BOXES
        return any(output.name == raw_boxes for output in outputs)

    @property
    def for_npu(self) -> bool:
        """Whether only an Ethos-U runs it."""
        graphs = () if self.model is None else self.model.subgraphs
        return any(item.custom == ETHOS_U for graph in graphs for item in graph.operators)

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of its input; ``None`` if that is no picture, or cannot be read."""
        return None if self.model is None else picture_size(self.model)

    @property
    def how_to_feed(self) -> str:
        """How pictures become its input, in words; "" if the file does not say it."""
        if self.input_size is None or self.feeding is None:
            return ""
        height, width = self.input_size
        words = self.feeding.words(f"{width} × {height}").replace("'", "’")
        return words[0].upper() + words[1:]

    @property
    def verdict(self) -> tuple[str, str]:
        """Its status over all gates, and the text for it."""
        if self.passed is None:
            return "skipped", "not checked"
        if not self.passed:
            return "failed", "failed"
        if any(gate.status == "allowed" for gate in self.gates):
            return "allowed", "passed with allowed faults"
        return "passed", "passed"


@dataclass(frozen=True)
class Picture:
    """A check image: size in pixels, and its preview as a data URI (empty where ``problem``)."""

    name: str
    width: int
    height: int
    uri: str
    problem: str = ""


@dataclass(frozen=True)
class Model:
    """One model folder; variants have the default one first.

    Attributes:
        problems: problems of the folder's own files, as sentences.
        source: the source model's detections by image name, or ``None``.
        checked: whether there is a readable ``checks.json``.
        signed_by: the key that ``model.sig`` names, unverified.
    """

    name: str
    title: str
    conversion: Record
    checks: Record
    checked: bool
    problems: tuple[str, ...]
    variants: tuple[Variant, ...]
    pictures: tuple[Picture, ...]
    source: dict[str, list[Detection]] | None
    score_threshold: float
    signed_by: str
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Release:
    """All of ``dist``; ``key_id`` is that of its ``kiln.pub`` (empty if there is none)."""

    models: tuple[Model, ...]
    key_id: str


def read_release(dist: Path) -> Release:
    """Read ``dist``.

    Raises:
        UsageError: it is not a folder, or holds no model.
    """
    try:
        folders = sorted(
            path
            for path in dist.iterdir()
            if not path.is_symlink() and (path / CONVERSION_FILE).is_file()
        )
    except OSError as error:
        raise UsageError(
            f"{dist} cannot be read: {error.strerror or error}.",
            "Name the dist folder that `kiln build` wrote.",
        ) from None
    if not folders:
        raise UsageError(
            f"{dist} holds no model: there is nothing to show.",
            "Name the dist folder that `kiln build` wrote.",
        )
    latency, accuracy = (load(dist / name)[0] for name in (LATENCY_FILE, ACCURACY_FILE))
    return Release(
        tuple(_model(folder, latency, accuracy) for folder in folders),
        _key_id(dist / KEY_FILE),
    )


def _key_id(path: Path) -> str:
    try:
        return sha256_bytes(read_file(path, bounds.KEY.most))
    except (OSError, MalformedError):
        return ""


def _model(folder: Path, latency: Record, accuracy: Record) -> Model:
    conversion, wrong = load(folder / CONVERSION_FILE)
    problems = [f"{CONVERSION_FILE} {wrong}."] if wrong else []
    checks, missing = load(folder / CHECKS_FILE)
    if missing and missing != "is not there":
        problems.append(f"{CHECKS_FILE} {missing}.")
    names = sorted({name for name, _ in conversion.records("artefacts")}, key=_rank)
    problems += _too_many(names, checks)
    names = names[:_MOST_VARIANTS]
    default = conversion.text("default_variant") or (names[0] if len(names) == 1 else "")
    names.sort(key=lambda name: name != default)
    variants = tuple(
        _variant(folder, name, name == default, conversion, checks, latency, accuracy)
        for name in names
    )
    source = checks.raw("source", "detections")
    threshold = checks.number("score_threshold")
    return Model(
        name=folder.name,
        title=conversion.text("title") or folder.name,
        conversion=conversion,
        checks=checks,
        checked=not missing,
        problems=tuple(problems),
        variants=variants,
        pictures=tuple(_pictures(folder, checks)),
        source=_detections(source) if isinstance(source, dict) else None,
        score_threshold=threshold if threshold is not None and 0 <= threshold <= 1 else 0.3,
        signed_by=_signed_by(folder / SIGNATURE_FILE),
        files=tuple(_files(folder)),
    )


def _rank(name: str) -> tuple[int, str]:
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER)), name


def _variant(
    folder: Path,
    name: str,
    default: bool,
    conversion: Record,
    checks: Record,
    latency: Record,
    accuracy: Record,
) -> Variant:
    recorded = conversion.record("artefacts", name)
    checked = checks.record("variants", name)
    file = recorded.text("file")
    path = _inside(folder, file)
    if path is None:
        notes = [f"{file or 'Its file'} is not in the folder."]
        size, digest, inside = None, "", _Inside()
    else:
        size, digest = path.stat().st_size, sha256_file(path)
        inside = _look_inside(path)
        notes = list(inside.notes)
        if digest != recorded.text("sha256"):
            notes.append(f"The file is not the one that {CONVERSION_FILE} describes.")
    if checked and checked.text("sha256") != digest:
        notes.append("The checks were made on other bytes than these.")
    passed = checked.raw("passed")
    gates = tuple(
        sorted(
            (_gate(Record(item)) for item in checked.list("gates") if isinstance(item, dict)),
            key=lambda gate: _GATES.index(gate.name) if gate.name in _GATES else len(_GATES),
        )
    )
    return Variant(
        name=name,
        file=file,
        default=default,
        size=size,
        sha256=digest,
        notes=tuple(notes),
        model=inside.model,
        metadata=inside.metadata,
        feeding=inside.feeding,
        fits=_figures(checked, "feeding"),
        passed=passed if isinstance(passed, bool) else None,
        gates=gates,
        detections=_detections(checked.raw("detections")),
        figures=_figures(checked, "parity"),
        accuracy=find(accuracy, folder.name, name, digest),
        latency=_latency(latency, folder.name, name, digest),
    )


def _inside(folder: Path, name: str) -> Path | None:
    """Return the regular file ``name`` directly in ``folder``, else None; ``name`` is untrusted."""
    path = folder / name
    try:
        fine = bool(name) and Path(name).name == name and not path.is_symlink() and path.is_file()
    except (OSError, ValueError):  # no file system takes such a name
        return None
    return path if fine else None


def _why(error: OSError | MalformedError) -> str:
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


class _Inside(NamedTuple):
    """The contents of a file: see :class:`Variant`."""

    model: Any = None
    metadata: Any = None
    feeding: Feeding | None = None
    notes: tuple[str, ...] = ()


def _look_inside(path: Path) -> _Inside:
    try:
        data = read_file(path, bounds.ARTEFACT.most)
        _, model = read_model(data)
        metadata = read_metadata(model)
    except OSError as error:
        return _Inside(notes=(f"The file cannot be read: {error.strerror or error}.",))
    except MalformedError as error:
        return _Inside(notes=(f"The file {error}.",))
    except ValueError as error:  # FlatError is one
        return _Inside(notes=(f"The file cannot be read: {error}.",))
    notes: tuple[str, ...] = ()
    if metadata is None:
        notes = ("The file carries no metadata.",)
    feeding = None
    try:
        feeding = stated(packing.read(data).files)
    except MalformedError as error:
        notes += (f"How to feed it cannot be read: {FEEDING_FILE} {error}.",)
    # A view would keep the whole file in memory, and a page shows many files.
    model = dataclasses.replace(model, buffers=(), metadata={})
    return _Inside(model, metadata, feeding, notes)


def _figures(checked: Record, gate: str) -> dict[str, float]:
    """Return the numbers among a gate's figures."""
    for item in checked.list("gates"):
        if isinstance(item, dict) and item.get("gate") == gate:
            fields = Record(item).record("figures").fields()
            return {key: value for key, raw in fields.items() if (value := number(raw)) is not None}
    return {}


def _gate(item: Record) -> Gate:
    problems = (Record(problem) for problem in item.list("problems"))
    return Gate(
        item.text("gate", default="unnamed"),
        item.text("status", default="unknown"),
        item.text("summary"),
        tuple(
            Problem(p.text("code"), p.text("expected"), p.text("seen"), p.text("cause"))
            for p in problems
            if p
        ),
    )


def _detections(images: Any) -> dict[str, list[Detection]]:
    """Return the valid detections of each image; only the best if there are too many."""
    found = {}
    for name, items in Record(images).fields().items():
        if isinstance(items, list):
            sound = [one for item in items if (one := _detection(Record(item)))]
            if len(sound) > _MOST_DETECTIONS:
                sound = sorted(sound, key=lambda one: -one["score"])[:_MOST_DETECTIONS]
            found[name] = sound
    return found


def _too_many(variants: list[str], checks: Record) -> list[str]:
    """Describe what the page leaves out of a model's records."""
    said = [checks.raw("source", "detections")]
    said += [record.raw("detections") for _, record in checks.records("variants")]
    most = max(
        (len(found) for images in said for found in Record(images).fields().values()
         if isinstance(found, list)),
        default=0,
    )  # fmt: skip
    what = (
        (len(variants), _MOST_VARIANTS, f"files in {CONVERSION_FILE}"),
        (len(checks.record("images").fields()), _MOST_PICTURES, f"images in {CHECKS_FILE}"),
        (most, _MOST_DETECTIONS, "detections in one image"),
    )
    return [
        f"There are {there:,} {things}: more than {bound} are not shown."
        for there, bound, things in what
        if there > bound
    ]


def _detection(item: Record) -> Detection | None:
    box = [number(value) for value in item.list("box")]
    score, class_id = item.number("score"), item.number("class_id")
    if len(box) != 4 or None in box or score is None or class_id is None:
        return None
    class_number = int(class_id)
    return {
        "box": box,
        "score": score,
        "class_id": class_number,
        "label": item.text("label") or f"class {class_number}",
    }


def _latency(latency: Record, model: str, variant: str, digest: str) -> Latency | None:
    for item in latency.list("runs"):
        run = Record(item)
        median = run.number("median_ms")
        # A time measured on other bytes does not apply to these.
        same = (run.text("model"), run.text("variant"), run.text("sha256"))
        if same == (model, variant, digest) and median is not None:
            runs, threads = run.number("runs"), run.number("threads")
            return Latency(
                median,
                run.number("p90_ms"),
                run.number("min_ms"),
                None if runs is None else int(runs),
                None if threads is None else int(threads),
                run.text("runtime"),
                run.text("cpu"),
            )
    return None


def _pictures(folder: Path, checks: Record) -> Iterator[Picture]:
    for name, image in itertools.islice(checks.records("images"), _MOST_PICTURES):
        width, height = image.number("width") or 0, image.number("height") or 0
        if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
            yield Picture(name, 0, 0, "", f"{CHECKS_FILE} does not say how large it is")
            continue
        uri, problem = _preview(folder, image.text("preview"))
        yield Picture(name, int(width), int(height), uri, problem)


def _preview(folder: Path, relative: str) -> tuple[str, str]:
    parts = relative.split("/")
    path = _inside(folder / parts[0], parts[1]) if len(parts) == 2 else None
    if path is None or parts[0] != "previews" or (folder / parts[0]).is_symlink():
        return "", "its preview is not in the folder"
    try:
        data = read_file(path, bounds.PREVIEW.most)
    except (OSError, MalformedError) as error:
        return "", f"its preview {_why(error)}"
    if not data.startswith(b"\xff\xd8\xff"):
        return "", "its preview is not a JPEG"
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}", ""


def _signed_by(path: Path) -> str:
    bundle, _ = load(path)
    hint = bundle.text("verificationMaterial", "publicKey", "hint")
    return hint if _SHA256.fullmatch(hint) else ""


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the files in the folder with their SHA-256, without previews (there are many)."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.is_symlink():
            yield path.name, sha256_file(path)
