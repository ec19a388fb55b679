"""Run recorded plans as recorded, and compare the results with the release."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kiln.core.digest import sha256_bytes, sha256_file
from kiln.core.errors import (
    CancelledError,
    DiskFullError,
    EngineUnavailableError,
    ImageMismatchError,
    KilnError,
    StageOutOfMemoryError,
    StageTimeoutError,
    UsageError,
)
from kiln.core.files import copy_file, disk_guard, write_atomic
from kiln.core.machine import cpu_name
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.core.untrusted import MalformedError, parse_json_object, read_file
from kiln.project import bounds
from kiln.project.folders import Project
from kiln.reproduce.code import ReleasedCode
from kiln.reproduce.images import RecordedImages
from kiln.reproduce.inputs import Inputs
from kiln.reproduce.merging import Group, merge
from kiln.reproduce.recorded import Recorded
from kiln.reproduce.verdict import (
    DIFFERS,
    IDENTICAL,
    IMPOSSIBLE,
    Cause,
    Missing,
    Verdict,
    suspects,
)
from kiln.running.executor import Runner
from kiln.running.executor_protocol import OnEvent
from kiln.running.limits import Limits
from kiln.signing.statement_names import ATTESTATIONS, CONVERSION_FILE, SOURCE_FILE

if TYPE_CHECKING:
    from kiln.running.engine import Engine
    from kiln.tflite.diff import Difference

#: Exceptions from reading a record of an unexpected form.
_NONSENSE = (AttributeError, KeyError, TypeError, ValueError)

#: Failures that stop all the work: they would stop every artefact for the same reason.
_FINAL = (EngineUnavailableError, CancelledError, DiskFullError)


@dataclass
class Reproducer:
    """Rebuilds artefacts on this machine.

    Args:
        store: inputs and images may come from here; results never do.
        checkout: may provide embedded samples and, where it matches exactly, code.
        on_event: receives the events of :class:`kiln.running.executor.Runner`, and ``verdict`` for
            each artefact.
        folders: more places for inputs.
        source: the source archive, if it is not beside the statement.
        archives: files that may be archives of the images.
        keep: a folder for files that differ.
        fetch: whether published archives may be downloaded.
        strangers_image: whether an image may be built from the release's own definitions.
        most: limits of one container, whatever a statement asks for.
    """

    store: Store
    checkout: Project | None
    on_event: OnEvent
    folders: Sequence[Path] = ()
    source: Path | None = None
    archives: Sequence[Path] = ()
    keep: Path | None = None
    fetch: bool = True
    strangers_image: bool = False
    most: Limits = field(default_factory=Limits)
    find_engine: Callable[[], Engine] | None = None
    _engine: list[Engine] = field(default_factory=list)

    def engine(self) -> Engine:
        """The engine, found once; leftovers of dead runs are removed first."""
        if not self._engine:
            from kiln.running.engine import Engine

            self._engine.append((self.find_engine or Engine.find)())
            self._engine[0].sweep()
        return self._engine[0]

    def run(self, artefacts: Sequence[Recorded]) -> list[Verdict]:
        """Return a verdict for each artefact; a failure of one model does not stop the others.

        Raises:
            VerificationError: a source archive is not the recorded one; nothing was run.
            EngineUnavailableError, CancelledError, DiskFullError: the work cannot continue.
        """
        with self.store.scratch() as scratch:
            code = ReleasedCode(self.store, self.checkout, scratch, self.source)
            inputs = Inputs(
                self.store,
                self.folders,
                None if self.checkout is None else self.checkout.shipped,
                scratch,
                self.on_event,
                self.fetch,
            )
            # Check everything that can be refused before anything runs.
            folders = [self._docker_dir(code, item) for item in artefacts]
            results = Store(scratch / "results")
            done: dict[int, Verdict] = {}
            for model in dict.fromkeys(item.model for item in artefacts):
                chosen = {
                    id(item): folder
                    for item, folder in zip(artefacts, folders, strict=True)
                    if item.model == model
                }
                mine = [item for item in artefacts if id(item) in chosen]
                done.update(self._model(mine, chosen, inputs, results))
            return [done[id(item)] for item in artefacts]

    def _docker_dir(self, code: ReleasedCode, item: Recorded) -> Path | None:
        found = code.docker_dir(item)
        if found is None:
            return None
        folder, note = found
        if note:
            self.on_event("note", message=note)
        return folder

    def _model(
        self,
        artefacts: Sequence[Recorded],
        docker: Mapping[int, Path | None],
        inputs: Inputs,
        results: Store,
    ) -> dict[int, Verdict]:
        done: dict[int, Verdict] = {}
        at_hand: dict[str, Path] = {}
        ready = []
        for item in artefacts:
            wanted = item.inputs()
            found = inputs.find(wanted, item.archive)
            missing = [
                Missing(f"input {name}", digest, item.came_from(name))
                for digest, name in wanted.items()
                if digest not in found
            ]
            causes = []
            if missing:
                causes.append(
                    Cause("input", f"{len(missing)} of {len(wanted)} inputs were not found.")
                )
            if docker[id(item)] is None:
                missing.append(
                    Missing(SOURCE_FILE, item.source, "the model's folder in the release")
                )
                causes.append(Cause("code", "its stage code and image definitions were not found."))
            if missing:
                done[id(item)] = self._told(
                    Verdict(item, IMPOSSIBLE, causes=tuple(causes), missing=tuple(missing))
                )
                continue
            at_hand.update(found)
            ready.append(item)
        for group in merge(ready):
            folder = docker[id(group.artefacts[0])]
            assert folder is not None
            for verdict in self._group(group, folder, at_hand, results):
                done[id(verdict.recorded)] = self._told(verdict)
        self.on_event("model", model=artefacts[0].model, state="reproduced")
        return done

    def _told(self, verdict: Verdict) -> Verdict:
        self.on_event("verdict", **verdict.as_json())
        return verdict

    def _group(
        self, group: Group, docker: Path, lent: Mapping[str, Path], results: Store
    ) -> list[Verdict]:
        first = group.artefacts[0]
        tags: dict[str, str] = {}
        try:
            for name in first.images:
                tags[name] = self._image(docker, name)
        except _FINAL:
            raise
        except KilnError as error:
            name = next(item for item in first.images if item not in tags)
            # (The remedy of a mismatch is for people who change an image on purpose.)
            said = error.message if isinstance(error, ImageMismatchError) else str(error)
            why = f"the recorded image is not available: {said}"
            missing = Missing(
                f"image {name}",
                first.images[name].removeprefix("sha256:"),
                _where(first, name, self.strangers_image),
            )
            return [
                Verdict(item, IMPOSSIBLE, causes=(Cause("image", why),), missing=(missing,))
                for item in group.artefacts
            ]
        runner = Runner(self.engine, results, docker / "stages", self.on_event, lent=lent)
        failure: KilnError | None = None
        try:
            runner.run(
                group.plan, self._limits(group), lambda: tags[first.image], others=tags.__getitem__
            )
        except _FINAL:
            raise
        except KilnError as error:
            failure = self._with_log(error, first.model, results)
        known = runner.known(group.plan)
        return [self._judged(item, known, results, failure) for item in group.artefacts]

    def _limits(self, group: Group) -> Limits:
        """Return the limits for a group's container: as recorded, within this machine's bounds."""
        said = group.artefacts[0].limits
        for what, recorded, most in (
            ("memory", said.memory / (1 << 20), self.most.memory / (1 << 20)),
            ("timeout", said.timeout, self.most.timeout),
        ):
            if recorded > most:
                unit = "MiB" if what == "memory" else "s"
                self.on_event(
                    "note",
                    message=f"{group.plan.model}: its release was made with up to "
                    f"{recorded:,.0f} {unit}; here a container gets {most:,.0f} {unit} "
                    f"at most (--{what})",
                )
        # The recorded time was for one artefact; here several share a container.
        time = said.timeout * len(group.artefacts)
        return replace(
            self.most,
            memory=min(said.memory, self.most.memory),
            timeout=min(time, self.most.timeout),
        )

    def _image(self, docker: Path, name: str) -> str:
        """Return the tag of exactly a recorded image; fetch or build it if it is missing."""
        images = RecordedImages(
            self.engine,
            self.store,
            self.on_event,
            self.archives,
            self.checkout,
            self.strangers_image,
            self.most,
        )
        return images.bring(docker, name).tag

    def _with_log(self, error: KilnError, model: str, results: Store) -> KilnError:
        """Add the log to the failure, if the log is kept after this run."""
        log = results.root / "logs" / f"{model}.log"
        kept = self.store.root / "logs" / f"reproduce-{model}.log"
        if log.is_file():
            kept.parent.mkdir(exist_ok=True)
            write_atomic(kept, log.read_bytes())
            error.remedy = error.remedy.replace(str(log), str(kept))
        if isinstance(error, StageTimeoutError):
            error.remedy = (
                "This machine is slower or busier: try one variant at a time, or give it more "
                "with --timeout."
            )
        if isinstance(error, StageOutOfMemoryError):
            error.remedy = f"Allow it more with --memory. Log: {kept}"
        return error

    def _judged(
        self,
        item: Recorded,
        known: Mapping[str, StageResult],
        results: Store,
        failure: KilnError | None,
    ) -> Verdict:
        made = known.get(item.plan.artefacts[item.file])
        if made is None or "model.tflite" not in made.files:
            why = str(failure) if failure else "its last stage made no model.tflite."
            kind = "input" if failure and failure.kind == "digest-mismatch" else "stage"
            return Verdict(item, IMPOSSIBLE, causes=(Cause(kind, why),))
        digest = made.files["model.tflite"].sha256
        if digest == item.sha256:
            return Verdict(item, IDENTICAL, digest)
        path = results.path(digest)
        first = _first_difference(item, known)
        return Verdict(
            item,
            DIFFERS,
            digest,
            causes=suspects(item, platform.machine(), cpu_name(), contradicted=first == ""),
            difference=self._difference(item, path),
            first=first or "",
            kept=self._kept(item, path),
        )

    def _difference(self, item: Recorded, made: Path) -> Difference | None:
        released = next((path for path in _beside(item, item.file) if path.is_file()), None)
        if released is None or released.is_symlink():
            return None
        if sha256_file(released) != item.sha256:
            self.on_event(
                "note",
                message=f"{released} is not the file that its provenance is about, so it is not "
                "compared with what was made; `kiln verify` checks the release",
            )
            return None
        from kiln.tflite.diff import compare

        try:
            return compare(released, made, f"released {item.file}", "made again")
        except KilnError as error:
            self.on_event("note", message=f"{item.file}: {error.message}")
            return None

    def _kept(self, item: Recorded, made: Path) -> Path | None:
        if self.keep is None:
            return None
        target = self.keep / item.model / item.file
        with _writable(target), disk_guard(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            copy_file(made, target)
        return target


def _beside(item: Recorded, name: str) -> list[Path]:
    """List where a file of the release may be: the model's folder, or beside the statement."""
    folder = item.place.parent
    return [folder.parent / name, folder / name] if folder.name == ATTESTATIONS else [folder / name]


