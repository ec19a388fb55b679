"""A stage of the tests: what the code in a stage container can see and do."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {
    "host_files": [],  # paths that exist on the host and must not be seen here
    "addresses": [],  # [host, port] that somebody outside listens at
}

WRITE_AT = (
    "/", "/etc", "/usr", "/opt", "/root", "/home", "/var", "/in", "/kiln", "/kiln/stages", "/out",
    "/tmp", "/dev", "/proc", "/sys", "/run",
)  # fmt: skip


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Report it as facts."""
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "capabilities": {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")},
        "no_new_privs": int(status["NoNewPrivs"]),
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "connected": [address for address in params["addresses"] if _connects(*address)],
        "resolved": _resolves("example.org"),
        "writable": [place for place in WRITE_AT if _writable(place)],
        "seen": [path for path in params["host_files"] if Path(path).exists()],
        "processes": sorted(int(path.name) for path in Path("/proc").glob("[0-9]*")),
        "environment": dict(sorted(os.environ.items())),
        "hostname": socket.gethostname(),
        "devices": sorted(path.name for path in Path("/dev").iterdir()),
        "mounts": sorted(
            {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
        ),
        "input_changed": _changes(inputs["canary"]),
    }


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, 80)
    except OSError:
        return False
    return True


def _writable(place: str) -> bool:
    path = Path(place) / "kiln-probe"
    try:
        path.write_text("x")
    except OSError:
        return False
    path.unlink()
    return True


def _changes(path: Path) -> bool:
    """Inputs are hard links to the store: writing one must not be possible in any way."""
    for attempt in (
        lambda: path.chmod(0o666),
        lambda: path.write_text("x"),
        lambda: path.unlink(),
        lambda: os.truncate(path, 0),
    ):
        try:
            attempt()
        except OSError:
            continue
        return True
    return False
