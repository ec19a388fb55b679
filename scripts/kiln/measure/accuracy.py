"""Measure COCO's AP of a source model and of its artefacts: the cost of conversion on real data.

Images are taken by file name, :data:`CHUNK` at a time. Running one subject (the source or a
variant) on one chunk is a step like those of a build: its key is made of the image's identity, the
stage code, the subject and the images' digests, and its result is in the store. So an interrupted
measurement resumes, and a repeated one runs nothing.

The images are never in the store: a container gets copies while it runs (``lent`` of
:class:`kiln.running.executor.Runner`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kiln.building.build import Builder
from kiln.core.digest import key_of, sha256_file, tree_digest
from kiln.core.errors import (
    CheckFailedError,
    LabelMapError,
    StageFailedError,
    UsageError,
    error_for_kind,
)
from kiln.core.stage_result import StageResult
from kiln.core.untrusted import MalformedError, parse_json_object
from kiln.images.lock import locked_image
from kiln.measure import accuracy_record, coco, scoring
from kiln.measure.coco import DataSet, Matching, Picture
from kiln.measure.scoring import DETECTIONS, Scores
from kiln.project import bounds
from kiln.project.stagecode import stage_module
from kiln.recipes.check_steps import only_exported, reference_stage
from kiln.recipes.plan import Files, Plan, Step, make_plan
from kiln.recipes.recipe import ImageName, Recipe, Variant
from kiln.recipes.steps import lone_step
from kiln.running.executor import OnEvent, Runner
from kiln.running.limits import Limits, limits_of
from kiln.signing.statement_names import artefact_file
from kiln.sources.fetcher import Options
from kiln.sources.model import Acquired, acquire

#: The name of the model before conversion in results.
SOURCE = "source"

#: Images a step. Each container starts with 6 to 9 s for TensorFlow and the checkpoint, 4 to 10 %
#: of a chunk for the samples (docs/accuracy.md). An interruption loses one step: some minutes.
CHUNK = 250

#: The image that runs all artefacts: the one with the newer TensorFlow. The interpreter of the
#: other (2.8) takes 2 s an image for a quantised EfficientDet-Lite0, this one 0.04 s.
DETECT_IMAGE: ImageName = "odapi"

#: Allowed difference of expected and measured AP where the recipe states none.
TOLERANCE = 0.01

#: Allowed deviation of the aspect ratio from the annotated one: rounding of a resized copy.
_RATIO = 0.02

#: Reading an image takes milliseconds; an event for each would flood the output.
_TELL_EVERY = 20

#: Kind of the store's ref that lists the damaged images of a chunk.
_CHECKED = "checked-images"

_DETECTIONS_FILE = "detections.json"


@dataclass(frozen=True)
class Measured:
    """The figures of one subject; ``expected`` is the AP that the recipe states, if it does."""

    what: str
    scores: Scores
    expected: float | None = None
    artefact: str | None = None


@dataclass(frozen=True)
class Report:
    """The result of a measurement, the source first.

    Attributes:
        model: its name.
        name: the data set's.
        annotations: SHA-256 of the annotation file.
        pictures: one digest for the images measured: their names and the digests of their files.
        images: how many were measured.
        all_images: how many the data set has.
        skipped: how many of the chosen ones were missing or damaged.
        categories: how many of the data set's the model knows; the figures are of these.
        all_categories: how many the data set has.
        tolerance: allowed deviation from ``expected``.
    """

    model: str
    name: str
    annotations: str
    pictures: str
    images: int
    all_images: int
    skipped: int
    categories: int
    all_categories: int
    measured: tuple[Measured, ...]
    tolerance: float = TOLERANCE

    def as_json(self) -> dict[str, Any]:
        """Return plain data, as ``--save`` writes it."""
        return {
            "schema": 1,
            "model": self.model,
            "dataset": self.data_set(),
            "artefacts": {m.what: m.artefact for m in self.measured if m.artefact},
            "results": {m.what: asdict(m.scores) for m in self.measured},
        }

    def data_set(self) -> dict[str, Any]:
        """Describe the data set as plain data."""
        return {
            "name": self.name,
            "annotations_sha256": self.annotations,
            "images_sha256": self.pictures,
            "images": self.images,
            "all_images": self.all_images,
            "skipped": self.skipped,
            "categories": self.categories,
            "all_categories": self.all_categories,
        }

    def entries(self) -> list[accuracy_record.Entry]:
        """Return the entries of the measured artefacts for ``dist/accuracy.json``."""
        source = next((m for m in self.measured if m.what == SOURCE), None)
        return [
            accuracy_record.Entry(
                model=self.model,
                variant=item.what,
                file=artefact_file(self.model, item.what),
                sha256=item.artefact,
                dataset=self.data_set(),
                source=None if source is None else asdict(source.scores),
                result=asdict(item.scores),
            )
            for item in self.measured
            if item.artefact
        ]

    def difference(self, item: Measured) -> float | None:
        """Return AP of ``item`` minus that of the source; None without a source or for itself."""
        source = next((m for m in self.measured if m.what == SOURCE), None)
        if source is None or item is source:
            return None
        return item.scores.ap - source.scores.ap

    def judge(self) -> None:
        """Check every AP against the expected one, where there is one.

        Raises:
            CheckFailedError: one is further from it than the tolerance.
        """
        wrong = [
            f"{m.what}: expected {m.expected:.3f}, measured {m.scores.ap:.3f}"
            for m in self.measured
            if m.expected is not None and abs(m.scores.ap - m.expected) > self.tolerance
        ]
        if not wrong:
            return
        causes = []
        if self.images < self.all_images:
            causes.append(f"only {self.images} of the data set's {self.all_images} images measured")
        causes += ["another data set", "another image size (export.image_size)"]
        raise CheckFailedError(
            f"{self.model}: AP is not as its recipe expects (tolerance {self.tolerance:g}): "
            f"{'; '.join(wrong)}.",
            f"Likely causes: {', '.join(causes)}. If the new figures are right, put them into "
            "check.ap of the recipe.",
        )


@dataclass(frozen=True)
class _Chunk:
    number: int
    digests: Mapping[Picture, str]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(self.digests)

    @property
    def images(self) -> Files:
        return Files({picture.name: digest for picture, digest in self.digests.items()})


@dataclass(frozen=True)
class _Thing:
    """A subject that detects: its stage, where the stage runs, and its input."""

    name: str
    image: ImageName
    stage: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Files]
    artefact: str | None = None


@dataclass
class Accuracy:
    """Measures one model on one data set.

    Args:
        builder: has project, store and engine, and receives events. Its ``dist`` is not used.
        published: measure the files of this release instead of converting.
        chunk: images a step.
    """

    builder: Builder
    published: Path | None = None
    chunk: int = CHUNK
    _notes: set[str] = field(default_factory=set)

    def measure(
        self,
        recipe: Recipe,
        data: DataSet,
        variants: Sequence[Variant] = (),
        *,
        archive: Path | None = None,
        images: int | None = None,
    ) -> Report:
        """Convert the model if necessary, run it and its source, and score both.

        Args:
            path: the recipe.
            variants: which ones; all when empty.
            archive: see :class:`kiln.sources.fetcher.Options`.
            images: use only so many, the first by file name.

        Raises:
            KilnError: any failure of a build; LabelMapError where model and data set share no
                class; ImageSetError for a faulty data set.
        """
        options = Options(
            archive=archive,
            on_progress=lambda name, done, total: self.builder.on_event(
                "download", name=name, done=done, total=total
            ),
            on_note=self._note,
        )
        acquired = acquire(recipe, self.builder.store, options)
        wanted = self._wanted(recipe, variants)
        # The data set first: report its faults before minutes of conversion.
        chosen = data.pictures[:images]
        parts = self._chunks(recipe.name, data, chosen)
        results, plan = self._converted(recipe, acquired, wanted)
        matching = coco.match(self._classes(recipe, acquired, results), data.categories)
        self._tell_classes(matching, data)
        things = self._things(recipe, acquired, wanted, results, plan)
        usable = tuple(picture for part in parts for picture in part.pictures)
        found = self._detect(recipe, things, parts, data)
        expected, tolerance = _expected(recipe)
        measured = []
        for thing in things:
            self._note(f"{recipe.name}: scoring {thing.name}")
            seen = [
                detection
                for part in parts
                for detection in self._read(found[thing.name, part.number], part, matching)
            ]
            found_in = scoring.evaluate(usable, data.objects, matching.categories.values(), seen)
            measured.append(
                Measured(thing.name, found_in.scores, expected.get(thing.name), thing.artefact)
            )
        return Report(
            model=recipe.name,
            name=data.name,
            annotations=data.sha256,
            pictures=key_of(
                {p.file: digest for part in parts for p, digest in part.digests.items()}
            ),
            images=len(usable),
            all_images=len(data.pictures),
            skipped=len(chosen) - len(usable),
            categories=len(set(matching.categories.values())),
            all_categories=len(data.categories),
            measured=tuple(measured),
            tolerance=tolerance,
        )

    # -- the model ------------------------------------------------------------------------------

    def _wanted(self, recipe: Recipe, variants: Sequence[Variant]) -> tuple[Variant, ...]:
        if self.published is None:
            return tuple(variants) or recipe.variants
        there = tuple(v for v in recipe.variants if self._published(recipe, v).is_file())
        missing = [variant for variant in variants if variant not in there]
        if missing or not there:
            raise UsageError(
                f"{self.published} holds no {missing[0] if missing else 'artefact'} of "
                f"{recipe.name!r}.",
                f"Published there: {', '.join(there) or 'none'}. Without --dist, what is missing "
                "is converted.",
            )
        return tuple(variants) or there

    def _published(self, recipe: Recipe, variant: Variant) -> Path:
        assert self.published is not None
        return self.published / recipe.name / artefact_file(recipe.name, variant)

    def _converted(
        self, recipe: Recipe, acquired: Acquired, wanted: Sequence[Variant]
    ) -> tuple[dict[str, StageResult], Plan]:
        """Run the build's own steps for the artefacts and for a checkpoint made by a stage."""
        convert: Sequence[Variant] = wanted if self.published is None else ()
        identity = self._identity(recipe.image)
        contents, code = acquired.contents, self._code
        plan = make_plan(recipe, contents, convert, image=identity, code=code, checks=False)
        # Skip the comparison with the publisher's file; always make the checkpoint.
        reports = _source_steps(recipe)
        if not convert and not reports:
            return {}, plan
        plan = replace(plan, reports=reports, artefacts=plan.artefacts if convert else {})
        runner = self._runner(self.builder.on_event)
        with self._lock(f"model-{recipe.name}", recipe):
            return runner.run(plan, limits_of(recipe), lambda: self._tag(recipe.image)), plan

    def _things(
        self,
        recipe: Recipe,
        acquired: Acquired,
        wanted: Sequence[Variant],
        results: Mapping[str, StageResult],
        plan: Plan,
    ) -> list[_Thing]:
        things = []
        if recipe.source.brings == "feature_vector":
            self._note(
                f"{recipe.name}: its source has no prediction heads, so only its artefacts "
                "are measured"
            )
        else:
            things.append(_source(recipe, acquired, results))
        for variant in wanted:
            if self.published is None:
                digest = results[plan.artefacts[variant]].files["model.tflite"].sha256
            else:
                digest = self.builder.store.add_file(self._published(recipe, variant))
            # Every detection: a threshold would cut off the end of the precision-recall curve.
            params = {"max_results": DETECTIONS, "score_threshold": 0}
            model = {"model": Files({"": digest})}
            things.append(_Thing(variant, DETECT_IMAGE, "detect", params, model, digest))
        return things

    def _classes(
        self, recipe: Recipe, acquired: Acquired, results: Mapping[str, StageResult]
    ) -> dict[int, tuple[str, ...]]:
        """Return the label map: class id to its names."""
        digest = acquired.contents.label_map
        if digest is None:
            inside = f"model/{acquired.contents.label_map_path}"
            if inside not in results["checkpoint"].files:
                raise LabelMapError(
                    f"The checkpoint of {recipe.name!r} holds no "
                    f"{acquired.contents.label_map_path}.",
                    "Correct labels.in_source in the recipe, or name a file with labels.file.",
                )
            digest = results["checkpoint"].files[inside].sha256
        failure = stage_module("protocol.failures").StageError
        try:
            items = stage_module("files.labelmap").load(self.builder.store.path(digest))
        except failure as error:
            raise error_for_kind(error.kind)(error.message, error.remedy) from None
        return {item.id: tuple(n for n in (item.label, item.name) if n) for item in items}

    def _tell_classes(self, matching: Matching, data: DataSet) -> None:
        common = len(set(matching.categories.values()))
        text = f"classes measured: {common} of the data set's {len(data.categories)}"
        for what, names in (
            ("the data set lacks", matching.unmeasured),
            ("the model lacks", matching.unknown),
        ):
            if names:
                more = f" and {len(names) - 8} more" if len(names) > 8 else ""
                text += f"; {what} {', '.join(names[:8])}{more}"
        self._note(text)

    # -- the images -----------------------------------------------------------------------------

    def _chunks(self, model: str, data: DataSet, chosen: tuple[Picture, ...]) -> tuple[_Chunk, ...]:
        """Read every image once: digest it, and check that it can be decoded."""
        unusable: dict[str, str] = {}
        parts = []
        done = 0
        for number, pictures in enumerate(coco.chunks(chosen, self.chunk), 1):
            digests: dict[Picture, str] = {}
            for picture in pictures:
                self._progress(model, done, len(chosen), picture.file)
                done += 1
                try:
                    digests[picture] = sha256_file(data.path(picture))
                except FileNotFoundError:
                    unusable[picture.file] = "missing"
                except OSError as error:
                    unusable[picture.file] = error.strerror or str(error)
            damaged = self._damaged(model, data, digests)
            unusable.update({picture.file: why for picture, why in damaged.items()})
            good = {picture: d for picture, d in digests.items() if picture not in damaged}
            if good:
                parts.append(_Chunk(number, good))
        warning = coco.check_usable(unusable, len(chosen), data.folder)
        if warning:
            self._note(f"{model}: warning: {warning}")
        return tuple(parts)

    def _damaged(
        self, model: str, data: DataSet, digests: Mapping[Picture, str]
    ) -> dict[Picture, str]:
        """Find a chunk's images that a stage could not use, and why; cached in the store."""
        described = {p.name: [digest, p.height, p.width] for p, digest in digests.items()}
        name = key_of(
            {"decoder": sha256_file(Path(stage_module("files.pixels").__file__)), **described}
        )
        known = self.builder.store.get_ref(_CHECKED, name)
        if known is None:
            found = {}
            for number, picture in enumerate(digests):
                self._progress(model, number, len(digests), f"decoding {picture.file}")
                if why := _fault(data.path(picture), picture):
                    found[picture.name] = why
            known = {"damaged": found}
            self.builder.store.set_ref(_CHECKED, name, known)
        return {p: known["damaged"][p.name] for p in digests if p.name in known["damaged"]}

    def _progress(self, model: str, done: int, total: int, message: str) -> None:
        if done % _TELL_EVERY:
            return
        self.builder.on_event(
            "stage",
            model=model,
            id="images",
            state="progress",
            done=done,
            total=total,
            message=message,
        )

    # -- detections -----------------------------------------------------------------------------

    def _detect(
        self, recipe: Recipe, things: Sequence[_Thing], parts: Sequence[_Chunk], data: DataSet
    ) -> dict[tuple[str, int], StageResult]:
        """Run each subject on each chunk: one container for each chunk and image."""
        made = {part.number: self._steps(things, part) for part in parts}
        sizes = {s.id: len(part.pictures) for part in parts for s in made[part.number].values()}
        lent = {digest: data.path(p) for part in parts for p, digest in part.digests.items()}
        runner = self._runner(_Overall(self.builder.on_event, sizes).event, lent)
        bounds = _with_time_for(recipe, len(things))
        found = {}
        for part in parts:
            for image in dict.fromkeys(thing.image for thing in things):
                steps = {t.name: made[part.number][t.name] for t in things if t.image == image}
                wanted = {name: step.id for name, step in steps.items()}
                plan = Plan(recipe.name, image, tuple(steps.values()), wanted)
                with self._lock(f"accuracy-{recipe.name}", recipe):
                    results = runner.run(plan, bounds, functools.partial(self._tag, image))
                found.update({(name, part.number): results[i] for name, i in wanted.items()})
        self.builder.on_event("model", model=recipe.name, state="measured")
        return found

    def _steps(self, things: Sequence[_Thing], part: _Chunk) -> dict[str, Step]:
        return {
            thing.name: lone_step(
                f"{thing.name}-{part.number:03}",
                thing.stage,
                thing.params,
                {**thing.inputs, "images": part.images},
                image=self._identity(thing.image),
                code=self._code,
            )
            for thing in things
        }

    def _read(
        self, result: StageResult, part: _Chunk, matching: Matching
    ) -> list[scoring.Detection]:
        blob = result.files[_DETECTIONS_FILE]
        most = bounds.DETECTIONS.most
        try:
            if blob.size > most:
                raise MalformedError(f"is larger than {most:,} bytes")
            data = self.builder.store.read(blob.sha256, _DETECTIONS_FILE)
            images = parse_json_object(data, size=most)["images"]
        except (MalformedError, KeyError) as error:
            raise StageFailedError(
                f"A stage wrote an unusable {_DETECTIONS_FILE}: {error}.",
                "Report it, with the model's recipe.",
            ) from None
        return scoring.detections(images, part.pictures, matching.categories)

    # -- shared with builds -- ----------------------------------------------------------------

    def _identity(self, image: ImageName) -> str:
        return locked_image(self.builder.project.docker, image).identity

    @functools.cached_property
    def _code(self) -> str:
        return tree_digest(self.builder.project.stages)

    def _runner(self, on_event: OnEvent, lent: Mapping[str, Path] | None = None) -> Runner:
        builder = self.builder
        return Runner(builder.engine, builder.store, builder.project.stages, on_event, lent=lent)

    def _tag(self, image: ImageName) -> str:
        from kiln.images.builder import Images

        builder = self.builder
        images = Images(builder.project.docker, builder.engine, builder.store, builder.on_event)
        return images.ensure(image).tag

    def _lock(self, name: str, recipe: Recipe) -> Any:
        text = f"{recipe.name}: waiting for another kiln to finish it"
        return self.builder.store.lock(name, while_waiting=lambda: self._note(text, once=True))

    def _note(self, text: str, *, once: bool = False) -> None:
        if not once or text not in self._notes:
            self._notes.add(text)
            self.builder.on_event("note", message=text)


