"""Build an image in one container, which writes the sealed layer itself.

An engine's own builder sends the packages to the engine, copies them into a layer, and leaves an
unsealed image: it has to be read out, sealed, loaded, and removed. Here the packages are mounted,
read-only. A program in the container (:mod:`kiln.images.inside`) runs the steps of the Dockerfile
and writes the canonical layer into a pipe, which is mounted, too. An engine's own streams of a
container's output cost ten times as much.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker.errors
from docker.types import LogConfig

from kiln.core.errors import EngineFailedError, ImageBuildError
from kiln.core.later import later
from kiln.core.lease import tagged_name
from kiln.images import seal
from kiln.images.definition import SOURCE_DATE_EPOCH
from kiln.images.dockerfile import INPUTS, Recipe
from kiln.images.inside import GREETING
from kiln.images.seal import FileFact
from kiln.running.engine import OWNER_LABEL, Engine
from kiln.running.limits import Limits
from kiln.running.visibility import SECURITY_OPTIONS, bind

_CHUNK = 1 << 20
_LINE = 200  # most bytes of a line in the pipe
_LOG_LINES = 200

#: Seconds until the program in the container must have opened its pipe.
_GREETING_PATIENCE = 60.0

#: How often a silent container is looked at, in milliseconds.
_LOOK = 250

#: Beside the installer, where Python looks first.
_COMPILEALL = "compileall.py"

#: The pipe's folder in the container: a mount point that every image has, and nobody's content.
_PIPE_FOLDER = "/out"

#: What root needs to install files: any owner and mode, whoever has them now.
_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"]


class UnsuitableEngineError(Exception):
    """The engine does not see this machine's folders, or not its pipes."""


def lay_out(recipe: Recipe, context: Path, folder: Path) -> None:
    """Put what a Dockerfile copies into its places below ``folder``, as hard links.

    Raises:
        ImageBuildError: the context lacks it, or two things have one place.
    """
    folder.mkdir()
    for source, place in recipe.copies:
        origin, target = context / source, folder / place
        try:
            if origin.is_dir():
                shutil.copytree(origin, target, copy_function=os.link, dirs_exist_ok=True)
                continue
            if not place or place.endswith("/"):
                target = target / source
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(origin, target)
        except (shutil.Error, FileExistsError, FileNotFoundError, NotADirectoryError) as error:
            raise ImageBuildError(
                f"The Dockerfile copies {source} to {INPUTS}/{place}, which is not possible.",
                "Compare its instructions with the image's files in docker/images.toml.",
            ) from error
    if not (folder / _COMPILEALL).exists():
        shutil.copy(Path(__file__).with_name("parallel_compileall.py"), folder / _COMPILEALL)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)  # the engine's root may be another user


class Layer:
    """A layer on its way out of a build container.

    Attributes:
        size: of the layer in bytes.
        digest: ``sha256:<hex>`` of the layer; set at the end of :meth:`chunks`.
        contents: a list of what it holds; set at the end of :meth:`chunks`.
    """

    def __init__(self, pipe: _Pipe, size: int, ended: Callable[[], None]) -> None:
        self._pipe, self._ended = pipe, ended
        self.size = size
        self.digest = ""
        self.contents: tuple[FileFact, ...] = ()

    def chunks(self) -> Iterator[bytes]:
        """Yield the layer; can be done once.

        Raises:
            ImageBuildError: the container's program did not end well.
        """
        digest = hashlib.sha256()
        for chunk in self._pipe.exactly(self.size):
            digest.update(chunk)
            yield chunk
        length = self._pipe.number(seal.MAX_CONTENTS)
        text = b"".join(self._pipe.exactly(length))
        self._ended()
        try:
            self.contents = tuple(map(FileFact.parse, text.decode("ascii").splitlines()))
        except ValueError as error:
            raise _broken() from error
        self.digest = f"sha256:{digest.hexdigest()}"


