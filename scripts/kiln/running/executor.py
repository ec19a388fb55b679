"""Turn a plan into results: look up the cache, run the rest in one container, store the output."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kiln.core.digest import sha256_file, tree_files
from kiln.core.errors import (
    CancelledError,
    DigestMismatchError,
    KilnError,
    StageFailedError,
    StageOutOfMemoryError,
    StageOutputError,
    StageTimeoutError,
    StoreError,
    error_for_kind,
)
from kiln.core.files import copy_file, disk_guard, remove, write_atomic
from kiln.core.plain_text import plain
from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import Store
from kiln.core.untrusted import MalformedError, parse_json_object
from kiln.project.closures import StageCode
from kiln.recipes.plan import PROTOCOL, Files, Output, Plan, Step
from kiln.running.cached import look_up
from kiln.running.cutoff import CutOff, files_of, remember
from kiln.running.executor_protocol import OnEvent
from kiln.running.limits import Limits, Outcome
from kiln.running.sharing import SharedResults
from kiln.running.stage_events import REPORTABLE, EventReader, ProtocolError, StageEvent
from kiln.running.stage_output import MAX_REPORT, StageOutput, chunks_of, refused
from kiln.running.stage_user import owner_outside, stage_user

if TYPE_CHECKING:
    from kiln.running.engine import Engine

_COMMAND = ("python", "-B", "-m", "stages")


class Runner:
    """Runs plans on one engine.

    Args:
        stages: the folder of stage code, mounted read-only.
        on_event: receives ``stage`` events: model, id, state (started, progress, warning,
            finished, cached), and their fields.
        keep_failed: keep a failed container's inputs and output in the store, for debugging.
        lent: contents that the store does not hold (thousands of images), digest to file. A
            container gets copies, checked against their digests.
        processes: returns how many processes may run a plan's stages beside each other; asked when
            a container starts.
        shared: results that other machines share.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        store: Store,
        stages: Path,
        on_event: OnEvent,
        *,
        keep_failed: bool = False,
        lent: Mapping[str, Path] | None = None,
        processes: Callable[[], int] = lambda: 1,
        shared: SharedResults | None = None,
    ) -> None:
        self.engine = engine
        self.store = store
        self.stages = stages
        self.on_event = on_event
        self.keep_failed = keep_failed
        self.lent = lent or {}
        self.processes = processes
        self.shared = shared

    def known(self, plan: Plan) -> dict[str, StageResult]:
        """Return the results of the plan that the store holds, by step id."""
        found = {step.id: self.store.get_result(step.key) for step in plan.steps}
        return {step_id: result for step_id, result in found.items() if result is not None}

    def run(
        self,
        plan: Plan,
        limits: Limits,
        image: Callable[[], str],
        *,
        files: Collection[str] | None = None,
        facts: Collection[str] = (),
        others: Callable[[str], str] | None = None,
    ) -> dict[str, StageResult]:
        """Run the parts of ``plan`` that are not cached; return all results by step id.

        The steps of one image share a container, as far as they do not wait for one of another.

        Files of results that are not requested, and that no step had to read, may be missing.

        Args:
            limits: of the container (:func:`kiln.running.limits.limits_of` a recipe).
            image: returns the tag of the sealed image; only called when something has to run.
            others: returns that of another of the plan's images, by name; likewise.
            files: ids of the steps whose files are needed; by default artefacts and reports.
            facts: ids of those whose facts and digests are needed, too.

        Raises:
            KilnError: of the kind that the failed stage reported.
        """
        wanted = [*plan.files.values(), *plan.reports] if files is None else files
        known = look_up(plan, self.store, wanted, facts, lent=self.lent)
        if known.todo and self.shared is not None and self.shared.fetch(plan, wanted, facts):
            known = look_up(plan, self.store, wanted, facts, lent=self.lent)
        results, todo = known.results, list(known.todo)
        running = {step.id for step in todo}
        for step in plan.steps:
            if step.id not in running and step.id in results:
                self.on_event("stage", model=plan.model, id=step.id, state="cached")
        cut_off = CutOff(self.store, plan, frozenset(results))
        while True:
            for step, result in cut_off.found(tuple(todo), results):
                results[step.id] = result
                if self.shared is not None:
                    self.shared.offer(result)
                self.on_event("stage", model=plan.model, id=step.id, state="cached")
                todo.remove(step)
            if not todo:
                return results
            together = _of_one_image(todo, cut_off.waiting(todo))
            name = plan.image_of(together[0])
            if together[0].image:
                assert others is not None, name  # whoever plans such steps says where they run
                tag = others(name)
            else:
                tag = image()
            session = _Session(self, plan, together, results)
            results.update(session.run(tag, limits))
            done = {step.id for step in together}
            todo = [step for step in todo if step.id not in done]


