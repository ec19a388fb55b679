"""Compile one finished ``.tflite`` for an NPU, for ``kiln compile``.

Vela runs in its sealed image, as in a build. A compiler whose licence forbids shipping it is the
user's own: a program of this machine, or an image. In either case labels and metadata are put back,
and the result is compared with the file that was given.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiln.building.from_training import slugify
from kiln.building.output_file import check_target, write
from kiln.cache.opening import shared_results
from kiln.core.digest import sha256_bytes, sha256_file, tree_digest
from kiln.core.errors import CompilerError, UnsupportedModelError, UsageError
from kiln.core.store import Store
from kiln.core.version import __version__
from kiln.images.lock import locked_image
from kiln.project.closures import read_stage_code
from kiln.project.folders import Project
from kiln.project.stagecode import stage_module
from kiln.recipes import targets
from kiln.recipes.check_steps import DEVICE
from kiln.recipes.plan import Files, Plan
from kiln.recipes.steps import lone_step
from kiln.running import foreign
from kiln.running.executor import Runner
from kiln.running.executor_protocol import OnEvent
from kiln.running.limits import Limits
from kiln.signing.signer import own_signer
from kiln.signing.statement_names import PROVENANCE_SUFFIX
from kiln.statements.compilation import Compilation, compilation_statement
from kiln.tflite.known_kinds import EDGE_TPU, ETHOS_U
from kiln.tflite.reading import TfliteFile, load
from kiln.tflite.schema import OPERATORS

if TYPE_CHECKING:
    from kiln.running.engine import Engine

STEP = "compile"

#: The record's name is the file's with this ending.
RECORD_SUFFIX = ".json"

#: What may be an image's name, with a tag or a digest.
_IMAGE = re.compile(r"[a-z0-9]+([._/:@-]+[A-Za-z0-9]+)*")

LONGEST = 86_400  # seconds that a compiler may be given

_MOST_TARGET = 100  # characters of a target's name that a foreign compiler is given


@dataclass(frozen=True)
class Wanted:
    """What to compile, and for what.

    Attributes:
        target: one that Vela knows, or any name that the other compiler understands.
        compiler: a program, a folder with one, or the name of an image; None: Vela.
        system_config: Vela's; None: its default for the target. So is ``memory_mode``.
        least_mapped: the smallest share of operators on the NPU, 0 to 1; None: a recipe's default.
            Only Vela counts them.
        timeout: seconds that the compiler may take.
    """

    file: Path
    target: str
    compiler: str | None = None
    system_config: str | None = None
    memory_mode: str | None = None
    least_mapped: float | None = None
    timeout: float = foreign.LIMITS.timeout


@dataclass(frozen=True)
class Compiled:
    """The result: a file, and a record and a signed provenance beside it."""

    path: Path
    record_path: Path
    record: Mapping[str, Any]
    provenance_path: Path


def compile_file(
    wanted: Wanted, output: Path, on_event: OnEvent, *, force: bool = False
) -> Compiled:
    """Write ``wanted.file``, compiled, to ``output``, and a record and a provenance beside it.

    Args:
        force: replace files that exist.

    Raises:
        UsageError: there is no such target or compiler, or a file cannot be read or written.
        UnsupportedModelError: the file is damaged, or cannot be compiled.
        CompilerError: the compiler failed, or wrote something else.
        SigningKeyError: the user's own key cannot be used.
        KilnError: the engine or the image failed.
    """
    record_path = output.with_name(output.name + RECORD_SUFFIX)
    provenance_path = output.with_name(output.name + PROVENANCE_SUFFIX)
    for path in (output, record_path, provenance_path):
        check_target(path, force)
    _check_names(wanted, output)
    _check_numbers(wanted)
    chip = _chip(wanted)
    file = load(wanted.file)
    store = Store(Store.default_root())
    store.sweep()
    worker = _Worker(Project.find(), store, on_event)
    if chip is not None:
        _check_integer(file)
    signer = own_signer()  # before the work: a key may be locked
    made = worker.by_vela(file, chip, wanted) if chip else worker.by_foreign(file, wanted)
    digest = sha256_bytes(made.data)
    record = {
        "schema": 1,
        "kiln": __version__,
        "target": wanted.target,
        **made.found,
        "file": {"name": output.name, "sha256": digest, "size": len(made.data)},
        "made_from": {"name": wanted.file.name, "sha256": file.sha256, "size": len(file.data)},
    }
    text = json.dumps(record, indent=1, sort_keys=True).encode() + b"\n"
    compilation = Compilation(
        {"model": wanted.file.stem, "target": wanted.target, **made.parameters},
        made.command,
        {"timeout": wanted.timeout},
        {f"input/{wanted.file.name}": {"sha256": file.sha256}, **made.dependencies},
        (record_path.name, sha256_bytes(text)),
    )
    bundle = signer.seal(compilation_statement(compilation, output.name, digest))
    write(record_path, text)
    write(provenance_path, bundle)
    write(output, made.data)
    return Compiled(output, record_path, record, provenance_path)


@dataclass(frozen=True)
class _Made:
    """What a compiler made, and with what; see :class:`kiln.statements.compilation.Compilation`.

    Attributes:
        data: the finished file.
        found: what the record says of it.
    """

    data: bytes
    found: Mapping[str, Any]
    parameters: Mapping[str, Any]
    dependencies: Mapping[str, Mapping[str, str]]
    command: tuple[str, ...] = ()


def _check_names(wanted: Wanted, output: Path) -> None:
    """Refuse names that a statement cannot hold.

    Raises:
        UsageError: one is not Unicode.
    """
    for name in (output.name, wanted.file.name, wanted.compiler or ""):
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(
                f"{os.fsencode(name)!r} is not text in UTF-8, which a signed statement must be.",
                "Rename the file, or use another name.",
            ) from None


def _check_numbers(wanted: Wanted) -> None:
    """Refuse from Python what the command line's options do not let through.

    Raises:
        UsageError: a number cannot be.
    """
    if wanted.least_mapped is not None and not 0 <= wanted.least_mapped <= 1:
        raise UsageError(f"--least-mapped {wanted.least_mapped} cannot be.", "Give 0 to 1.")
    if not 1 <= wanted.timeout <= LONGEST:
        raise UsageError(f"--timeout {wanted.timeout} cannot be.", f"Give 1 to {LONGEST} seconds.")


def _chip(wanted: Wanted) -> targets.Target | None:
    """Return Vela's target; None for another compiler.

    Raises:
        UsageError: there is no such target, or an option is not the other compiler's.
    """
    if wanted.compiler is None:
        try:
            return targets.target(wanted.target, wanted.system_config, wanted.memory_mode)
        except ValueError as error:
            words = str(error)
            raise UsageError(
                f"{words[0].upper()}{words[1:]}.",
                "Name one of them; for another compiler than Vela, give it with --with.",
            ) from None
    if (wanted.system_config, wanted.memory_mode, wanted.least_mapped) != (None, None, None):
        raise UsageError(
            "--system-config, --memory-mode and --least-mapped cannot be combined with --with.",
            "They are Vela's; the other compiler is given the target's name only.",
        )
    if not wanted.target.isprintable() or not 0 < len(wanted.target) <= _MOST_TARGET:
        raise UsageError(
            f"--target {wanted.target[:_MOST_TARGET]!r} is not a name.",
            f"Give up to {_MOST_TARGET} printable characters.",
        )
    return None


def _check_integer(file: TfliteFile) -> None:
    """Refuse what Vela does not take.

    Raises:
        UnsupportedModelError: it computes in float, or is compiled already.
    """
    operators = (operator.name for graph in file.graphs for operator in graph.operators)
    if any(name in (ETHOS_U, EDGE_TPU) for name in operators):
        raise UnsupportedModelError(
            f"{file.name} is compiled for an NPU already.",
            "Name the file from before the compiler.",
        )
    graph = file.model.graph
    kinds = stage_module("tflite.compiled").float_inputs(graph)
    if kinds or not graph.inputs:
        raise UnsupportedModelError(
            f"{file.name} takes {', '.join(kinds) or 'nothing'}; an NPU computes in whole numbers "
            "only.",
            "Name the int8 file.",
        )


class _Worker:
    """Compiles in containers."""

    def __init__(self, project: Project, store: Store, on_event: OnEvent) -> None:
        self.project, self.store, self.on_event = project, store, on_event
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        """The engine, found once; leftovers of dead runs are removed first."""
        from kiln.running.engine import Engine

        if self._engine is None:
            self._engine = Engine.find()
            self._engine.sweep()
        return self._engine

    def image(self, name: str = DEVICE) -> str:
        """Return the tag of a sealed image; get or build it if the engine lacks it."""
        from kiln.images.builder import Images

        return Images(self.project.docker, self.engine, self.store, self.on_event).ensure(name).tag

    def by_vela(self, file: TfliteFile, chip: targets.Target, wanted: Wanted) -> _Made:
        """Compile with Vela."""
        locked = locked_image(self.project.docker, DEVICE)
        code = read_stage_code(self.project.stages, self.store)
        model = self.store.add_bytes(file.data)
        least = targets.LEAST_MAPPED if wanted.least_mapped is None else wanted.least_mapped
        params = {**chip.as_params(), "least_mapped": least, "seconds": wanted.timeout}
        inputs = {"model": Files({"": model})}
        step = lone_step(STEP, STEP, params, inputs, image=locked.identity, code=code)
        name = f"compile-{slugify(wanted.file.stem) or 'model'}"
        plan = Plan(name, locked.name, (step,), {STEP: STEP}, (), locked.identity, code)
        shared = shared_results(self.store, lambda text: self.on_event("note", message=text))
        runner = Runner(self.engine, self.store, self.project.stages, self.on_event, shared=shared)
        # The stage stops Vela by itself, and says so.
        limits = replace(Limits(), timeout=wanted.timeout + 60)
        result = runner.run(plan, limits, self.image, facts=plan.ids())[STEP]
        data = self.store.read(result.files["model.tflite"].sha256, f"{file.name}, compiled")
        found = {name: value for name, value in result.facts.items() if name != "gates"}
        image = {"name": locked.name, "identity": locked.identity}
        return _Made(
            data,
            {**found, "image": image, "stage_code": code.digest},
            {"compiler": "Vela", **chip.as_params(), "least_mapped": least},
            {
                f"image/{locked.name}": _sha256(locked.identity),
                "stage-code": {"kilnTree": code.digest},
            },
        )

    def by_foreign(self, file: TfliteFile, wanted: Wanted) -> _Made:
        """Compile with the user's own compiler."""
        assert wanted.compiler is not None
        compiler, about, dependencies = self._found(wanted.compiler)
        self.on_event("note", message=f"compiling {file.name} with {compiler.name}")
        limits = replace(foreign.LIMITS, timeout=wanted.timeout)
        written = foreign.run(self.engine(), self.store, compiler, file.data, wanted.target, limits)
        module = stage_module("tflite.compiled")
        try:
            done = module.finished(file.data, written)
        except module.UnlikeError as error:
            raise CompilerError(
                f"What {compiler.name} wrote is not a compiled form of {file.name}: {error}.",
                "It is not taken. Check that the compiler was given the right target.",
            ) from None
        except ValueError as error:  # of the file that was given
            raise UnsupportedModelError(
                f"{file.name} cannot be compiled: {error}.", "Name another file."
            ) from None
        left = {
            custom or (OPERATORS[code] if code < len(OPERATORS) else f"operator {code}"): count
            for (code, custom), count in sorted(done.left.items())
        }
        found = {
            "compiler": about,
            "calls": dict(done.calls),
            "left": left,
            "restored": list(done.restored),
        }
        command = tuple(foreign.arguments(wanted.target))
        return _Made(done.data, found, {"compiler": about["name"]}, dependencies, command)

    def _found(
        self, name: str
    ) -> tuple[foreign.Foreign, dict[str, str], dict[str, dict[str, str]]]:
        """Find a compiler: a path that exists is a program, anything else an image.

        Returns:
            (the compiler, what the record says of it, the dependencies that it is).

        Raises:
            UsageError: there is neither.
        """
        path = Path(name)
        try:
            there = path.exists()
        except OSError as error:
            raise UsageError(
                f"The compiler {name} cannot be read: {error.strerror or error}.",
                "Give the path of a program, or the name of an image.",
            ) from None
        if there:
            program = path / foreign.ENTRY if path.is_dir() else path
            if not program.is_file():
                raise UsageError(
                    f"There is no program {program}.",
                    f"Give a program; or a folder with one called {foreign.ENTRY!r}.",
                )
            digest = tree_digest(path) if path.is_dir() else sha256_file(path)
            about = {"name": path.absolute().name, "sha256": digest}
            device = locked_image(self.project.docker, DEVICE).identity
            kind = "kilnTree" if path.is_dir() else "sha256"
            # Not "image/device": a trust file that wants kiln's images does not mean a program in
            # one of them.
            dependencies = {"compiler": {kind: digest}, "container": _sha256(device)}
            return foreign.Foreign(name, self.image(), path), about, dependencies
        return self._in_image(name)

    def _in_image(
        self, name: str
    ) -> tuple[foreign.Foreign, dict[str, str], dict[str, dict[str, str]]]:
        import docker.errors

        image = None
        if _IMAGE.fullmatch(name):
            with (
                self.engine().failures("looking for an image"),
                contextlib.suppress(docker.errors.ImageNotFound),
            ):
                image = self.engine().client.images.get(name)
        if image is None:
            raise UsageError(
                f"There is no compiler {name}: neither a file, nor an image of the engine.",
                "Give the path of a program; or load the image first (`docker load`).",
            )
        if not (image.attrs.get("Config") or {}).get("Entrypoint"):
            raise UsageError(
                f"The image {name} has no entry point.",
                "Its entry point must be a program that takes three arguments: the file to read, "
                "the file to write, and the target (docs/devices.md).",
            )
        identity = str(image.id)
        about = {"name": name, "image": identity}
        return foreign.Foreign(name, identity), about, {"compiler": _sha256(identity)}


def _sha256(identity: str) -> dict[str, str]:
    return {"sha256": identity.removeprefix("sha256:")}