def _where(item: Recorded, image: str, built: bool) -> str:
    """Describe how to get an image that an artefact was made in."""
    ways = [
        f"its archive, with --image (`kiln images save {image}` writes it where the image is)",
        "a bundle (`kiln bundle create --release`), with --bundle",
        "a registry that has it (KILN_IMAGE_REGISTRY)",
        f"a checkout of {item.origin or 'what the release was made from'}, which builds it",
    ]
    if not built:
        ways.append("the release's own definitions, if you trust them (--build-strangers-image)")
    return "; ".join(ways)


@contextlib.contextmanager
def _writable(target: Path) -> Iterator[None]:
    """Report a folder of --keep that cannot be written to."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written: {error.strerror or error}.",
            "Name another folder with --keep.",
        ) from error


def _first_difference(item: Recorded, known: Mapping[str, StageResult]) -> str | None:
    """Find the first step whose files differ from the release's own record.

    "" where none differs, None where there is no such record.
    """
    digest = item.byproducts.get(CONVERSION_FILE)
    for path in _beside(item, CONVERSION_FILE):
        try:
            data = read_file(path, bounds.RECORD.most)
        except (MalformedError, OSError):
            continue
        if sha256_bytes(data) != digest:
            continue
        try:
            stages = parse_json_object(data, size=bounds.RECORD.most)["stages"]
            for step in item.plan.steps:
                if stages[step.id]["key"] != step.key:
                    return None  # a record of something else
                files = {name: blob.sha256 for name, blob in known[step.id].files.items()}
                if stages[step.id]["files"] != files:
                    return step.id
        except _NONSENSE:
            return None
        return ""
    return None
