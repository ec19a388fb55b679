"""List where a container engine may listen, as Docker's own command finds it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.core.errors import EngineUnavailableError
from kiln.core.plain_text import plain, shortened
from kiln.core.untrusted import MalformedError, parse_json_object, read_file

#: Docker's name for what it uses where no context is chosen; it is no file.
_DEFAULT = "default"

#: Files of a context's TLS material, and bytes of a file of Docker's configuration.
_CA, _CERTIFICATE, _KEY = "ca.pem", "cert.pem", "key.pem"
_MAX_FILE = 1 << 20


@dataclass(frozen=True)
class ContextTls:
    """TLS of a context: files of its own, each optional, and whether the engine is verified."""

    folder: Path
    verify: bool

    def file(self, name: str) -> str | None:
        """Return the path of a file, or None if there is none."""
        path = self.folder / name
        return str(path) if path.is_file() else None

    @property
    def ca(self) -> str | None:
        """The certificate of the authority that signed the engine's."""
        return self.file(_CA)

    @property
    def client(self) -> tuple[str, str] | None:
        """Our own certificate and its key, if the context has both."""
        certificate, key = self.file(_CERTIFICATE), self.file(_KEY)
        return (certificate, key) if certificate and key else None


@dataclass(frozen=True)
class Address:
    """Where an engine may listen.

    Attributes:
        url: in the syntax of ``DOCKER_HOST``.
        context: the name of the Docker context that names it; empty for any other source.
        tls: of a context; otherwise ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH`` count.
    """

    url: str
    context: str = ""
    tls: ContextTls | None = None

    def __str__(self) -> str:
        return f"{self.url} of Docker's context {self.context!r}" if self.context else self.url


def candidates() -> list[Address]:
    """List addresses where an engine may listen, in the order they are tried.

    ``DOCKER_HOST`` alone when it is set; otherwise the address of the context that
    ``DOCKER_CONTEXT`` or Docker's configuration chooses, alone; otherwise Docker's default socket,
    the rootless and Docker Desktop ones, then Podman's Docker-compatible sockets.

    Raises:
        EngineUnavailableError: the chosen context does not exist, or is damaged.
    """
    if named := os.environ.get("DOCKER_HOST"):
        return [Address(named)]
    found = _of_context()
    if found is not None:
        return [found]
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    paths = [
        "/var/run/docker.sock",
        f"{runtime}/docker.sock",
        str(Path.home() / ".docker/run/docker.sock"),
        f"{runtime}/podman/podman.sock",
        "/run/podman/podman.sock",
    ]
    return [Address(f"unix://{path}") for path in paths]


def _of_context() -> Address | None:
    """Return the address of the chosen context; None for the default one."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    chosen_by = "DOCKER_CONTEXT"
    name: Any = os.environ.get(chosen_by)
    if not name:
        chosen_by = str(folder / "config.json")
        # Docker's command, too, goes on with its default socket if this file is damaged.
        name = (_read(folder / "config.json") or {}).get("currentContext")
    if not isinstance(name, str) or name in {"", _DEFAULT}:
        return None
    identity = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    path = folder / "contexts" / "meta" / identity / "meta.json"
    if not path.exists():
        raise _unusable(name, f"does not exist; {chosen_by} names it, and there is no {path}")
    endpoints = (_read(path) or {}).get("Endpoints")
    endpoint = endpoints.get("docker") if isinstance(endpoints, Mapping) else None
    host = endpoint.get("Host") if isinstance(endpoint, Mapping) else None
    if not isinstance(endpoint, Mapping) or not isinstance(host, str) or not host:
        raise _unusable(name, f"is damaged: {path} names no address of an engine")
    tls = folder / "contexts" / "tls" / identity / "docker"
    verify = endpoint.get("SkipTLSVerify") is not True
    return Address(host, name, ContextTls(tls, verify) if tls.is_dir() or not verify else None)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return parse_json_object(read_file(path, _MAX_FILE, links=True))
    except (OSError, MalformedError):
        return None


def _unusable(name: str, why: str) -> EngineUnavailableError:
    return EngineUnavailableError(
        f"Docker's context {shortened(plain(name), 100)!r} {why}.",
        "`docker context ls` lists those there are, and `docker context use` chooses one. Or name "
        "the engine's address in DOCKER_HOST, which has priority.",
    )
