"""Find a container engine that answers, and run one isolated container.

All use of the Docker API is here and in ``kiln.images``; the rest of the package does not deal with
sockets or containers.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests
import urllib3.exceptions
from docker.types import LogConfig, Ulimit

from kiln.core.errors import CancelledError, EngineFailedError, EngineUnavailableError, KilnError
from kiln.core.lease import is_abandoned, is_ours, tagged_name
from kiln.running.limits import Limits, Outcome

#: A label on every container and intermediate image we make; its value is the owner's tag.
OWNER_LABEL = "org.tflite-kiln.owner"

#: Seconds an engine may take to answer at all, and to answer any later request.
_PING_TIMEOUT, _TIMEOUT = 10, 600

#: Seconds an engine gets to remove the containers of a stopped command.
_STOP_PATIENCE = 5.0

#: How often a running container is checked, and how long an engine may take to kill one.
_WATCH_SECONDS, _KILL_PATIENCE = 0.25, 8.0

#: What the engine keeps of a container's output; kiln reads the output as it comes.
_LOG_SIZE = "4m"

#: Environment of a stage's process: time, language and hashing do not depend on the host.
FIXED_ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}

_STREAM_FAILURES = (
    docker.errors.DockerException,
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    ConnectionError,
)


def candidate_sockets() -> list[str]:
    """List addresses where an engine may listen, in the order they are tried.

    ``DOCKER_HOST`` alone when it is set; otherwise Docker's default socket, the rootless and
    Docker Desktop ones, then Podman's Docker-compatible sockets.
    """
    named = os.environ.get("DOCKER_HOST")
    if named:
        return [named]
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    paths = [
        "/var/run/docker.sock",
        f"{runtime}/docker.sock",
        str(Path.home() / ".docker/run/docker.sock"),
        f"{runtime}/podman/podman.sock",
        "/run/podman/podman.sock",
    ]
    return [f"unix://{path}" for path in paths]


class Engine:
    """A connection to an engine that answered.

    Args:
        address: where it listens; ``DOCKER_HOST`` syntax.
        client: an open docker SDK client.
    """

    def __init__(self, address: str, client: docker.DockerClient) -> None:
        self.address = address
        self.client = client
        self._running: set[Any] = set()
        self._stopped = False

    @classmethod
    def find(cls) -> Engine:
        """Connect to the first engine that answers (:func:`candidate_sockets`).

        Raises:
            EngineUnavailableError: none answers; the message lists what was tried.
        """
        tried = []
        for address in candidate_sockets():
            path = address.removeprefix("unix://")
            if address.startswith("unix://") and not Path(path).exists():
                tried.append(f"{address} (no such socket)")
                continue
            try:
                # from_env also takes DOCKER_TLS_VERIFY and DOCKER_CERT_PATH into account.
                client = docker.from_env(
                    timeout=_PING_TIMEOUT, environment={**os.environ, "DOCKER_HOST": address}
                )
                client.ping()
                client.api.timeout = _TIMEOUT
            except (*_STREAM_FAILURES, OSError, ValueError) as error:
                tried.append(f"{address} ({_why_not(error)})")
                continue
            return cls(address, client)
        raise EngineUnavailableError(
            f"No container engine answers. Tried: {', '.join(tried)}.",
            "Start Docker or Podman (`systemctl start docker`, or Docker Desktop), join the "
            "`docker` group, or name another engine in DOCKER_HOST. On Debian and Ubuntu as root, "
            "`make engine` installs and starts one.",
        )

    @functools.cached_property
    def rootless(self) -> bool:
        """Whether the engine runs as an ordinary user (its container root is that user)."""
        with self.failures("describing itself"):
            options = self.client.info().get("SecurityOptions") or []
        return any("rootless" in option for option in options)

    @functools.cached_property
    def is_podman(self) -> bool:
        """Whether it is Podman behind the Docker API."""
        with self.failures("describing itself"):
            parts = self.client.version().get("Components") or []
        return any("Podman" in part.get("Name", "") for part in parts)

    def describe(self) -> str:
        """Return name, version and storage of the engine, for people."""
        with self.failures("describing itself"):
            version, info = self.client.version(), self.client.info()
        name = "Podman" if self.is_podman else "Docker"
        return f"{name} {version.get('Version', '?')}, {info.get('Driver', '?')}, {self.address}"

    @contextlib.contextmanager
    def failures(self, doing: str) -> Iterator[None]:
        """Convert the client's exceptions to :class:`EngineFailedError`."""
        try:
            yield
        except docker.errors.APIError as error:
            reason = error.explanation or str(error)
            raise EngineFailedError(
                f"The engine failed while {doing}: {str(reason).strip().rstrip('.')}.",
                "Look at the engine's own log; `kiln doctor` checks what kiln needs of it.",
            ) from error
        except _STREAM_FAILURES as error:
            raise EngineFailedError(
                f"The engine at {self.address} went away while {doing}.",
                "Start it again, then repeat the command; finished stages are kept.",
            ) from error

    def run(
        self,
        image: str,
        command: Sequence[str],
        *,
        mounts: Mapping[Path, tuple[str, str]],
        environment: Mapping[str, str],
        limits: Limits,
        on_stdout: Callable[[bytes], None],
        user: str,
        watch: Callable[[], None] | None = None,
    ) -> Outcome:
        """Run ``command`` in a fresh, isolated container and wait for its end.

        No network, read-only root, a tmpfs at ``/tmp``, no capabilities, no new privileges, a
        fixed host name and environment; only ``mounts`` (host path -> (place, ``ro``/``rw``)) come
        from outside. The container is always removed, also after Ctrl-C.

        Args:
            on_stdout: called with each chunk of standard output as it comes. If it raises a
                ``KilnError``, the container is stopped, and the error is the outcome's ``refused``.
            user: ``uid:gid`` of the process.
            watch: called at intervals while the container runs; its errors are treated the same
                way.

        Raises:
            EngineFailedError: the engine refused, went away, or does not stop the container.
            CancelledError: :meth:`stop_all` was called.
        """
        name = f"kiln-{tagged_name().replace('.', '-')}"
        with self.failures("starting a stage"):
            container = self.client.containers.create(
                image,
                list(command),
                name=name,
                labels={OWNER_LABEL: tagged_name()},
                network_mode="none",
                read_only=True,
                tmpfs={"/tmp": f"rw,nosuid,nodev,exec,mode=1777,size={limits.tmp}"},  # noqa: S108
                user=user,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                mem_limit=limits.memory,
                memswap_limit=limits.memory,
                pids_limit=limits.pids,
                # Neither a single file nor the engine's log may fill the disk.
                ulimits=self._file_size_limit(limits),
                log_config=LogConfig(
                    type="json-file", config={"max-size": _LOG_SIZE, "max-file": "1"}
                ),
                hostname="kiln",
                working_dir="/kiln",
                environment={**FIXED_ENVIRONMENT, **environment},
                volumes={
                    str(path): {"bind": place, "mode": mode}
                    for path, (place, mode) in mounts.items()
                },
            )
        self._running.add(container)
        hung = False
        try:
            if self._stopped:  # checked after the add: stop_all sees either us or the flag
                raise CancelledError("Stopped.")
            with self.failures("running a stage"):
                stream = container.attach(stream=True, logs=True, demux=True)
                guard = _Guard(container, stream, limits.timeout, watch)
                container.start()
                with guard:
                    log = _listen(stream, on_stdout, guard)
                    state = None if guard.hung else _end_of(container, guard)
                hung = guard.hung
                if state is None:
                    raise EngineFailedError(
                        f"The engine at {self.address} did not stop a container, {name}.",
                        "Start the engine again; the next command of kiln removes the container.",
                    )
                container.reload()
            return Outcome(
                exit_code=int(state["StatusCode"]),
                out_of_memory=bool(container.attrs["State"].get("OOMKilled")),
                timed_out=guard.expired,
                log=log.decode("utf-8", "replace"),
                refused=guard.refused,
            )
        finally:
            self._running.discard(container)
            if not hung:
                self.remove(container)

    def _file_size_limit(self, limits: Limits) -> list[Ulimit]:
        """Limit the size of single files, which could grow between two checks of their use.

        Podman then sets its own limits as well, which an ordinary user's engine may not be
        allowed to do; there, only the checks apply.
        """
        if self.rootless or self.is_podman:
            return []
        return [Ulimit(name="fsize", soft=limits.output, hard=limits.output)]

    @contextlib.contextmanager
    def stoppable(self, container: Any) -> Iterator[None]:
        """Let :meth:`stop_all` remove a container while the body runs.

        Raises:
            CancelledError: :meth:`stop_all` was called before.
        """
        self._running.add(container)
        try:
            if self._stopped:  # checked after the add: stop_all sees either us or the flag
                raise CancelledError("Stopped.")
            yield
        finally:
            self._running.discard(container)

    def stop_all(self) -> None:
        """Remove every container this process is running; their :meth:`run` calls then end.

        Later calls of :meth:`run` raise :class:`CancelledError`. If a hung engine has not removed
        a container after a few seconds, the next command removes it.
        """
        self._stopped = True
        # In threads: an engine that hangs answers none of these requests.
        helpers = [
            threading.Thread(target=self.remove, args=(container,), daemon=True)
            for container in list(self._running)
        ]
        for helper in helpers:
            helper.start()
        until = time.monotonic() + _STOP_PATIENCE
        for helper in helpers:
            helper.join(max(0.0, until - time.monotonic()))

    def remove(self, container: Any) -> None:
        """Kill and remove a container; silent if it, or the engine, is already gone."""
        with contextlib.suppress(*_STREAM_FAILURES):
            container.remove(force=True, v=True)

    def sweep(self, *, foreign: bool = False) -> int:
        """Remove the containers of dead kiln processes; return how many.

        ``foreign`` includes those whose owner cannot be seen from here (started before the
        last boot, or inside another container), unless they are running.
        """
        count = 0
        with self.failures("listing containers"):
            found = self.client.containers.list(
                all=True, filters={"label": OWNER_LABEL}, ignore_removed=True
            )
        for container in found:
            tag = container.labels.get(OWNER_LABEL, "")
            gone = is_abandoned(Path(tag))
            if gone or (foreign and not is_ours(tag) and container.status != "running"):
                self.remove(container)
                count += 1
        return count