class BuildContainer:
    """One build of one image, in a container that lives as long as the ``with`` block.

    The container has no network, few capabilities, and sees nothing of this machine but what the
    image is built from.

    Args:
        image: what it starts from.
        folder: what the recipe copies (:func:`lay_out`).
        pipes: an empty folder.
        limits: memory and number of processes; none by default.
        until: when the time is up (:func:`time.monotonic`).
        on_step: called with each step as it begins, from another thread.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        recipe: Recipe,
        *,
        image: str,
        folder: Path,
        pipes: Path,
        limits: Limits | None,
        until: float | None,
        on_step: Callable[[str], None],
    ) -> None:
        self._engine, self._name = engine, name
        self._recipe, self._limits, self._until = recipe, limits, until
        self._image, self._folder, self._pipes = image, folder, pipes
        self._on_step = on_step
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._cleanup = contextlib.ExitStack()
        self._container: Any = None
        self._listener: threading.Thread | None = None

    def __enter__(self) -> Layer:
        """Run the steps; return the layer when it begins to come.

        Raises:
            UnsuitableEngineError: the engine does not see this machine's folders.
            ImageBuildError: a step failed.
            EngineFailedError: the engine failed, or the time is up.
        """
        with contextlib.ExitStack() as stack:
            pipe = stack.enter_context(_Pipe(self._pipes / "layer", self._look))
            self._container = self._create()
            stack.callback(later, lambda: self._engine.remove(self._container))
            stack.enter_context(self._engine.stoppable(self._container))
            with self._engine.failures(f"building image {self._name!r}"):
                stream = self._container.attach(stream=True, logs=True, demux=True)
                self._container.start()
            self._listener = threading.Thread(target=self._listen, args=(stream,), daemon=True)
            self._listener.start()
            if pipe.line(_GREETING_PATIENCE) != GREETING:
                raise UnsuitableEngineError
            layer = Layer(pipe, pipe.number(seal.MAX_SIZE, self._failed), self._end)
            self._cleanup = stack.pop_all()
            return layer

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _create(self) -> Any:
        limits = self._limits
        request = {
            "pipe": f"{_PIPE_FOLDER}/layer",
            "folders": sorted({step.folder for step in self._recipe.steps}
                              | ({self._recipe.folder} if self._recipe.folder else set())),
            "steps": [
                {"command": step.command, "environment": step.environment, "folder": step.folder}
                for step in self._recipe.steps
            ],
            "emptied": seal.EMPTIED,
            "blank": seal.ENGINE_FILES,
            "dropped": [*seal.DROPPED, INPUTS.strip("/")],
            "epoch": SOURCE_DATE_EPOCH,
        }  # fmt: skip
        program = Path(__file__).with_name("inside.py").read_text("utf-8")
        bounds: dict[str, Any] = {}
        if limits is not None:
            bounds = {
                "mem_limit": limits.memory,
                "memswap_limit": limits.memory,
                "pids_limit": limits.pids,
            }
        try:
            with self._engine.failures(f"building image {self._name!r}"):
                return self._engine.client.containers.create(
                    self._image,
                    ["/usr/bin/python3", "-I", "-B", "-c", program, json.dumps(request)],
                    name=f"kiln-{tagged_name().replace('.', '-')}",
                    labels={OWNER_LABEL: tagged_name()},
                    network_mode="none",
                    user="0:0",
                    cap_drop=["ALL"],
                    cap_add=_CAPABILITIES,
                    security_opt=list(SECURITY_OPTIONS),
                    stop_signal="SIGKILL",
                    working_dir="/",
                    log_config=LogConfig(
                        type="json-file", config={"max-size": "4m", "max-file": "1"}
                    ),
                    mounts=[
                        bind(self._folder, INPUTS, "ro"),
                        bind(self._pipes, _PIPE_FOLDER, "ro"),
                    ],
                    **bounds,
                )
        except EngineFailedError as error:
            # An engine on another machine, or in a virtual one, names the folder that it misses.
            cause = error.__cause__
            missed = any(str(path) in str(cause) for path in (self._folder, self._pipes))
            if isinstance(cause, docker.errors.APIError) and missed:
                raise UnsuitableEngineError from error
            raise

    def _listen(self, stream: Any) -> None:
        """Keep the end of the log, and tell the steps."""
        rest = b""
        # An engine that goes away ends the stream, which ends the build.
        with contextlib.suppress(Exception):
            for out, err in stream:
                for line in (out or b"").decode("utf-8", "replace").splitlines():
                    self._log.append(line)
                    if line.startswith("Step "):
                        self._on_step(line)
                *lines, rest = (rest + (err or b"")).split(b"\n")
                self._log.extend(line.decode("utf-8", "replace") for line in lines)
                rest = rest[-_CHUNK:]
        if rest:
            self._log.append(rest.decode("utf-8", "replace"))

    def _look(self) -> bool:
        """Whether the container still runs.

        Raises:
            EngineFailedError: the time is up.
        """
        if self._until is not None and time.monotonic() > self._until:
            raise EngineFailedError("Too slow.", "Give it more time.")  # the caller says it better
        return self._listener is None or self._listener.is_alive()

    def _end(self) -> None:
        """Wait for the end of the program, which has written everything.

        Raises:
            ImageBuildError: it ended with an error.
        """
        with self._engine.failures(f"building image {self._name!r}"):
            status = self._container.wait(timeout=60)["StatusCode"]
        if status != 0:
            raise self._failed()

    def _failed(self) -> ImageBuildError:
        """Describe the failure of a step."""
        if self._listener is not None:
            self._listener.join(5)
        tail = "\n".join(f"  {line}" for line in list(self._log)[-15:] if line)
        why = ""
        with contextlib.suppress(docker.errors.DockerException):
            self._container.reload()
            if self._container.attrs["State"].get("OOMKilled"):
                why = " It ran out of memory."
        return ImageBuildError(
            f"Image {self._name!r} could not be built: a step of its Dockerfile failed.{why}\n"
            f"{tail}\n",
            "`kiln doctor` checks the engine and the disk; the lines above are the end of the "
            "build log.",
        )


class _Pipe:
    """The reading end of a named pipe.

    Args:
        look: called while nothing comes: whether the writer still runs. Its errors pass through.
    """

    def __init__(self, path: Path, look: Callable[[], bool]) -> None:
        os.mkfifo(path)
        path.chmod(0o666)  # the engine's root may be another user
        path.parent.chmod(0o755)
        # Without a wait: nobody has it open for writing yet.
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)
        self._look = look
        self._rest = b""

    def __enter__(self) -> _Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def _read(self, until: float | None = None) -> bytes:
        """Return the next bytes; none at the end, or when it is later than ``until``."""
        while not self._poll.poll(_LOOK):
            if not self._look() and not self._poll.poll(0):
                return b""
            if until is not None and time.monotonic() > until:
                return b""
        return os.read(self._file, _CHUNK)

    def line(self, patience: float | None = None) -> bytes:
        """Return the next line, with its end; what there is of it if it does not come."""
        until = None if patience is None else time.monotonic() + patience
        while b"\n" not in self._rest and len(self._rest) < _LINE:
            data = self._read(until)
            if not data:
                break
            self._rest += data
        line, newline, self._rest = self._rest.partition(b"\n")
        return line + newline

    def number(self, most: int, failed: Callable[[], ImageBuildError] | None = None) -> int:
        """Return the number on the next line.

        Raises:
            ImageBuildError: there is none (then what ``failed`` says), or it is larger than
                ``most``.
        """
        line = self.line()
        if not line and failed is not None:
            raise failed()
        digits = line.removesuffix(b"\n")
        if not digits.isdigit() or len(digits) > 20 or int(digits) > most:
            raise _broken()
        return int(digits)

    def exactly(self, size: int) -> Iterator[bytes]:
        """Yield the next ``size`` bytes.

        Raises:
            ImageBuildError: fewer come.
        """
        while size:
            data, self._rest = self._rest or self._read(), b""
            if not data:
                raise _broken()
            if len(data) > size:
                data, self._rest = data[:size], data[size:]
            size -= len(data)
            yield data


def _broken() -> ImageBuildError:
    return ImageBuildError(
        "The build container ended in the middle of the image's layer.",
        "Run the command again; if it repeats, look at the engine's own log.",
    )
