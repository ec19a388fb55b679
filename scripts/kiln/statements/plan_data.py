"""Convert the plan of one artefact to plain data for its provenance, and back.

::

    {"protocol": 1, "image": "sha256:...", "code": "<hex>", "artefact": "annotate-dynamic",
     "closures": {stage: {"code": "<hex>", "files": [path, ...]}},
     "steps": [{"id": ..., "stage": ..., "params": {...},
                "inputs": {name: {"files": {path: sha256}} | {"step": id, "path": path}},
                "params_from": {name: {"step": id, "fact": name}}, "key": "<hex>"}]}

A step that runs in another image than the plan has a field "image", too. The closures are the parts
of the stage code that stages run. Their files are listed, so that a reader needs not find out again
what imports what: it holds the digest against the files, and gives a container no others. A stage
without one, and every stage in the plans of older kilns, runs the whole.

The data holds only the steps that the artefact needs, upstream first; no checks. Reading computes
every key again and refuses a plan where one differs, so a plan that was read matches its keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from kiln.core.digest import canonical_json
from kiln.core.errors import VerificationError
from kiln.project.closures import Closure, StageCode
from kiln.recipes.steps import PROTOCOL, Fact, Files, Output, Plan, Step, StepList

_HEX = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

#: A step's folder is next to ``request.json``, so its name has no dot.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")

#: Bounds of an untrusted plan, several times the size of our largest.
_MAX_STEPS = 256
_MAX_FILES = 100_000
_MAX_CODE_FILES = 5_000
_MAX_PATH = 1_000
_MAX_PART = 255
_MAX_PARTS = 32
_REMEDY = "It was damaged, or written by another version of kiln: fetch the release again."


def plan_as_data(plan: Plan, step_id: str) -> dict[str, Any]:
    """Return the part of ``plan`` that makes the artefact of one step, in JSON's own types."""
    data = {**_with_code(plan, plan.closure([step_id], ())), "artefact": step_id}
    plain: dict[str, Any] = json.loads(canonical_json(data))
    return plain


def whole_plan_as_data(plan: Plan) -> dict[str, Any]:
    """Return all steps of ``plan``, as :func:`plan_as_data` does those of one artefact."""
    plain: dict[str, Any] = json.loads(canonical_json(_with_code(plan, plan.steps)))
    return plain


def _with_code(plan: Plan, steps: Sequence[Step]) -> dict[str, Any]:
    """Return steps with the image and the stage code that they run."""
    data: dict[str, Any] = {
        "protocol": PROTOCOL,
        "image": plan.identity,
        "code": plan.code.digest,
        "steps": [_as_data(step) for step in steps],
    }
    closures = {step.stage: step.code for step in steps if step.code.files}
    if closures:
        data["closures"] = {
            stage: {"code": closure.digest, "files": list(closure.files)}
            for stage, closure in closures.items()
        }
    return data


def _as_data(step: Step) -> dict[str, Any]:
    return {
        **({"image": step.image} if step.image else {}),
        "id": step.id,
        "stage": step.stage,
        "params": dict(step.params),
        "inputs": {
            name: (
                {"files": dict(item.files)}
                if isinstance(item, Files)
                else {"step": item.step, "path": item.path}
            )
            for name, item in step.inputs.items()
        },
        "params_from": {
            name: {"step": fact.step, "fact": fact.name} for name, fact in step.params_from.items()
        },
        "key": step.key,
    }


def plan_from_data(
    data: Any, *, model: str = "recorded", image: str = "", variant: str = "artefact"
) -> Plan:
    """Read a plan that :func:`plan_as_data` wrote.

    Args:
        data: parsed JSON, untrusted.
        model: the plan's model; records do not hold it, and no key depends on it.
        image: the image's name, likewise.
        variant: the artefact's name in ``Plan.artefacts``, likewise.

    Raises:
        VerificationError: it is not such a plan: something is missing, unknown, impossible (a path
            that leaves its folder) or not needed for the artefact, or a key does not follow from
            the rest.
    """
    try:
        return _read(data, model, image, variant)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise _bad("is damaged") from None


def whole_plan_from_data(data: Any, *, model: str, images: Mapping[str, str]) -> Plan:
    """Read a plan that :func:`whole_plan_as_data` wrote; which steps make artefacts is not in it.

    Args:
        data: parsed JSON, untrusted.
        model: the plan's model.
        images: identity -> name of the images that its steps run in.

    Raises:
        VerificationError: see :func:`plan_from_data`; or an image has no name.
    """
    try:
        parts = ("closures",) if "closures" in data else ()
        _fields(data, "protocol", "image", "code", "steps", *parts)
        found, code = _steps(data)
        steps = tuple(found.values())
        elsewhere = {step.image: images[step.image] for step in steps if step.image}
        return Plan(model, images[data["image"]], steps, {}, (), data["image"], code, elsewhere)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise _bad("is damaged") from None


