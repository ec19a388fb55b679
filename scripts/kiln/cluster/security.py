"""Dask's own TLS settings, and its log, as kiln uses them."""

from __future__ import annotations

import logging
from typing import Any

from distributed.security import Security

from kiln.cluster.address import ClusterAddress
from kiln.core.errors import UsageError

#: Dask's setting of a role's certificate and key, and of who signed the others' certificates.
_SETTINGS = "DASK_DISTRIBUTED__COMM__TLS__"


def security_for(address: ClusterAddress, role: str) -> Any:
    """Return Dask's settings for connections to ``address``.

    Args:
        role: ``client`` or ``worker``.

    Raises:
        UsageError: the address is encrypted, and a certificate is not set or cannot be read.
    """
    if not address.url.startswith("tls:"):
        return Security(require_encryption=False)
    security: Any = Security(require_encryption=True)
    wanted = {
        "CA_FILE": security.tls_ca_file,
        f"{role.upper()}__CERT": getattr(security, f"tls_{role}_cert"),
        f"{role.upper()}__KEY": getattr(security, f"tls_{role}_key"),
    }
    missing = [f"{_SETTINGS}{name}" for name, value in wanted.items() if not value]
    if missing:
        raise UsageError(
            f"{address} is encrypted, and Dask has no certificate for it: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set.",
            "Set them in the environment or in Dask's configuration (docs/cluster.md).",
        )
    try:
        security.get_connection_args(role)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"The certificates for {address} cannot be used: {reason}.",
            f"Check the files that {_SETTINGS}CA_FILE, {role.upper()}__CERT and "
            f"{role.upper()}__KEY name.",
        ) from error
    return security


def quiet_dask() -> None:
    """Keep Dask's own log from mixing with kiln's output, which says the same in kiln's words."""
    # Dask's configuration gives some of them a level of their own.
    for name in [*logging.root.manager.loggerDict]:
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