class _Overall:
    """Forwards events, with each step's progress as progress of the whole measurement.

    Args:
        sizes: images of each step, by its id.
    """

    def __init__(self, on_event: Callable[..., None], sizes: Mapping[str, int]) -> None:
        self._on_event, self._sizes = on_event, sizes
        self._done: set[str] = set()

    def event(self, event: str, **fields: Any) -> None:
        """Forward one event."""
        step_id = str(fields.get("id"))
        if event == "stage" and step_id in self._sizes:
            if fields["state"] in ("finished", "cached"):
                self._done.add(step_id)
            elif fields["state"] == "progress" and isinstance(fields.get("done"), int):
                before = sum(self._sizes[item] for item in self._done - {step_id})
                done, total = before + fields["done"], sum(self._sizes.values())
                message = f"{done:,} of {total:,}, {fields.get('message', '')}"
                fields |= {"done": done, "total": total, "message": message}
        self._on_event(event, **fields)


def _source_steps(recipe: Recipe) -> tuple[str, ...]:
    """Return the steps that make the source itself, where it is not files."""
    if only_exported(recipe):
        return ("export",)
    made = recipe.source.made_by is not None or recipe.source.brings == "saved_model"
    return ("checkpoint",) if made else ()


def _source(recipe: Recipe, acquired: Acquired, results: Mapping[str, StageResult]) -> _Thing:
    """Describe the model before conversion: its own network and post-processing."""
    files: Mapping[str, str] = acquired.contents.checkpoint
    steps = _source_steps(recipe)
    if steps == ("export",):
        facts = results["export"].facts
        known = {"normalization": facts["normalization"], "normalization_from": "export"}
        inputs = {"saved_model": Files(acquired.contents.saved_model)}
        return _Thing(SOURCE, recipe.image, "saved_model_reference", known, inputs)
    if steps:
        files = {
            name.removeprefix("model/"): blob.sha256
            for name, blob in results["checkpoint"].files.items()
            if name.startswith("model/")
        }
    stage, params = reference_stage(recipe)
    return _Thing(SOURCE, recipe.image, stage, params, {"checkpoint": Files(files)})


def _fault(path: Path, picture: Picture) -> str:
    """Return why an image cannot be used; empty if it can."""
    pixels = stage_module("files.pixels")
    if path.suffix.lower() not in pixels.SUFFIXES:
        return f"not one of {', '.join(pixels.SUFFIXES)}"
    try:
        height, width = pixels.load_rgb(path).shape[:2]
    except stage_module("protocol.failures").StageError as error:
        return str(error.message).partition(" cannot be read: ")[2].rstrip(".") or error.message
    if abs(height / width * picture.width / picture.height - 1) > _RATIO:
        annotated = f"{picture.width} x {picture.height}"
        return f"it is {width} x {height} pixels, annotated as {annotated}"
    return ""


def _expected(recipe: Recipe) -> tuple[Mapping[str, float], float]:
    """Return the recipe's expected AP by subject name, and the tolerance."""
    check = getattr(recipe, "check", None)
    return getattr(check, "ap", None) or {}, getattr(check, "ap_tolerance", None) or TOLERANCE


def _with_time_for(recipe: Recipe, stages: int) -> Limits:
    """Return the recipe's limits, with its time for each of a container's stages."""
    limits = limits_of(recipe)
    return replace(limits, timeout=limits.timeout * max(1, stages))