def _read(data: Any, model: str, image: str, variant: str) -> Plan:
    parts = ("closures",) if "closures" in data else ()
    _fields(data, "protocol", "image", "code", "steps", "artefact", *parts)
    steps, code = _steps(data)
    artefact = data["artefact"]
    if artefact not in steps:
        raise _bad("does not make its artefact")
    plan = Plan(model, image, tuple(steps.values()), {variant: artefact}, (), data["image"], code)
    if len(plan.closure([artefact], ())) != len(plan.steps):
        raise _bad("has steps that its artefact does not need")
    return plan


def _steps(data: Mapping[str, Any]) -> tuple[dict[str, Step], StageCode]:
    """Read the steps, compute their keys again, and return them with the stage code."""
    if data["protocol"] != PROTOCOL or isinstance(data["protocol"], bool):
        said = repr(data["protocol"])[:40]
        raise _bad(f"is of protocol {said}; this kiln knows {PROTOCOL}")
    identity, code = _identity(data["image"]), data["code"]
    if not _HEX.fullmatch(code):
        raise _bad("names no image or no stage code")
    closures = {_name(stage): _closure(stage, it) for stage, it in data.get("closures", {}).items()}
    stage_code = StageCode(code, closures)
    steps = StepList(identity, stage_code)
    if not isinstance(data["steps"], list) or len(data["steps"]) > _MAX_STEPS:
        raise _bad(f"is not a list of at most {_MAX_STEPS} steps")
    for entry in data["steps"]:
        elsewhere = ("image",) if "image" in entry else ()
        _fields(entry, "id", "stage", "params", "inputs", "params_from", "key", *elsewhere)
        step_id = _name(entry["id"], _ID)
        if step_id in steps.steps:
            raise _bad(f"has the step {step_id} twice")
        _plain(entry["params"])
        steps.add(
            step_id,
            _name(entry["stage"]),
            entry["params"],
            {_name(name): _input(item) for name, item in entry["inputs"].items()},
            {_name(name): _fact(item) for name, item in entry["params_from"].items()},
            image=_identity(entry["image"]) if elsewhere else "",
        )
        if steps.steps[step_id].key != entry["key"]:
            raise _bad(f"contradicts itself: the key of the step {step_id} does not match")
    if closures.keys() - {step.stage for step in steps.steps.values()}:
        raise _bad("has the code of stages that it does not run")
    return steps.steps, stage_code


def _closure(stage: str, entry: Mapping[str, Any]) -> Closure:
    """Read the part of the stage code that a stage runs; its digest is not yet compared."""
    _fields(entry, "code", "files")
    files = entry["files"]
    if not _HEX.fullmatch(entry["code"]) or len(files) > _MAX_CODE_FILES:
        raise _bad(f"names no code of the stage {stage}, or more than {_MAX_CODE_FILES:,} files")
    if f"steps/{stage}.py" not in files or files != sorted({_path(path) for path in files}):
        raise _bad(f"lists impossible code of the stage {stage}")
    return Closure(entry["code"], tuple(files))


def _identity(text: str) -> str:
    if not text.startswith("sha256:") or not _HEX.fullmatch(text.removeprefix("sha256:")):
        raise _bad("names no image or no stage code")
    return text


def _fields(entry: Mapping[str, Any], *names: str) -> None:
    if not isinstance(entry, dict) or set(entry) != set(names):
        raise _bad("is damaged: it does not have the fields of a plan")


def _name(text: str, form: re.Pattern[str] = _NAME) -> str:
    if not form.fullmatch(text):
        raise _bad(f"has an impossible name in it, {text[:100]!r}")
    return text


def _input(item: Mapping[str, Any]) -> Files | Output:
    if "files" not in item:
        _fields(item, "step", "path")
        return Output(item["step"], _path(item["path"]))
    _fields(item, "files")
    if len(item["files"]) > _MAX_FILES:
        raise _bad(f"has an input of more than {_MAX_FILES:,} files")
    files = {_path(path): digest for path, digest in item["files"].items()}
    if not all(_HEX.fullmatch(digest) for digest in files.values()):
        raise _bad("names a file by something other than its SHA-256")
    if "" in files and len(files) > 1:
        raise _bad("has an input that is one file and a folder at once")
    folders = {str(place) for path in files for place in PurePosixPath(path).parents}
    if both := files.keys() & folders - {"."}:
        raise _bad(f"has {min(both)[:100]!r} as a file and as a folder")
    return Files(files)


def _fact(item: Mapping[str, Any]) -> Fact:
    _fields(item, "step", "fact")
    return Fact(item["step"], _name(item["fact"]))


def _path(text: str) -> str:
    """Check that a path stays in its folder; ``""`` is a file without a name."""
    path = PurePosixPath(text)
    plain = text == "" or (str(path) == text and text.isprintable() and text != ".")
    long = (
        len(text.encode()) > _MAX_PATH
        or len(path.parts) > _MAX_PARTS
        or any(len(part.encode()) > _MAX_PART for part in path.parts)
    )
    if not plain or long or path.is_absolute() or ".." in path.parts or "\\" in text:
        raise _bad(f"has an impossible path in it, {text[:100]!r}")
    return text


def _plain(params: Any) -> None:
    if not isinstance(params, dict):
        raise _bad("is damaged: a step's parameters are not a table")


def _bad(what: str) -> VerificationError:
    return VerificationError(f"The recorded plan {what}.", _REMEDY)
