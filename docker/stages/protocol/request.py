"""Read ``request.json``: which stages to run, in which order, with which inputs.

Formats: see :func:`load`. Nothing here touches the inputs themselves except to check that they
exist (:meth:`Request.resolve`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Optional

from stages.protocol.failures import StageError

PROTOCOL = 1

REQUIRED: Any = object()
"""Marks a parameter without a default in a stage's ``PARAMS``."""

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_STAGE_ID = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")


@dataclass(frozen=True)
class Input:
    """One input of a stage: a path below ``/in``, or below another stage's files."""

    path: str
    source: Optional[str] = None


@dataclass(frozen=True)
class Step:
    """One stage of the request."""

    id: str
    stage: str
    params: dict[str, Any]
    inputs: dict[str, Input]
    params_from: dict[str, tuple[str, str]]  # parameter -> (earlier stage, its fact)

    def upstream(self) -> set[str]:
        """Return the ids of the stages of this request whose files or facts it needs."""
        files = {item.source for item in self.inputs.values() if item.source is not None}
        return files | {source for source, _ in self.params_from.values()}


@dataclass(frozen=True)
class Request:
    """The stages to run, in order; and the number of processes that may do so."""

    steps: tuple[Step, ...]
    processes: int = 1

    def step(self, step_id: str) -> Step:
        """Return the step called ``step_id``.

        Raises:
            StageError: there is none.
        """
        for step in self.steps:
            if step.id == step_id:
                return step
        raise _bad(f"there is no stage with the id {step_id!r}")

    def resolve(self, step: Step, in_root: Path, out_root: Path) -> dict[str, Path]:
        """Return absolute paths of a step's inputs.

        Raises:
            StageError: an input does not exist.
        """
        paths = {}
        for name, item in step.inputs.items():
            root = in_root if item.source is None else out_root / item.source / "files"
            path = root / item.path
            if not path.exists():
                raise _bad(f"input {name!r} of stage {step.id!r} does not exist: {path}")
            paths[name] = path
        return paths


def load(path: Path) -> Request:
    """Read and check a request.

    The file is a JSON object ``{"protocol": 1, "stages": [...]}``, and may hold ``"processes"``, a
    number above 0 (:mod:`stages.protocol.parallel`). Each stage is
    ``{"id", "stage", "params", "inputs", "params_from"}``, each input ``{"path"}`` (relative to
    the input root) or ``{"path", "from"}`` (relative to the files of an *earlier* stage of the
    same request). ``params_from`` gives parameters the value of a fact that an earlier stage
    reported: ``{"normalization": {"from": "export", "fact": "normalization"}}``.

    Raises:
        StageError: the request cannot be read or is invalid.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _bad(f"it cannot be read: {error}") from error
    if not isinstance(data, dict) or data.get("protocol") != PROTOCOL:
        raise _bad(f"it is not a request of protocol {PROTOCOL}")
    processes = data.pop("processes", 1)
    if type(processes) is not int or processes < 1:
        raise _bad("'processes' must be a number above 0")
    if set(data) != {"protocol", "stages"} or not isinstance(data["stages"], list):
        raise _bad("it must hold 'protocol' and a list 'stages', and nothing else but 'processes'")
    steps: list[Step] = []
    for item in data["stages"]:
        steps.append(_step(item, [step.id for step in steps]))
    return Request(tuple(steps), processes)


def facts_as_params(step: Step, out_root: Path) -> dict[str, Any]:
    """Return the step's parameters, including those taken from earlier stages' facts.

    Raises:
        StageError: an earlier stage has no result or no such fact.
    """
    params = dict(step.params)
    for name, (source, fact) in step.params_from.items():
        try:
            result = json.loads((out_root / source / "result.json").read_text(encoding="utf-8"))
            params[name] = result["facts"][fact]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _bad(f"stage {source!r} has not reported the fact {fact!r}") from error
    return params


def complete_params(params: dict[str, Any], declared: dict[str, Any], stage: str) -> dict[str, Any]:
    """Fill in the stage's defaults in ``params``.

    Raises:
        StageError: a parameter is unknown, or a required one is missing.
    """
    unknown = sorted(set(params) - set(declared))
    if unknown:
        known = ", ".join(sorted(declared)) or "none"
        raise StageError(
            "stage-failed",
            f"Stage {stage!r} does not know the parameter {unknown[0]!r}.",
            f"Its parameters: {known}.",
        )
    complete = {**declared, **params}
    missing = sorted(name for name, value in complete.items() if value is REQUIRED)
    if missing:
        raise StageError("stage-failed", f"Stage {stage!r} needs the parameter {missing[0]!r}.")
    return complete


def _step(item: Any, earlier: list[str]) -> Step:
    if not isinstance(item, dict) or not {"id", "stage"} <= set(item) <= {
        "id",
        "stage",
        "params",
        "inputs",
        "params_from",
    }:
        raise _bad("each stage is an object with 'id', 'stage', 'params' and 'inputs'")
    step_id, stage = item["id"], item["stage"]
    if not isinstance(step_id, str) or not _STAGE_ID.match(step_id):
        raise _bad(f"{step_id!r} is not a stage id")
    if step_id in earlier:
        raise _bad(f"the stage id {step_id!r} is used twice")
    if not isinstance(stage, str) or not _STAGE_NAME.match(stage):
        raise _bad(f"{stage!r} is not a stage name")
    params, inputs = item.get("params", {}), item.get("inputs", {})
    if not isinstance(params, dict) or not isinstance(inputs, dict):
        raise _bad(f"'params' and 'inputs' of stage {step_id!r} must be objects")
    return Step(
        step_id,
        stage,
        params,
        {name: _input(value, step_id, earlier) for name, value in inputs.items()},
        _params_from(item.get("params_from", {}), step_id, earlier),
    )


def _params_from(value: Any, step_id: str, earlier: list[str]) -> dict[str, tuple[str, str]]:
    if not isinstance(value, dict):
        raise _bad(f"'params_from' of stage {step_id!r} must be an object")
    found = {}
    for name, item in value.items():
        if not isinstance(item, dict) or set(item) != {"from", "fact"}:
            raise _bad(f"{name!r} in 'params_from' of stage {step_id!r} needs 'from' and 'fact'")
        if item["from"] not in earlier:
            raise _bad(f"stage {step_id!r} takes a fact of {item['from']!r}, not an earlier stage")
        found[name] = (item["from"], str(item["fact"]))
    return found


def _input(value: Any, step_id: str, earlier: list[str]) -> Input:
    if not isinstance(value, dict) or not {"path"} <= set(value) <= {"path", "from"}:
        raise _bad(f"an input of stage {step_id!r} is not an object with 'path' (and 'from')")
    path, source = value["path"], value.get("from")
    if not isinstance(path, str) or not path:
        raise _bad(f"an input of stage {step_id!r} has no path")
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise _bad(f"an input of stage {step_id!r} leaves its root: {path}")
    if source is not None and source not in earlier:
        raise _bad(f"stage {step_id!r} takes an input from {source!r}, not an earlier stage")
    return Input(path, source)


def _bad(reason: str) -> StageError:
    return StageError("stage-failed", f"The request is not valid: {reason}.", "This is a bug.")
