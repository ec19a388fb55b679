"""Build models: recipe -> sources -> plan -> results -> ``dist/``."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiln.building.compiling import as_one, compile_each
from kiln.building.record import (
    Artefact,
    conversion_record,
    differences_of,
    label_notes,
    untrained_reasons,
)
from kiln.building.turns import turn
from kiln.cache.opening import shared_results
from kiln.checks import verdict
from kiln.core import machine
from kiln.core.errors import (
    CancelledError,
    ClusterError,
    KilnError,
    PartialBuildError,
    UntrainedModelError,
)
from kiln.core.files import system_guard, write_atomic
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.images.lock import locked_image
from kiln.project.closures import read_stage_code
from kiln.project.folders import Project
from kiln.project.stagecode import stage_module
from kiln.recipes.check_steps import DEVICE, check_id, library_id, runtime_ids
from kiln.recipes.plan import Plan, make_plan
from kiln.recipes.recipe import Recipe, Variant
from kiln.recipes.selection import Selection
from kiln.release import publish
from kiln.release.layout import PAGE_FILE
from kiln.running.cached import look_up
from kiln.running.executor import Runner
from kiln.running.executor_protocol import Elsewhere, Executor, OnEvent
from kiln.running.limits import PROCESS_MEMORY, limits_of, processes_of
from kiln.signing.signer import Signer, own_signer
from kiln.signing.statement_names import CHECKS_FILE, CONVERSION_FILE, ORIGINAL, artefact_file
from kiln.sources.fetcher import Options
from kiln.sources.model import Acquired, acquire, with_images_to_check
from kiln.statements import make
from kiln.statements.package import Package, installed_package
from kiln.statements.repository import Repository, repository_of

if TYPE_CHECKING:
    from kiln.cache.shared import SharedResults
    from kiln.running.engine import Engine

LABEL_FILE = "labelmap.txt"

#: Kind of the store's ref that records how a model's last build ended.
LAST_RESULT = "last-build"

#: The name of this fault in a recipe's ``allow``.
UNTRAINED = "untrained-heads"

#: Seconds that threads get to clean up after Ctrl-C; the next run removes what is left.
STOP_PATIENCE = 5.0


@dataclass(frozen=True)
class ModelBuild:
    """The outcome for one model: its artefacts, or the failure; both if one was not compiled.

    ``changed`` tells whether ``dist/`` was written; ``stages_run`` how many stages were not in
    the store.
    """

    model: str
    artefacts: tuple[Artefact, ...] = ()
    changed: bool = False
    stages_run: int = 0
    error: KilnError | None = None


@dataclass
class Builder:
    """Builds models of one project into one ``dist`` folder.

    The engine is only looked for when a stage has to run or an image has to be built. ``noted`` are
    notes that were shown before; none is shown twice. ``elsewhere`` runs the stages if it is given:
    then this machine prepares plans, judges results, publishes and signs.
    """

    project: Project
    store: Store
    dist: Path
    on_event: OnEvent
    keep_failed: bool = False
    noted: set[str] = field(default_factory=set)
    elsewhere: Elsewhere | None = None
    _engine: Engine | None = None
    _signer: Signer | None = None
    _repository: Repository | None = None
    _package: Package | None = None
    _at_work: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _aside: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="image")
    )
    _coming: dict[str, Future[str]] = field(default_factory=dict)
    _room: threading.BoundedSemaphore = field(default_factory=threading.BoundedSemaphore)

    def engine(self) -> Engine:
        """The engine, found once; leftovers of dead runs are removed first."""
        with self._lock:
            if self._engine is None:
                from kiln.running.engine import Engine

                self._engine = Engine.find()
                self._engine.sweep()
            # After it is set, a concurrent stop sees the engine, or we see the stop here.
            self.check_stop()
            engine = self._engine
        if engine.limits_missing:
            what = " and ".join(engine.limits_missing)
            self._note(
                f"The engine does not limit {what} of stages: it has no cgroups "
                "(docs/security.md#limits-without-cgroups)."
            )
        return engine

    @functools.cached_property
    def shared(self) -> SharedResults | None:
        """The results that machines share (``KILN_CACHE``)."""
        return shared_results(self.store, self._note)

    def build(
        self,
        chosen: Selection,
        variants: Sequence[Variant] = (),
        *,
        archive: Path | None = None,
        jobs: int | None = None,
    ) -> list[ModelBuild]:
        """Build several models; a failure of one does not stop the others.

        Args:
            chosen: the recipes; one that cannot be read counts as a failed model.
            variants: which ones; all of each recipe when empty.
            archive: see :class:`kiln.sources.fetcher.Options`; only with one model.
            jobs: models at a time; None: what the machine has room for. Those whose stages run
                elsewhere do not count meanwhile.
        """
        publish.check_target(self.dist)
        self.store.sweep()
        self._signer = own_signer()
        shared = self.shared  # refused at the start, where it is wrong
        if self.project.package is None:  # else a repository here is the user's own
            self._repository = repository_of(self.project.root)
        self._package = installed_package()
        several = len(chosen.names) > 1
        done = [self._failed(name, error, several) for name, error in chosen.broken.items()]
        room = jobs or machine.room_for(PROCESS_MEMORY)
        self._room, self._at_work = threading.BoundedSemaphore(room), min(room, len(chosen.recipes))
        threads = room if self.elsewhere is None else max(room, self.elsewhere.most)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="model")
        tasks: dict[Future[ModelBuild], str] = {
            pool.submit(self._in_room, recipe, variants, archive): name
            for name, recipe in chosen.recipes.items()
        }
        try:
            for left, task in zip(reversed(range(len(tasks))), as_completed(tasks), strict=True):
                self._at_work = min(room, left)
                done.append(self._outcome(task, tasks[task], several))
        except BaseException:  # Ctrl-C
            self.stop(pool, tasks)
            raise
        pool.shutdown()
        self._aside.shutdown(wait=False)
        if shared is not None:
            shared.finish()
        self._refresh_front(any(build.changed for build in done))
        return sorted(done, key=lambda item: chosen.names.index(item.model))

    def stop(self, pool: ThreadPoolExecutor, tasks: Iterable[Future[Any]]) -> None:
        """Stop running tasks of a pool, and start no others.

        The threads get a moment to clean up. One in an image build does not notice; the process
        ends without it.
        """
        self._stop.set()
        if self.elsewhere is not None:
            self.elsewhere.stop()
        pool.shutdown(wait=False, cancel_futures=True)
        self._aside.shutdown(wait=False, cancel_futures=True)
        if self._engine is not None:
            self._engine.stop_all()
        # (A task that never started never ends: wait() would use its full timeout.)
        wait([task for task in tasks if not task.cancelled()], timeout=STOP_PATIENCE)

    def check_stop(self) -> None:
        """End a thread's work here if :meth:`stop` was called.

        Raises:
            CancelledError: it was.
        """
        if self._stop.is_set():
            raise CancelledError("Stopped.")

    def _refresh_front(self, changed: bool) -> None:
        if not self.dist.is_dir() or ((self.dist / PAGE_FILE).is_file() and not changed):
            return
        # Imported here: a build without changes should not pay for it.
        from kiln.release.index_page import refresh

        assert self._signer is not None
        refresh(self.dist, self._signer)

    def _tell(self, event: str, **fields: Any) -> None:
        """Forward an event; after Ctrl-C, busy threads stop here."""
        self.check_stop()
        self.on_event(event, **fields)

    def _note(self, text: str) -> None:
        with self._lock:
            new = text not in self.noted
            self.noted.add(text)
        if new:
            self._tell("note", message=text)

    def _outcome(self, task: Future[ModelBuild], name: str, several: bool) -> ModelBuild:
        try:
            with system_guard():
                result = task.result()
        except KilnError as error:
            return self._failed(name, error, several)
        if result.error is not None:
            self._failed(name, result.error, several)
            return result
        self._remember(name, ok=True, variants=[item.variant for item in result.artefacts])
        self.on_event("model", model=name, state="done")
        return result

    def _failed(self, name: str, error: KilnError, several: bool) -> ModelBuild:
        """Record a failure; that of a single model is reported as the whole build's."""
        self._remember(name, ok=False, kind=error.kind)
        if several:
            self.on_event(
                "failed", model=name, kind=error.kind, message=error.message, remedy=error.remedy
            )
        return ModelBuild(name, error=error)

    def _remember(self, name: str, **result: Any) -> None:
        # For `kiln models`; a build does not fail if this cannot be written.
        with contextlib.suppress(KilnError):
            self.store.set_ref(LAST_RESULT, name, {"when": int(time.time()), **result})

    def _in_room(
        self, recipe: Recipe, variants: Sequence[Variant], archive: Path | None
    ) -> ModelBuild:
        with self._room:
            self.check_stop()
            return self._one(recipe, variants, archive)

    @contextlib.contextmanager
    def _leaving_room(self) -> Iterator[None]:
        """Let another model in while this one's stages run elsewhere."""
        if self.elsewhere is None:
            yield
            return
        self._room.release()
        try:
            yield
        finally:
            self._room.acquire()

    def _executor(self, recipe: Recipe, tell: OnEvent) -> Executor:
        if self.elsewhere is not None:
            return self.elsewhere.executor(tell)
        return Runner(
            self.engine,
            self.store,
            self.project.stages,
            tell,
            keep_failed=self.keep_failed,
            processes=lambda: processes_of(limits_of(recipe), self._at_work),
            shared=self.shared,
        )

    def _one(self, recipe: Recipe, variants: Sequence[Variant], archive: Path | None) -> ModelBuild:
        locked = locked_image(self.project.docker, recipe.image)
        device = locked_image(self.project.docker, DEVICE)
        code = read_stage_code(self.project.stages, self.store)
        sources = make.gather(self.project, recipe, code.digest, self._repository, self._package)
        options = Options(
            archive=archive,
            on_progress=lambda name, done, total: self._tell(
                "download", name=name, done=done, total=total
            ),
            on_note=self._note,
        )
        acquired = acquire(recipe, self.store, options)
        acquired = with_images_to_check(acquired, self.project.sample_images, self.store)
        wanted = variants or recipe.variants
        plan = make_plan(
            recipe,
            acquired.contents,
            wanted,
            image=locked.identity,
            code=code,
            device=device.identity,
        )
        ran: set[str] = set()

        def tell(event: str, **fields: Any) -> None:
            if fields.get("state") == "finished":
                ran.add(fields["id"])
            self._tell(event, **fields)

        runner = self._executor(recipe, tell)
        with turn(self.store, self.shared, plan, self.check_stop, self._note):
            plan = self._with_published(recipe, acquired, plan)
            results: dict[str, StageResult] = {}

            def run(part: Plan) -> None:
                # The record names every step of the plan, so none may be missing.
                with self._leaving_room():
                    found = runner.run(
                        part,
                        limits_of(recipe),
                        lambda: self._image_with(recipe.image, part.others.values()),
                        files=part.published(),
                        facts=part.ids(),
                        others=self._image_aside,
                    )
                results.update(found)

            run(plan.without(plan.compiled))
            for text in label_notes(results):
                self._note(f"{recipe.name}: {text}")
            self._check_trained(recipe, results)
            self._tell_differences(recipe, results)
            report = self._check(recipe, plan, results)
            whole = plan
            plan, failures = compile_each(
                plan, run, lambda name: verdict.judge_form(name, recipe, whole, results, self.store)
            )
            if report is not None:
                report = verdict.with_compiled(report, recipe, plan, results, self.store)
            files, stated, artefacts = self._collect(
                recipe, acquired, plan, results, sources, report
            )
            assert self._signer is not None
            changed = publish.publish(self.dist, recipe.name, files, self._signer, stated)
        return ModelBuild(recipe.name, artefacts, changed, len(ran), as_one(failures))

    def _image(self, name: str) -> str:
        """Return the tag of a sealed image; get or build it if the engine lacks it."""
        from kiln.images.builder import Images

        images = Images(self.project.docker, self.engine, self.store, self._tell)
        return images.ensure(name).tag

    def _image_with(self, name: str, others: Iterable[str]) -> str:
        """Return the tag of a sealed image; begin to provide others that are needed later."""
        tag = self._image(name)
        for other in others:
            self._begin(other)
        return tag

    def _image_aside(self, name: str) -> str:
        """Return the tag of an image that may be on its way already."""
        return self._begin(name).result()

    def _begin(self, name: str) -> Future[str]:
        """Provide a sealed image while models convert: one build for all of them."""
        with self._lock:
            self.check_stop()
            if name not in self._coming:
                self._coming[name] = self._aside.submit(self._image, name)
            return self._coming[name]

    def _with_published(self, recipe: Recipe, acquired: Acquired, plan: Plan) -> Plan:
        """Add variants to ``plan`` that were published before and are in the store unchanged."""
        folder = self.dist / recipe.name
        more = [
            variant
            for variant in recipe.variants
            if variant in plan.artefacts or (folder / artefact_file(recipe.name, variant)).exists()
        ]
        full = self._plan(recipe, acquired, more, plan)
        known = look_up(full, self.store, (), read=False).results
        kept = [
            variant
            for variant in more
            if variant in plan.artefacts
            or {full.artefacts[variant], *_report_of(full, variant)} <= known.keys()
        ]
        found = self._plan(recipe, acquired, kept, plan)
        unknown = {name for name in found.compiled if not found.steps_of(name) <= known.keys()}
        return found.without(unknown - plan.compiled.keys())

    @staticmethod
    def _plan(recipe: Recipe, acquired: Acquired, variants: Sequence[Variant], like: Plan) -> Plan:
        """Return a plan like ``like`` for other variants."""
        if set(variants) == set(like.artefacts):
            return like
        device = next(iter(like.others), "")
        return make_plan(
            recipe,
            acquired.contents,
            variants,
            image=like.identity,
            code=like.code,
            device=device,
        )

    def _check_trained(self, recipe: Recipe, results: Mapping[str, StageResult]) -> None:
        """Refuse to publish an untrained model, unless the recipe allows it.

        Raises:
            UntrainedModelError: it is neither trained nor allowed.
        """
        reasons = untrained_reasons(results)
        if not reasons:
            return
        found = f"{recipe.name}: the prediction heads are untrained: {'; '.join(reasons)}."
        if UNTRAINED not in recipe.allow:
            raise UntrainedModelError(
                found,
                "Such a model detects nothing, so it is not published. Use a trained checkpoint; "
                f"to publish it anyway, {recipe.how_to_allow([UNTRAINED])}.",
            )
        self._tell("note", message=f"{found} Published anyway, as allowed.")

    def _tell_differences(self, recipe: Recipe, results: Mapping[str, StageResult]) -> None:
        """Tell what the files do otherwise than the model's configuration says.

        What TFLite's detection operator does in every file is left to the record and the page.
        """
        found = differences_of(results)
        if not found:
            return
        usual = stage_module("odapi.config_differences").ACROSS_CLASSES
        origin = "its spec" if recipe.efficientdet is not None else "pipeline.config"
        for item in found:
            if item["what"] != usual:
                said = f"{item['what']}: {origin} says {item['config']}, built is {item['built']}"
                self._tell("note", message=f"{recipe.name}: {said}. {item['effect']}")

    def _check(
        self, recipe: Recipe, plan: Plan, results: Mapping[str, StageResult]
    ) -> dict[str, Any] | None:
        """Check the artefacts against their source.

        Raises:
            CheckFailedError: a gate failed; the report is kept in the store's logs.
        """
        report = verdict.gather(recipe, plan, results, self.store)
        if report is None:
            self._tell("note", message=f"{recipe.name}: not checked: there are no check images")
            return None
        if verdict.failures(report):
            kept = self.store.root / "logs" / f"{recipe.name}.{CHECKS_FILE}"
            kept.parent.mkdir(exist_ok=True)
            write_atomic(kept, _as_json(report))
            verdict.judge(report, recipe, str(kept))
        self._tell("note", message=verdict.one_line(report))
        return report

    def _collect(
        self,
        recipe: Recipe,
        acquired: Acquired,
        plan: Plan,
        results: Mapping[str, StageResult],
        sources: make.Sources,
        report: Mapping[str, Any] | None,
    ) -> tuple[dict[str, publish.Content], dict[str, dict[str, Any]], tuple[Artefact, ...]]:
        """Return the files of the model's folder, its statements, and its artefacts."""
        files: dict[str, publish.Content] = {}
        artefacts = []
        about = []
        for variant, step_id in plan.files.items():
            blob = results[step_id].files["model.tflite"]
            name = artefact_file(recipe.name, variant)
            files[name] = self._content(blob.sha256)
            artefacts.append(Artefact(variant, name, blob.sha256, blob.size))
            about.append(make.About(variant, name, blob.sha256, step_id))
            if variant == "prebuilt":
                # Keep the publisher's file beside it, byte for byte.
                original = results["adopt"].files["model.tflite"].sha256
                name = artefact_file(recipe.name, ORIGINAL)
                files[name] = self._content(original)
                about.append(make.About(ORIGINAL, name, original, "adopt"))
            if variant in plan.artefacts:
                files[LABEL_FILE] = self._content(results[step_id].files[LABEL_FILE].sha256)
        for name, place in verdict.preview_names(plan, results).items():
            files[place] = self._content(results["previews"].files[f"{name}.jpg"].sha256)
        said = sources.archive.digest(sources.recipe_path)
        record = conversion_record(recipe, said, acquired, plan, results, artefacts, self.project)
        records = {CONVERSION_FILE: _as_json(record)}
        if report is not None:
            records[CHECKS_FILE] = _as_json(report)
        files |= {**records, **sources.files(recipe.image, [*plan.others.values()])}
        limits = limits_of(recipe)
        stated = make.statements(recipe, limits, plan, sources, about, records)
        return files, stated, tuple(artefacts)

    def _content(self, digest: str) -> publish.Pinned:
        return publish.Pinned(self.store.path(digest), digest)


def _as_json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, indent=1, sort_keys=True).encode() + b"\n"


def _report_of(plan: Plan, variant: str) -> set[str]:
    """Return the steps that check a variant, where the plan has them."""
    ids = {check_id(variant), library_id(variant), *runtime_ids(variant)}
    return ids & set(plan.reports)


def failure_of(builds: Sequence[ModelBuild]) -> KilnError | None:
    """Return the error that a whole build ends with: none, the only model's, or a partial build."""
    failed = [build for build in builds if build.error is not None]
    if not failed:
        return None
    if len(builds) == 1:
        return failed[0].error
    lost = next((build.error for build in failed if isinstance(build.error, ClusterError)), None)
    if lost is not None:
        return lost
    names = ", ".join(build.model for build in failed)
    return PartialBuildError(
        f"{len(failed)} of {len(builds)} models could not be built: {names}.",
        "The reasons and remedies are above; the other models are in dist/.",
    )