def _why_not(error: Exception) -> str:
    text = str(error)
    if "Permission denied" in text:
        return "permission denied"
    if "scheme" in text.lower() or "bind address" in text.lower() or "tls" in text.lower():
        return text.strip().rstrip(".")
    return "no answer"


def _listen(stream: Any, on_stdout: Callable[[bytes], None], guard: _Guard) -> bytearray:
    """Pass on a container's output until it ends; return the end of its standard error."""
    log = bytearray()
    for out, err in stream:
        if out and guard.refused is None:
            try:
                on_stdout(out)
            except KilnError as error:
                guard.refuse(error)
        if err:
            log += err
            del log[: -(1 << 20)]  # the end of a log is the useful part
    return log


def _end_of(container: Any, guard: _Guard) -> Mapping[str, Any] | None:
    """Wait for the end of a container; None where the engine does not end it.

    A container that closed its output may still run, until its time is up.
    """
    while not guard.hung:
        try:
            state: Mapping[str, Any] = container.wait(timeout=5)
            return state
        except requests.exceptions.ReadTimeout:
            continue
        except requests.exceptions.ConnectionError as error:
            if "timed out" not in str(error).lower():
                raise
    return None


class _Guard:
    """Watches a running container from a separate thread, and stops it if necessary.

    The reader of ``stream`` always reaches its end: if the engine does not stop the container in
    time, the connection is cut.
    """

    def __init__(
        self, container: Any, stream: Any, timeout: float, watch: Callable[[], None] | None
    ) -> None:
        self._container, self._stream, self._watch = container, stream, watch
        self._until = time.monotonic() + timeout
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._stopping_since: float | None = None
        self._thread = threading.Thread(target=self._guard, daemon=True)
        self.refused: KilnError | None = None
        self.expired = False
        self.hung = False

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def refuse(self, error: KilnError) -> None:
        """Stop the container for a violation; the first reason counts."""
        with self._lock:
            if self.refused is None:
                self.refused = error
        self._stop()

    def _stop(self) -> None:
        with self._lock:
            if self._stopping_since is not None:
                return
            self._stopping_since = time.monotonic()
        # Do not wait: an engine that hangs does not answer.
        threading.Thread(target=self._kill, daemon=True).start()

    def _kill(self) -> None:
        with contextlib.suppress(*_STREAM_FAILURES):
            self._container.kill()

    def _guard(self) -> None:
        while not self._done.wait(_WATCH_SECONDS):
            now = time.monotonic()
            if self._stopping_since is not None:
                if now - self._stopping_since > _KILL_PATIENCE:
                    self.hung = True
                    with contextlib.suppress(*_STREAM_FAILURES, OSError, AttributeError):
                        self._stream.close()
                    return
            elif now > self._until:
                self.expired = True
                self._stop()
            elif self._watch is not None:
                try:
                    self._watch()
                except KilnError as error:
                    self.refuse(error)
