"""NPUs that a file can be compiled for: ``docker/npu-targets.toml``."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kiln.core.suggest import near
from kiln.core.untrusted import parse_toml, read_file
from kiln.project import bounds
from kiln.project.folders import own_resources

FILE = "npu-targets.toml"

#: The variant that is compiled where nobody says otherwise: an NPU computes in whole numbers.
VARIANT = "int8"

#: The smallest share of operators that must run on the NPU, where nobody says otherwise. SSD and
#: EfficientDet-Lite have 0.97; of CenterNet, which decodes in float, 0.63.
LEAST_MAPPED = 0.9


@dataclass(frozen=True)
class Target:
    """An NPU in a chip; the names are Vela's.

    Attributes:
        system_config: clock and memories of the chip.
        memory_mode: which of them holds weights and activations.
    """

    name: str
    system_config: str
    memory_mode: str

    def as_params(self) -> dict[str, str]:
        """Return the parameters of the stage ``compile`` that say what for."""
        return {
            "target": self.name,
            "system_config": self.system_config,
            "memory_mode": self.memory_mode,
        }


def names() -> tuple[str, ...]:
    """Return the names of all targets."""
    return tuple(f"{family}-{macs}" for family, about in _read().items() for macs in about["macs"])


def compiled_name(variant: str, name: str) -> str:
    """Return the name of the file that is compiled from a variant for a target.

    >>> compiled_name("int8", "ethos-u65-256")
    'int8_ethos-u65-256'
    """
    return f"{variant}_{name}"


def integer_name(variant: str) -> str:
    """Return the name of the form of a variant that has no layer in float; it is not published.

    >>> integer_name("int8")
    'int8-integer'
    """
    return f"{variant}-integer"


def target(name: str, system_config: str | None = None, memory_mode: str | None = None) -> Target:
    """Return a target; None: Vela's default.

    Raises:
        ValueError: there is no such target, or it cannot have that configuration or mode; the
            message lists the closest names.
    """
    if name not in names():
        raise ValueError(_unknown("target", name, names()))
    about = _read()[name.rpartition("-")[0]]
    modes: Mapping[str, list[str]] = about["modes"]
    config = about["system_config"] if system_config is None else system_config
    if config not in modes:
        raise ValueError(_unknown(f"system_config of {name}", config, modes))
    mode = memory_mode
    if mode is None:
        mode = about["memory_mode"] if about["memory_mode"] in modes[config] else modes[config][-1]
    if mode not in modes[config]:
        raise ValueError(_unknown(f"memory_mode of {config}", mode, modes[config]))
    return Target(name, config, mode)


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    close = near(name, known)
    hint = f" (did you mean {' or '.join(repr(item) for item in close)}?)" if close else ""
    return f"there is no {what} {name!r}{hint}; known: {', '.join(known)}"


@functools.cache
def _read() -> Mapping[str, Any]:
    path = own_resources() / "docker" / FILE
    return parse_toml(read_file(path, bounds.LOCK.most).decode("utf-8"))
