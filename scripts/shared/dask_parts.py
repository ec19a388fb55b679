"""What programs and tests need to start a Dask scheduler on this machine's loopback interface."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from distributed.security import Security

SETTINGS = "DASK_DISTRIBUTED__COMM__TLS__"
"""How the environment variables of Dask's settings for TLS begin."""


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody listens on a port of the loopback interface."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def certificates(folder: Path) -> dict[str, str]:
    """Make a certificate for one run; return Dask's settings for it, as environment variables."""
    security: Any = Security.temporary()
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_text(security.tls_ca_file)
    key.touch(0o600)
    key.write_text(security.tls_client_key)
    settings = {f"{SETTINGS}CA_FILE": str(certificate)}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        settings |= {f"{SETTINGS}{role}__CERT": str(certificate)}
        settings |= {f"{SETTINGS}{role}__KEY": str(key)}
    return settings
