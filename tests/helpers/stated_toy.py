"""What is wrong with a toy model's folder and its statements."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from toy_release import ToyModel

from kiln.core.digest import sha256_bytes
from kiln.signing.signer import KeySigner
from kiln.signing.statement_names import provenance_path, result_path
from kiln.statements.verify import ModelFiles, statement_problems

FILE = "toy_float32.tflite"
ONE, OTHER = provenance_path(FILE), provenance_path("toy_dynamic.tflite")
RESULT = result_path(FILE)
SBOM = b'{"bomFormat":"CycloneDX"}'
DEVICE_SBOM = b'{"bomFormat":"CycloneDX","version":2}'


def problems(
    model: ToyModel, signer: KeySigner, more: dict[str, bytes] | None = None, name: str = "toy"
) -> dict[str, list[str]]:
    files = {**model.files, **{p: signer.seal(s) for p, s in model.statements.items()}}
    files |= more or {}
    digests = {path: sha256_bytes(data) for path, data in files.items()}
    return statement_problems(ModelFiles(name, digests, files.__getitem__), signer)


def lied(model: ToyModel, path: str, change: Callable[[Any], Any]) -> ToyModel:
    """The model with a statement that was changed before it was signed."""
    statement = copy.deepcopy(model.statements[path])
    change(statement)
    return replace(model, statements={**model.statements, path: statement})


def other_files(model: ToyModel, **files: bytes | None) -> ToyModel:
    together: dict[str, bytes | None] = {**model.files, **files}
    return replace(model, files={n: data for n, data in together.items() if data is not None})


def definition(statement: Any) -> Any:
    return statement["predicate"]["buildDefinition"]


def inside(statement: Any) -> Any:
    return definition(statement)["internalParameters"]


def details(statement: Any) -> Any:
    return statement["predicate"]["runDetails"]


def dependency(statement: Any, name: str) -> Any:
    return next(i for i in definition(statement)["resolvedDependencies"] if i["name"] == name)
