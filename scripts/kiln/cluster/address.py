"""Read the address of a cluster, and refuse one that is open to others."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from kiln.core.errors import UsageError

#: Default of ``--cluster``.
VARIABLE = "KILN_CLUSTER"

#: The most workers of ``local:N``.
_MOST_LOCAL = 64

_SCHEDULER = "Give tls://HOST:PORT or tcp://HOST:PORT of a Dask scheduler"
_FORMS = f"{_SCHEDULER}, or local:N for N workers on this machine."


@dataclass(frozen=True)
class ClusterAddress:
    """Where a cluster is: a scheduler's address, or workers to start on this machine.

    Attributes:
        url: ``tcp://`` or ``tls://`` with host and port; "" for workers of this machine.
        local: how many workers to start here; 0 with a scheduler's address.
    """

    url: str = ""
    local: int = 0

    @property
    def host(self) -> str:
        """The scheduler's host."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this machine can reach it."""
        if self.host == "localhost" or not self.url:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return self.url or f"local:{self.local}"


def cluster_address(
    given: str | None, *, insecure: bool = False, option: str = "--cluster", local: bool = True
) -> ClusterAddress | None:
    """Read ``--cluster``, or else ``KILN_CLUSTER``; None if neither is set.

    Args:
        insecure: whether an address without encryption may lead to other machines.
        option: its name in messages.
        local: whether ``local:N`` is one.

    Raises:
        UsageError: it is no address, or one in the clear that leads to other machines; or Dask is
            not installed, or has no certificates for an encrypted one.
    """
    text, named = (given, option) if given is not None else (os.environ.get(VARIABLE, ""), VARIABLE)
    if not text:
        if given is not None:
            raise UsageError(f"{option} is empty.", _FORMS)
        return None
    address = _parsed(text, named, local)
    if address.url.startswith("tcp:") and not address.is_loopback and not insecure:
        raise UsageError(
            f"{named} {text} is not encrypted: whoever reaches the scheduler, or reads along, can "
            "run programs on this machine and on every worker.",
            "Use tls:// with certificates (docs/cluster.md). In a network where you trust every "
            "machine and every user, add --insecure.",
        )
    if importlib.util.find_spec("distributed") is None:
        raise UsageError(
            f"{named} needs the Python package distributed, which is not installed.",
            "Install kiln with its extra `cluster`: pip install 'tflite-kiln[cluster]'.",
        )
    return address


def _parsed(text: str, named: str, local: bool) -> ClusterAddress:
    if local and (match := re.fullmatch(r"local:(\d{1,3})", text)):
        count = int(match[1])
        if not 1 <= count <= _MOST_LOCAL:
            raise UsageError(
                f"{named} {text}: from 1 to {_MOST_LOCAL} workers can be started here.", _FORMS
            )
        return ClusterAddress(local=count)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    rest = (parts.path, parts.query, parts.fragment, parts.username, parts.password)
    if parts.scheme not in ("tcp", "tls") or not parts.hostname or not port or any(rest):
        forms = _FORMS if local else f"{_SCHEDULER}."
        raise UsageError(f"{named} is no address of a cluster: {text[:200]!r}.", forms)
    return ClusterAddress(url=f"{parts.scheme}://{parts.netloc}")
