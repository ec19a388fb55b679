"""Make the SLSA provenance v1 of a file that ``kiln compile`` wrote; see ``docs/build-type.md``.

There is no recipe and no source archive behind it, so it says what the file was made of and with,
by digests, and not that kiln could make it again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kiln.core.version import __version__
from kiln.signing.statement_names import COMPILATION_TYPE
from kiln.statements.provenance import builder_of, slsa_statement


@dataclass(frozen=True)
class Compilation:
    """How a file was compiled.

    Attributes:
        parameters: what the user asked for, ``model`` among it: the name of the file that was
            compiled, by which a trust file says who may sign.
        command: what ran in the container; empty: a stage of kiln.
        limits: bounds of the container.
        dependencies: name -> digest by algorithm, of all that took part.
        record: name of the record beside the file, and its SHA-256.
    """

    parameters: Mapping[str, Any]
    command: Sequence[str]
    limits: Mapping[str, Any]
    dependencies: Mapping[str, Mapping[str, str]]
    record: tuple[str, str]


def compilation_statement(compilation: Compilation, file: str, sha256: str) -> dict[str, Any]:
    """Make the statement about ``file``, whose digest is ``sha256``."""
    definition = {
        "buildType": COMPILATION_TYPE,
        "externalParameters": dict(compilation.parameters),
        "internalParameters": {
            "command": list(compilation.command),
            "limits": dict(compilation.limits),
        },
        "resolvedDependencies": [
            {"name": name, "digest": dict(compilation.dependencies[name])}
            for name in sorted(compilation.dependencies)
        ],
    }
    record, digest = compilation.record
    return slsa_statement(
        {"name": file, "digest": {"sha256": sha256}},
        definition,
        {"name": record, "digest": {"sha256": digest}},
        builder=builder_of(os.environ),
        version=__version__,
    )
