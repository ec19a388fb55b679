"""Find a container engine that answers, and run one isolated container.

All use of the Docker API is here and in ``kiln.images``; the rest of the package does not deal with
sockets or containers.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests
import urllib3.exceptions
from docker.tls import TLSConfig
from docker.types import LogConfig, Mount, Ulimit

from kiln.core.errors import (
    CancelledError,
    EngineFailedError,
    EngineUnavailableError,
    KilnError,
    StageOutputError,
)
from kiln.core.lease import is_abandoned, is_ours, tagged_name
from kiln.core.plain_text import plain, shortened
from kiln.running.addresses import Address, candidates
from kiln.running.copies import Copies
from kiln.running.limits import Limits, Outcome
from kiln.running.visibility import SECURITY_OPTIONS, bind, is_unmountable, reads_back, sees

#: A label on every container and intermediate image we make; its value is the owner's tag.
OWNER_LABEL = "org.tflite-kiln.owner"

#: Seconds an engine may take to answer at all, and to answer any later request.
_PING_TIMEOUT, _TIMEOUT = 10, 600

#: Seconds that a stopped command waits for the removal of its containers. The engine carries on
#: without us: under the storage driver vfs it deletes a copy of the whole image.
_STOP_PATIENCE = 1.0

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


class Engine:
    """A connection to an engine that answered.

    Args:
        address: where it listens; ``DOCKER_HOST`` syntax.
        client: an open docker SDK client.

    Attributes:
        copies_files: whether it turned out to see none of this machine's files; its containers get
            copies, and what one wrote is there only when :meth:`run` returns.
    """

    def __init__(self, address: str, client: docker.DockerClient) -> None:
        self.address = address
        self.client = client
        self._running: set[Any] = set()
        self._copies: set[Copies] = set()
        self._leaving: set[Any] = set()  # stop_all removes them
        self._stopped = False
        self._sees_files = False
        self.copies_files = False

    @classmethod
    def find(cls) -> Engine:
        """Connect to the first engine that answers (:func:`kiln.running.addresses.candidates`).

        Raises:
            EngineUnavailableError: none answers; the message lists what was tried. Or Docker's
                context cannot be used.
        """
        tried = []
        for address in candidates():
            path = address.url.removeprefix("unix://")
            if address.url.startswith("unix://") and not Path(path).exists():
                tried.append(f"{address} (no such socket)")
                continue
            if address.url.startswith("ssh://") and not _has_ssh():
                raise _without_ssh(address)
            try:
                client = _connect(address)
            except _failures_at(address) as error:
                tried.append(f"{address} ({_why_not(error)})")
                continue
            return cls(address.url, client)
        raise EngineUnavailableError(
            f"No container engine answers. Tried: {', '.join(tried)}.",
            "Start Docker (`systemctl start docker`, or Docker Desktop) or Podman's socket "
            "(`systemctl --user start podman.socket`; as root without --user), join the `docker` "
            "group, or name another engine in DOCKER_HOST. On Debian and Ubuntu as root, "
            "`make engine` installs and starts one.",
        )

    @functools.cached_property
    def rootless(self) -> bool:
        """Whether the engine runs as an ordinary user (its container root is that user)."""
        with self.failures("describing itself"):
            info = self.client.info()
        # Podman before 5 has it in a field of its own, Docker among the security options.
        options = info.get("SecurityOptions") or []
        return bool(info.get("Rootless")) or any("rootless" in option for option in options)

    @functools.cached_property
    def is_podman(self) -> bool:
        """Whether it is Podman behind the Docker API."""
        with self.failures("describing itself"):
            parts = self.client.version().get("Components") or []
        return any("Podman" in part.get("Name", "") for part in parts)

    @functools.cached_property
    def limits_missing(self) -> tuple[str, ...]:
        """What this engine does not limit, whatever it is told: ``memory``, ``processes``.

        Without cgroups, as rootless engines may run, limits are taken and have no effect.
        """
        with self.failures("describing itself"):
            info = self.client.info()
        # Podman reports the machine's cgroups; an ordinary user has no use of those of version 1.
        cgroups = not (self.is_podman and info.get("Rootless") and info.get("CgroupVersion") == "1")
        known = {"memory": "MemoryLimit", "processes": "PidsLimit"}
        return tuple(
            what for what, field in known.items() if not cgroups or info.get(field) is False
        )

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
        from outside. The container is always removed, also after Ctrl-C. An engine that does not
        see the paths gets copies of what is there.

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
        container, copies = self._prepare(
            image, command, mounts, {**FIXED_ENVIRONMENT, **environment}, limits, user
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
                    if container in self._leaving:  # asked for its end, Podman deletes it first
                        raise CancelledError("Stopped.")
                    state = None if guard.hung else _end_of(container, guard)
                hung = guard.hung
                if state is None:
                    raise EngineFailedError(
                        f"The engine at {self.address} did not stop a container, {container.name}.",
                        "Start the engine again; the next command of kiln removes the container.",
                    )
                container.reload()
            refused = guard.refused
            if copies is not None and refused is None:
                refused = self._take(copies)
            return Outcome(
                exit_code=int(state["StatusCode"]),
                out_of_memory=bool(container.attrs["State"].get("OOMKilled")),
                timed_out=guard.expired,
                log=log.decode("utf-8", "replace"),
                refused=refused,
            )
        finally:
            self._running.discard(container)
            if not hung and container not in self._leaving:
                self.remove(container)
                self._discard(copies)

    def _prepare(
        self,
        image: str,
        command: Sequence[str],
        mounts: Mapping[Path, tuple[str, str]],
        environment: Mapping[str, str],
        limits: Limits,
        user: str,
    ) -> tuple[Any, Copies | None]:
        """Create a container of :meth:`run`, not started yet, with its files in it."""
        create = functools.partial(self._create, image, command, environment, limits, user)
        if not mounts or not self.copies_files:
            container = self._mounted(create, mounts)
            if container is not None:
                return container, None
            self.copies_files = True
        tag = tagged_name()
        copies = Copies(
            self.client, mounts, limits, user,
            name=f"kiln-{tag.replace('.', '-')}", labels={OWNER_LABEL: tag},
        )  # fmt: skip
        self._copies.add(copies)
        try:
            with self.failures("copying a stage's files"):
                copies.fill(image, self._running.add)
                return create(copies.mounts()), copies
        except BaseException:
            self._discard(copies)
            if self._stopped:  # and the keeper was removed meanwhile
                raise CancelledError("Stopped.") from None
            raise

    def _mounted(
        self, create: Callable[[list[Mount]], Any], mounts: Mapping[Path, tuple[str, str]]
    ) -> Any | None:
        """Create a container with mounts; None if the engine does not see this machine's files.

        Docker refuses a mount without a source; Podman makes an empty folder. So a file is read
        back, until one was found.
        """
        with self.failures("starting a stage"):
            try:
                container = create([bind(path, *place) for path, place in mounts.items()])
            except docker.errors.APIError as error:
                if is_unmountable(error, mounts):
                    return None
                raise
            try:
                found = None if self._sees_files else reads_back(container, mounts)
            except BaseException:
                self.remove(container)
                raise
        if found is False:
            self.remove(container)
            return None
        self._sees_files = self._sees_files or found is True
        return container

    def _create(
        self,
        image: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        limits: Limits,
        user: str,
        mounts: list[Mount],
    ) -> Any:
        tag = tagged_name()
        return self.client.containers.create(
            image,
            list(command),
            name=f"kiln-{tag.replace('.', '-')}",
            labels={OWNER_LABEL: tag},
            network_mode="none",
            read_only=True,
            tmpfs={"/tmp": f"rw,nosuid,nodev,exec,mode=1777,size={limits.tmp}"},  # noqa: S108
            user=user,
            cap_drop=["ALL"],
            security_opt=list(SECURITY_OPTIONS),
            mem_limit=limits.memory,
            memswap_limit=limits.memory,
            pids_limit=limits.pids,
            # Neither a single file nor the engine's log may fill the disk.
            ulimits=self._file_size_limit(limits),
            log_config=LogConfig(type="json-file", config={"max-size": _LOG_SIZE, "max-file": "1"}),
            hostname="kiln",
            # Podman's forced removal asks first, and then waits ten seconds.
            stop_signal="SIGKILL",
            working_dir="/kiln",
            environment=dict(environment),
            mounts=mounts,
        )

    def _take(self, copies: Copies) -> KilnError | None:
        """Copy out what an ended container wrote; return why it was refused, if it was."""
        with self.failures("copying a stage's results"):
            try:
                copies.take()
            except StageOutputError as error:
                return error
        return None

    def _discard(self, copies: Copies | None) -> None:
        if copies is not None:
            self._running.discard(copies.keeper)
            copies.remove()
            self._copies.discard(copies)

    def sees(self, folder: Path) -> bool:
        """Whether containers of this engine can mount an empty folder of this machine."""
        with self.failures("reading a file back"):
            return sees(self.client, folder, OWNER_LABEL)

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

        Later calls of :meth:`run` raise :class:`CancelledError`. If the engine has not removed a
        container after a second, it does so later, or (if it hangs) the next command.
        """
        self._stopped = True
        self._leaving = set(self._running)
        until = time.monotonic() + _STOP_PATIENCE
        _at_once([functools.partial(self.remove, item) for item in self._leaving], until)
        # An engine removes no volume that a container uses.
        _at_once([copies.remove for copies in list(self._copies)], until)

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
        self._sweep_volumes(foreign=foreign)
        return count

    def _sweep_volumes(self, *, foreign: bool) -> None:
        """Remove the volumes of dead kiln processes, where this engine's containers get copies."""
        with self.failures("listing volumes"):
            found = self.client.volumes.list(filters={"label": OWNER_LABEL})
        for volume in found:
            tag = (volume.attrs.get("Labels") or {}).get(OWNER_LABEL, "")
            if is_abandoned(Path(tag)) or (foreign and not is_ours(tag)):
                with contextlib.suppress(*_STREAM_FAILURES):  # one in use stays
                    volume.remove(force=True)


