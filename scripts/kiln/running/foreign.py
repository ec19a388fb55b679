"""Run a compiler that is not kiln's in a sealed container: one file in, one file out.

The contract (docs/devices.md): the program gets three arguments, the file to read, the file to
write, and the target, and ends with 0. It has no network, nothing of this machine but its own
files, and bounded time, memory and output. What it wrote is untrusted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kiln.core.errors import (
    CompilerError,
    EngineFailedError,
    StageOutOfMemoryError,
    StageTimeoutError,
    UsageError,
)
from kiln.core.files import disk_guard, write_atomic
from kiln.core.plain_text import plain, shortened
from kiln.core.store import Store
from kiln.running.limits import Limits, Outcome
from kiln.running.stage_output import StageOutput, chunks_of, refused
from kiln.running.stage_user import owner_outside, stage_user

if TYPE_CHECKING:
    from kiln.running.engine import Engine

#: Places inside the container.
PROGRAM = "/kiln/compiler"
INPUT, OUTPUT = "/in/model.tflite", "/out/compiled/files/model.tflite"

#: The program of a folder.
ENTRY = "compile"

_STEP, _NAME = "compiled", "model.tflite"

#: Bounds of a compiler's container. A detector has some MB, and compilers take seconds.
LIMITS = Limits(timeout=600.0, output=1 << 30, output_files=1000)


@dataclass(frozen=True)
class Foreign:
    """A compiler.

    Attributes:
        name: for messages.
        image: the image that it runs in.
        program: a file or folder of this machine that is laid into the container; None: the image
            has the program, as its entry point.
    """

    name: str
    image: str
    program: Path | None = None


def arguments(target: str) -> list[str]:
    """Return the arguments that a compiler is given."""
    return [INPUT, OUTPUT, target]


def run(
    engine: Engine, store: Store, compiler: Foreign, data: bytes, target: str, limits: Limits
) -> bytes:
    """Compile ``data``; return what the program wrote.

    Raises:
        UsageError: the program cannot be read.
        CompilerError: it failed, or did not write one file.
        StageOutputError: what it wrote must not be read, or is too much.
        StageTimeoutError, StageOutOfMemoryError: it took more than it may.
        EngineFailedError: the engine failed.
    """
    with store.scratch() as scratch, disk_guard(scratch):
        inputs, outputs = scratch / "in", scratch / "out"
        place = outputs / _STEP / "files"
        inputs.mkdir()
        place.mkdir(parents=True)
        (inputs / _NAME).write_bytes(data)
        mounts = {inputs: ("/in", "ro"), outputs: ("/out", "rw")}
        command: list[str] = []
        if compiler.program is not None:
            command = _laid_in(compiler.program, scratch / "compiler")
            mounts[scratch / "compiler"] = (PROGRAM, "ro")
            _let_read(scratch / "compiler")
        _let_read(inputs)
        uid, gid = stage_user(rootless=engine.rootless)
        owner = owner_outside(rootless=engine.rootless)
        for folder in (outputs, outputs / _STEP, place):
            folder.chmod(0o755)
            if os.getuid() == 0:
                os.chown(folder, owner, owner)
        said = bytearray()
        with contextlib.closing(StageOutput(outputs, owner, limits)) as output:
            outcome = _run(
                engine, compiler, [*command, *arguments(target)], mounts, limits,
                f"{uid}:{gid}", said, output.check_use,
            )  # fmt: skip
            _judge(store, compiler, target, outcome, bytes(said), limits)
            return _taken(output, compiler, target, limits)


def _laid_in(program: Path, folder: Path) -> list[str]:
    """Copy a program, readable to every user; return the command that runs it."""
    try:
        if program.is_dir():
            shutil.copytree(program, folder, symlinks=True)
            name = ENTRY
        else:
            folder.mkdir()
            shutil.copy(program, folder)
            name = program.name
        (folder / name).chmod(0o755)
    except (OSError, shutil.Error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(
            f"The compiler {program} cannot be read: {shortened(why, 300)}.",
            f"Give a program; or a folder with a program called {ENTRY!r} in it.",
        ) from None
    # From a shell: a file that is no program is then its failure, not the engine's; and the program
    # is not the first process, which no signal of its own ends.
    return ["/bin/sh", "-c", '"$0" "$@"; exit $?', f"{PROGRAM}/{name}"]


def _let_read(folder: Path) -> None:
    """Make a folder and what is in it readable to every user: the program runs as another."""
    for place, _, files in os.walk(folder):
        Path(place).chmod(0o755)
        for name in files:
            path = Path(place, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o111 else 0o644)


def _run(
    engine: Engine,
    compiler: Foreign,
    command: Sequence[str],
    mounts: Mapping[Path, tuple[str, str]],
    limits: Limits,
    user: str,
    said: bytearray,
    watch: Callable[[], None],
) -> Outcome:
    def listen(chunk: bytes) -> None:
        said.extend(chunk)
        del said[: -(1 << 16)]  # the end of it is the useful part

    try:
        return engine.run(
            compiler.image, command, mounts=mounts, environment={}, limits=limits,
            on_stdout=listen, user=user, watch=watch,
        )  # fmt: skip
    except EngineFailedError as error:
        if "exec" not in error.message:
            raise
        raise CompilerError(
            f"The image {compiler.name} does not start: {error.message}",
            "Its entry point must be a program that takes three arguments (docs/devices.md).",
        ) from None


def _judge(
    store: Store, compiler: Foreign, target: str, outcome: Outcome, said: bytes, limits: Limits
) -> None:
    if outcome.exit_code == 0 and outcome.refused is None and not outcome.timed_out:
        return
    text = plain(f"{said.decode('utf-8', 'replace')}\n{outcome.log}", keep="\n\t")
    log = store.root / "logs" / "compile.log"
    log.parent.mkdir(exist_ok=True)
    write_atomic(log, text.encode())
    what = f"The compiler {compiler.name}"
    if outcome.refused is not None:
        raise outcome.refused
    if outcome.timed_out:
        raise StageTimeoutError(
            f"{what} was not finished for {target} after {limits.timeout:g} s.",
            f"Give it more with --timeout. Its output: {log}",
        )
    if outcome.out_of_memory:
        raise StageOutOfMemoryError(
            f"{what} was killed; it may use {limits.memory >> 20:,} MiB.", f"Its output: {log}"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = shortened(lines[-1], 300) if lines else "it said nothing"
    raise CompilerError(
        f"{what} ended with code {outcome.exit_code} for {target}: {last}",
        f"Its whole output: {log}",
    )


def _taken(output: StageOutput, compiler: Foreign, target: str, limits: Limits) -> bytes:
    found = b""
    there = False
    for file in output.files(_STEP):
        if file.name != _NAME:
            raise refused(file.name, f"only {OUTPUT} is wanted")
        there = True
        found = b"".join(chunks_of(file.fd, limits.output, file.name))
    if not there:
        raise CompilerError(
            f"The compiler {compiler.name} wrote no file for {target}.",
            "It must write the file that its second argument names (docs/devices.md).",
        )
    return found
