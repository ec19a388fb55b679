"""Measure COCO's AP of a source model and of its artefacts: the cost of conversion on real data.

Images are taken by file name, :data:`CHUNK` at a time. Running one subject (the source or a
variant) on one chunk is a step like those of a build: its key is made of the image's identity, the
stage code, the subject and the images' digests, and its result is in the store. So an interrupted
measurement resumes, and a repeated one runs nothing.

The images are never in the store: a container gets copies while it runs (``lent`` of
:class:`kiln.running.executor.Runner`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kiln.building.build import Builder
from kiln.core.digest import key_of
from kiln.core.errors import LabelMapError, StageFailedError, UsageError, error_for_kind
from kiln.core.stage_result import StageResult
from kiln.core.untrusted import MalformedError, parse_json_object
from kiln.measure import aliases, bootstrap, coco, detection_runs, scoring
from kiln.measure import images as chosen_images
from kiln.measure.bootstrap import Figures
from kiln.measure.coco import DataSet, Matching
from kiln.measure.detection_runs import Subject
from kiln.measure.images import Chunk
from kiln.measure.report import SOURCE, TOLERANCE, Difference, Measured, Report
from kiln.measure.scoring import DETECTIONS, Evaluation
from kiln.measure.workbench import Workbench
from kiln.project import bounds
from kiln.project.stagecode import stage_module
from kiln.recipes.check_steps import only_exported, reference_stage
from kiln.recipes.plan import Files, Plan, make_plan
from kiln.recipes.recipe import ImageName, Recipe, Variant
from kiln.running.limits import limits_of
from kiln.signing.statement_names import artefact_file
from kiln.sources.fetcher import Options
from kiln.sources.model import Acquired, acquire

#: Images a step. A container of the source starts with 7 to 12 s of processor time, a seventh of
#: what this many images take with four variants (docs/accuracy.md). An interruption loses one step:
#: less than a minute.
CHUNK = 250

#: The image that runs all artefacts: the one with the newer TensorFlow. The interpreter of the
#: other (2.8) takes 2 s an image for a quantised EfficientDet-Lite0, this one 0.04 s.
DETECT_IMAGE: ImageName = "odapi"

_DETECTIONS_FILE = "detections.json"


@dataclass
class Accuracy:
    """Measures one model on one data set.

    Args:
        builder: has project, store and engine, and receives events. Its ``dist`` is not used.
        published: measure the files of this release instead of converting.
        chunk: images a step.
        jobs: containers at a time.
        aliases: a class's name in the model to its name in the data set.
        fit: ``letterbox`` or ``stretch`` images to fit the artefacts' input; None: as each file's
            own description says. The source is not affected: it takes images as it was trained.
    """

    builder: Builder
    published: Path | None = None
    chunk: int = CHUNK
    jobs: int = 1
    aliases: Mapping[str, str] = field(default_factory=dict)
    fit: str | None = None

    def __post_init__(self) -> None:
        self._bench = Workbench(self.builder)

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
            variants: which ones; all when empty.
            archive: see :class:`kiln.sources.fetcher.Options`.
            images: use only so many, the first by file name.

        Raises:
            KilnError: any failure of a build; LabelMapError where model and data set share no
                class; UsageError for an alias that neither knows; ImageSetError for a faulty
                data set.
        """
        # What the user gave first: report its faults before minutes of conversion.
        aliases.check_categories(self.aliases, data.categories.values())
        options = Options(
            archive=archive,
            on_progress=lambda name, done, total: self.builder.on_event(
                "download", name=name, done=done, total=total
            ),
            on_note=self._bench.note,
        )
        acquired = acquire(recipe, self.builder.store, options)
        wanted = self._wanted(recipe, variants)
        if acquired.contents.label_map is not None:
            self._matching(recipe, acquired, {}, data)
        chosen = data.pictures[:images]
        chunks = chosen_images.read(self._bench, recipe.name, data, chosen, self.chunk)
        results, plan = self._converted(recipe, acquired, wanted)
        matching = self._matching(recipe, acquired, results, data)
        self._tell_classes(matching, data)
        subjects = self._subjects(recipe, acquired, wanted, results, plan)
        found = detection_runs.run(self._bench, recipe, subjects, chunks, data, self.jobs)
        evaluations = {}
        for subject in subjects:
            self._bench.note(f"{recipe.name}: scoring {subject.name}")
            parts = [(chunk, found[subject.name, chunk.number]) for chunk in chunks]
            evaluations[subject.name] = self._evaluate(parts, data, matching)
        expected, tolerance = _expected(recipe)
        usable = sum(len(chunk.pictures) for chunk in chunks)
        return Report(
            model=recipe.name,
            name=data.name,
            annotations=data.sha256,
            pictures=key_of(
                {p.file: digest for chunk in chunks for p, digest in chunk.digests.items()}
            ),
            images=usable,
            all_images=len(data.pictures),
            skipped=len(chosen) - usable,
            categories=len(set(matching.categories.values())),
            all_categories=len(data.categories),
            measured=tuple(_measured(subjects, evaluations, expected)),
            aliases=self.aliases,
            fit=self.fit,
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
        identity = self._bench.identity(recipe.image)
        contents, code = acquired.contents, self._bench.code
        plan = make_plan(recipe, contents, convert, image=identity, code=code, checks=False)
        # Skip the comparison with the publisher's file; always make the checkpoint.
        reports = _source_steps(recipe)
        if not convert and not reports:
            return {}, plan
        plan = replace(plan, reports=reports, artefacts=plan.artefacts if convert else {})
        runner = self._bench.runner(self.builder.on_event)
        with self._bench.lock(f"model-{recipe.name}", recipe.name):
            return runner.run(plan, limits_of(recipe), lambda: self._bench.tag(recipe.image)), plan

    def _subjects(
        self,
        recipe: Recipe,
        acquired: Acquired,
        wanted: Sequence[Variant],
        results: Mapping[str, StageResult],
        plan: Plan,
    ) -> list[Subject]:
        subjects = []
        if recipe.source.brings == "feature_vector":
            self._bench.note(
                f"{recipe.name}: its source has no prediction heads, so only its artefacts "
                "are measured"
            )
        else:
            subjects.append(_source(recipe, acquired, results))
        for variant in wanted:
            if self.published is None:
                digest = results[plan.artefacts[variant]].files["model.tflite"].sha256
            else:
                digest = self.builder.store.add_file(self._published(recipe, variant))
            # Every detection: a threshold would cut off the end of the precision-recall curve.
            params: dict[str, Any] = {"max_results": DETECTIONS, "score_threshold": 0}
            if self.fit is not None:
                params["fit"] = self.fit
            model = {"model": Files({"": digest})}
            subjects.append(Subject(variant, DETECT_IMAGE, "detect", params, model, digest))
        return subjects

    def _matching(
        self,
        recipe: Recipe,
        acquired: Acquired,
        results: Mapping[str, StageResult],
        data: DataSet,
    ) -> Matching:
        """Match the model's classes with the data set's.

        Raises:
            UsageError: an alias names a class that the model does not have.
            LabelMapError: they have no class in common.
        """
        classes = self._classes(recipe, acquired, results)
        aliases.check_classes(self.aliases, classes, recipe.name)
        return coco.match(classes, data.categories, self.aliases)

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
            known = [n for one in results.values() if (n := one.facts.get("num_classes"))]
            read = stage_module("files.labelmap").load(self.builder.store.path(digest), *known[:1])
        except failure as error:
            raise error_for_kind(error.kind)(error.message, error.remedy) from None
        return {item.id: tuple(n for n in (item.label, item.name) if n) for item in read.items}

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
        if matching.unmeasured and matching.unknown:
            text += ". --alias says which of them are the same"
        self._bench.note(text)

    def _evaluate(
        self, parts: Sequence[tuple[Chunk, StageResult]], data: DataSet, matching: Matching
    ) -> Evaluation:
        """Score what a subject found, chunk by chunk."""
        pictures = [picture for chunk, _ in parts for picture in chunk.pictures]
        seen = [
            detection
            for chunk, result in parts
            for detection in scoring.detections(
                self._read(result), chunk.pictures, matching.categories
            )
        ]
        return scoring.evaluate(pictures, data.objects, matching.categories.values(), seen)

    def _read(self, result: StageResult) -> dict[str, Any]:
        blob = result.files[_DETECTIONS_FILE]
        most = bounds.DETECTIONS.most
        try:
            if blob.size > most:
                raise MalformedError(f"is larger than {most:,} bytes")
            text = self.builder.store.read(blob.sha256, _DETECTIONS_FILE)
            images: dict[str, Any] = parse_json_object(text, size=most)["images"]
        except (MalformedError, KeyError) as error:
            raise StageFailedError(
                f"A stage wrote an unusable {_DETECTIONS_FILE}: {error}.",
                "Report it, with the model's recipe.",
            ) from None
        return images


def _measured(
    subjects: Sequence[Subject],
    evaluations: Mapping[str, Evaluation],
    expected: Mapping[str, float],
) -> Iterator[Measured]:
    """Yield each subject's figures, their intervals, and its difference to the source."""
    images = next(iter(evaluations.values())).images
    resamples: dict[str, Figures] = {}
    if images >= bootstrap.LEAST_IMAGES:
        drawn = bootstrap.draw(images)
        resamples = {name: bootstrap.resampled(item, drawn) for name, item in evaluations.items()}
    for subject in subjects:
        name, scores = subject.name, evaluations[subject.name].scores
        intervals = bootstrap.intervals(resamples[name]) if resamples else {}
        to = {
            other: Difference(
                scores.ap - evaluations[other].scores.ap,
                bootstrap.interval(resamples[name].ap - resamples[other].ap) if resamples else None,
            )
            for other in (SOURCE, "float32")
            if other in evaluations and name not in (SOURCE, other)
        }
        yield Measured(
            name,
            scores,
            expected.get(name),
            subject.artefact,
            intervals,
            to.get(SOURCE),
            to.get("float32"),
        )


def _source_steps(recipe: Recipe) -> tuple[str, ...]:
    """Return the steps that make the source itself, where it is not files."""
    if only_exported(recipe):
        return ("export",)
    made = recipe.source.made_by is not None or recipe.source.brings == "saved_model"
    return ("checkpoint",) if made else ()


def _source(recipe: Recipe, acquired: Acquired, results: Mapping[str, StageResult]) -> Subject:
    """Describe the model before conversion: its own network and post-processing."""
    files: Mapping[str, str] = acquired.contents.checkpoint
    steps = _source_steps(recipe)
    if steps == ("export",):
        facts = results["export"].facts
        known = {name: facts[name] for name in ("normalization", "resizer")}
        known["normalization_from"] = "export"
        inputs = {"saved_model": Files(acquired.contents.saved_model)}
        return Subject(SOURCE, recipe.image, "saved_model_reference", known, inputs)
    if steps:
        files = {
            name.removeprefix("model/"): blob.sha256
            for name, blob in results["checkpoint"].files.items()
            if name.startswith("model/")
        }
    stage, params = reference_stage(recipe)
    params["as_tflite"] = False  # only checks of a conversion need it
    return Subject(SOURCE, recipe.image, stage, params, {"checkpoint": Files(files)})


def _expected(recipe: Recipe) -> tuple[Mapping[str, float], float]:
    """Return the recipe's expected AP by subject name, and the tolerance."""
    check = getattr(recipe, "check", None)
    return getattr(check, "ap", None) or {}, getattr(check, "ap_tolerance", None) or TOLERANCE