def _of_one_image(todo: Sequence[Step], later: Collection[str]) -> list[Step]:
    """Return the first step and the others that can share its container, in order.

    Those in ``later`` wait for others; the first step never does.
    """
    image, waiting, together = todo[0].image, {step.id for step in todo}, []
    for step in todo:
        if step.image == image and step.id not in later and not step.upstream() & waiting:
            together.append(step)
            waiting.discard(step.id)
    return together


class _Session:
    """One container that runs some steps of a plan."""

    def __init__(
        self, runner: Runner, plan: Plan, todo: list[Step], known: Mapping[str, StageResult]
    ) -> None:
        self._runner, self._plan, self._todo, self._known = runner, plan, todo, known
        self._store = runner.store
        self._ids = {step.id for step in todo}
        self._done: dict[str, StageResult] = {}
        self._borrowed: dict[str, Path] = {}
        self._waiting: list[str] = []
        self._failure: KilnError | None = None
        self._events = EventReader(self._ids, self._event)

    def run(self, image: str, limits: Limits) -> dict[str, StageResult]:
        engine = self._engine = self._runner.engine()
        self._limits = limits
        with self._store.scratch() as scratch, disk_guard(scratch):
            inputs, outputs = scratch / "in", scratch / "out"
            inputs.mkdir()
            outputs.mkdir()
            stages = [self._request(step, inputs) for step in self._todo]
            request: dict[str, Any] = {"protocol": PROTOCOL, "stages": stages}
            processes = self._runner.processes()
            if processes > 1:  # (stage code of older releases does not know the field)
                request["processes"] = processes
            write_atomic(inputs / "request.json", json.dumps(request, sort_keys=True).encode())
            code = _stage_code(self._runner.stages, scratch / "stages", self._todo)
            for folder in (code, inputs, outputs):
                _let_read(folder)
            uid, gid = stage_user(rootless=engine.rootless)
            owner = owner_outside(rootless=engine.rootless)
            if os.getuid() == 0:
                os.chown(outputs, owner, owner)
            with contextlib.closing(StageOutput(outputs, owner, limits)) as self._output:
                outcome = engine.run(
                    image,
                    _COMMAND,
                    mounts={
                        code: ("/kiln/stages", "ro"),
                        inputs: ("/in", "ro"),
                        outputs: ("/out", "rw"),
                    },
                    environment={"KILN_MODEL": self._plan.model},
                    limits=limits,
                    on_stdout=self._on_stdout,
                    user=f"{uid}:{gid}",
                    watch=self._watch,
                )
                outcome = self._with_last_look(self._with_late_files(outcome))
            try:
                self._judge(outcome, limits)
            except KilnError as error:
                if self._runner.keep_failed:
                    self._keep_for_a_look(scratch, error)
                raise
        return self._done

    def _on_stdout(self, chunk: bytes) -> None:
        """Read the container's messages.

        Raises:
            KilnError: the container must stop: for a bad message, or because the user wants it.
        """
        try:
            self._events.feed(chunk)
        except ProtocolError as error:
            raise _odd(self._plan.model, error.stage or self._todo[0].id, error.what) from None

    def _watch(self) -> None:
        try:
            self._output.check_use()
        except KilnError as error:
            raise self._about_model(error) from None

    def _with_last_look(self, outcome: Outcome) -> Outcome:
        """Check the limits again: a container may have ended because of one between two checks."""
        if outcome.refused is None and outcome.exit_code != 0:
            try:
                self._watch()
            except KilnError as error:
                return replace(outcome, refused=error)
        return outcome

    def _with_late_files(self, outcome: Outcome) -> Outcome:
        """Store the files of finished steps that were copied from an engine elsewhere."""
        if outcome.refused is None:
            try:
                for step_id in self._waiting:
                    self._keep(step_id)
            except KilnError as error:
                return replace(outcome, refused=error)
        return outcome

    def _about_model(self, error: KilnError) -> KilnError:
        return type(error)(f"{self._plan.model}: {error.message}", error.remedy)

    def _keep_for_a_look(self, scratch: Path, error: KilnError) -> None:
        """Keep all inputs, stage code and outputs of the failed container for debugging."""
        kept = self._store.root / "kept" / self._plan.model
        remove(kept)
        kept.mkdir(parents=True)
        for name in ("in", "out", "stages"):
            (scratch / name).rename(kept / name)
        error.remedy = f"{error.remedy} The stage's inputs and output are kept in {kept}.".strip()

    def _request(self, step: Step, folder: Path) -> dict[str, Any]:
        inputs = {}
        for name, item in step.inputs.items():
            if isinstance(item, Output) and item.step in self._ids:
                inputs[name] = {"from": item.step, "path": item.path}
            else:
                inputs[name] = {"path": self._lay_out(f"{step.id}/{name}", item, folder)}
        params = dict(step.params)
        params_from = {}
        for name, fact in step.params_from.items():
            if fact.step in self._ids:
                params_from[name] = {"from": fact.step, "fact": fact.name}
            else:
                params[name] = self._fact(fact.step, fact.name)
        return {
            "id": step.id,
            "stage": step.stage,
            "params": params,
            "inputs": inputs,
            "params_from": params_from,
        }

    def _fact(self, step_id: str, name: str) -> Any:
        facts = self._known[step_id].facts
        if name not in facts:
            raise _odd(self._plan.model, step_id, f"did not report the fact {name!r}")
        return facts[name]

    def _lay_out(self, place: str, item: Files | Output, folder: Path) -> str:
        """Put an available input below ``folder``; return its path there."""
        if isinstance(item, Files) and not self._runner.lent.keys().isdisjoint(item.files.values()):
            self._borrow(item.files, folder / place)
            return place
        if isinstance(item, Files):
            files: Mapping[str, str] = item.files
        else:
            found = files_of(self._known[item.step], item.path)
            files = {name: blob.sha256 for name, blob in found.items()}
        if set(files) == {""}:
            name = Path(place).name
            self._store.materialize({name: files[""]}, folder / Path(place).parent, link=True)
        else:
            self._store.materialize(files, folder / place, link=True)
        return place

    def _borrow(self, files: Mapping[str, str], folder: Path) -> None:
        """Copy lent contents, each once in a container, and check their digests.

        Raises:
            DigestMismatchError: a file has changed since it was read, or is gone.
        """
        for name, digest in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if digest in self._borrowed:
                target.hardlink_to(self._borrowed[digest])
                continue
            source = self._runner.lent[digest]
            try:
                copy_file(source, target)
            except (FileNotFoundError, PermissionError) as error:
                raise DigestMismatchError(
                    f"{source} disappeared or became unreadable: {error.strerror}.",
                    "Run the command again; it reads all files again.",
                ) from error
            if sha256_file(target) != digest:
                raise DigestMismatchError(
                    f"{source} changed while it was in use.",
                    "Run the command again; it reads all files again.",
                )
            self._borrowed[digest] = target

    def _event(self, event: StageEvent) -> None:
        if event.kind == "finished":
            if self._engine.copies_files:
                self._waiting.append(event.stage)  # its files come when the container has ended
            else:
                self._keep(event.stage)
        if event.kind == "failed":
            kind = event.fields["kind"]
            error = error_for_kind(kind) if kind in REPORTABLE else StageFailedError
            self._failure = error(
                f"{self._plan.model}, stage {event.stage}: {event.fields['message']}",
                event.fields["remedy"],
            )
            return
        self._runner.on_event(
            "stage", model=self._plan.model, id=event.stage, state=event.kind, **event.fields
        )

    def _keep(self, step_id: str) -> None:
        """Store a finished step's files; its container keeps running."""
        step = self._plan.step(step_id)
        try:
            report = self._report(step_id)
            files = self._take(step_id)
        except StageOutputError as error:
            raise self._about_model(error) from None
        result = StageResult(key=step.key, stage=step.stage, files=files, **report)
        self._store.put_result(result)
        if self._runner.shared is not None:
            self._runner.shared.offer(result)
        remember(self._store, self._plan, step, result, {**self._known, **self._done})
        self._done[step_id] = result

    def _take(self, step_id: str) -> dict[str, Blob]:
        found: dict[str, Blob] = {}
        left = self._limits.output
        for file in self._output.files(step_id):
            blob = self._store.add_new(chunks_of(file.fd, left, f"{step_id}/files/{file.name}"))
            left -= blob.size
            found[file.name] = blob
        return dict(sorted(found.items()))

    def _report(self, step_id: str) -> dict[str, Any]:
        """Read a stage's own report: its facts, seconds and peak memory."""
        try:
            said = parse_json_object(self._output.report(step_id), size=MAX_REPORT)
        except MalformedError as error:
            raise refused(f"{step_id}/result.json", f"it {error}") from None
        facts, seconds, peak = (said.get(name) for name in ("facts", "seconds", "peak_rss"))
        sound = (
            isinstance(facts, dict)
            and type(seconds) in (int, float)
            and type(peak) is int
            and 0 <= peak < 1 << 53
            and 0 <= cast("float", seconds) < 1e9
        )
        if not sound:
            raise refused(f"{step_id}/result.json", "it does not have the fields of a result")
        return {"facts": facts, "seconds": seconds, "peak_rss": peak}

    def _judge(self, outcome: Outcome, limits: Limits) -> None:
        missing = [step.id for step in self._todo if step.id not in self._done]
        if isinstance(outcome.refused, CancelledError):
            raise outcome.refused
        if outcome.exit_code == 0 and not missing and outcome.refused is None:
            return
        where = f"{self._plan.model}, stage {missing[0] if missing else '?'}"
        log = self._store.root / "logs" / f"{self._plan.model}.log"
        log.parent.mkdir(exist_ok=True)
        write_atomic(log, plain(outcome.log, keep="\n\t").encode())
        if outcome.refused is not None:
            outcome.refused.remedy = f"{outcome.refused.remedy} Log: {log}".strip()
            raise outcome.refused
        if outcome.timed_out:
            raise StageTimeoutError(
                f"{where}: not finished after {limits.timeout:.0f} s.",
                "Give it more time with limits.timeout in the recipe (`kiln init` writes one).",
            )
        if self._failure is not None:
            if isinstance(self._failure, StageFailedError):
                self._failure.remedy = f"{self._failure.remedy} Log: {log}".strip()
            raise self._failure
        if outcome.out_of_memory:
            raise StageOutOfMemoryError(
                f"{where}: killed; it may use {limits.memory >> 20} MiB.",
                "Give it more memory with limits.memory in the recipe (`kiln init` writes one), or "
                f"free some. Log: {log}",
            )
        if outcome.exit_code == 137:
            raise StageFailedError(
                f"{where}: killed from outside.",
                "Somebody stopped its container, or the machine ran out of memory. Check the "
                f"kernel's log, then run the command again. Log: {log}",
            )
        raise StageFailedError(
            f"{where}: the container ended with code {outcome.exit_code} and no result.",
            f"Log: {log}",
        )


def _odd(model: str, step_id: str, what: str) -> StageFailedError:
    return StageFailedError(
        f"{model}, stage {step_id}: it {what}.", "This is a bug in the stage's code."
    )


def _stage_code(folder: Path, target: Path, steps: Iterable[Step]) -> Path:
    """Take a snapshot of the stage code, readable regardless of the checkout's permissions.

    It has what the steps' keys name, and nothing else: a stage that needs more must fail.

    Raises:
        StoreError: that is not what the folder holds.
    """
    closures = {step.stage: step.code for step in steps}
    chosen = {path for closure in closures.values() for path in closure.files}
    if not all(closure.files for closure in closures.values()):
        chosen = set()  # one of them runs the whole
    elif StageCode("", closures).wrong_in(tree_files(folder)):
        raise StoreError(
            "The stage code changed after the build began.",
            "Run again without editing it meanwhile.",
        )
    target.mkdir()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            name = path.relative_to(folder)
            if chosen and name.as_posix() not in chosen:
                continue
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            copy_file(path, place)
    return target


def _let_read(folder: Path) -> None:
    """Make a folder and those below readable to every user: the stage runs as another user."""
    for place, _, _ in os.walk(folder):
        Path(place).chmod(0o755)