def _at_once(tasks: Iterable[Callable[[], None]], until: float) -> None:
    """Run tasks in threads: an engine that hangs answers none of their requests."""
    helpers = [threading.Thread(target=task, daemon=True) for task in tasks]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join(max(0.0, until - time.monotonic()))


def _connect(address: Address) -> docker.DockerClient:
    """Open a client; raise if nothing answers there."""
    if address.context:
        # As for Docker's own command: where a context is used, its TLS counts, not the variables'.
        secured: Any = False
        if address.tls is not None:
            tls = address.tls
            secured = TLSConfig(client_cert=tls.client, ca_cert=tls.ca, verify=tls.verify)
            if not tls.verify:  # whoever made the context wanted it so
                urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        client = docker.DockerClient(address.url, timeout=_PING_TIMEOUT, tls=secured)
    else:
        # from_env also takes DOCKER_TLS_VERIFY and DOCKER_CERT_PATH into account.
        client = docker.from_env(
            timeout=_PING_TIMEOUT, environment={**os.environ, "DOCKER_HOST": address.url}
        )
    client.ping()
    client.api.timeout = _TIMEOUT
    return client


def _has_ssh() -> bool:
    return importlib.util.find_spec("paramiko") is not None


def _failures_at(address: Address) -> tuple[type[Exception], ...]:
    """What the client raises where no engine answers."""
    known: tuple[type[Exception], ...] = (*_STREAM_FAILURES, OSError, ValueError)
    if address.url.startswith("ssh://"):
        return (*known, importlib.import_module("paramiko").SSHException)
    return known


def _without_ssh(address: Address) -> EngineUnavailableError:
    host = shortened(plain(address.url.removeprefix("ssh://")), 200)
    return EngineUnavailableError(
        f"The engine at {address} cannot be reached: ssh: addresses need the Python package "
        "paramiko, which is not installed.",
        "Install it beside kiln. Or forward the engine's socket yourself: run "
        f"`ssh -nNT -L $HOME/engine.sock:/var/run/docker.sock ssh://{host}`, and set "
        "DOCKER_HOST=unix://$HOME/engine.sock.",
    )


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
