"""Parse the provenance of one artefact into plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kiln.core.errors import VerificationError
from kiln.core.untrusted import MalformedError, parse_toml
from kiln.images.definition import IMAGE_NAME
from kiln.recipes.steps import Files, Plan
from kiln.running.limits import Limits
from kiln.signing.statement_names import BUILD_TYPE, PROVENANCE_TYPE, SOURCE_FILE
from kiln.statements.plan_data import plan_from_data

#: A model's name, a variant's, and that of an artefact's file: as in kiln.recipes.values.
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
_FILE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,199}\.tflite")

#: A path in a source archive, such as ``docker/odapi/Dockerfile``.
_PLACE = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_./+-]{0,399}")

#: An address to download an archive from: HTTP only, not this machine's files.
_ADDRESS = re.compile(r"https?://[!-~]{1,2000}", re.IGNORECASE)
_MAX_MIRRORS = 16

#: Most characters of texts that are only shown.
_MAX_SHOWN = 300

#: Bytes and seconds above which a limit is meaningless.
_ALL_MEMORY = 1 << 60
_FOREVER = 1e9

_HEX = re.compile("[0-9a-f]{64}")
_REMEDY = "Get the release again; `kiln verify` checks that it is complete."

#: Names of the plan's inputs that are not part of a published archive.
_LOCAL_INPUTS = frozenset({"images", "label_map"})

ARCHIVE = "source/archive"
_LOCK = "lock/"


@dataclass(frozen=True)
class Archive:
    """A published archive that contains inputs; ``sha256`` may be unknown ("").

    ``uri`` is only shown and may be anything. Downloads use the ``addresses``, HTTP only.
    """

    uri: str
    sha256: str
    mirrors: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses to download it from, best first."""
        return tuple(url for url in (self.uri, *self.mirrors) if _ADDRESS.fullmatch(url))


@dataclass(frozen=True)
class Recorded:
    """The contents of one statement about an artefact.

    Args:
        place: where the statement was read.
        file: the artefact's name; ``sha256`` is that of its content.
        plan: the steps that make it; its only artefact is called ``file``.
        image: the name of the sealed image, whose identity is ``plan.identity``.
        limits: of the container that made it, finite; the caller bounds them for a run.
        locks: path below the source archive -> SHA-256, of the files the image is made from.
        source: SHA-256 of the source archive, "" where there was none.
        cpu: the processor that it was made on, "" where that is unknown.
        origin: where the recipe came from, for people; "" where that is unknown.
        byproducts: name -> SHA-256 of the files written beside it.
    """

    place: Path
    file: str
    sha256: str
    model: str
    variant: str
    plan: Plan
    image: str
    limits: Limits
    locks: Mapping[str, str]
    source: str
    archive: Archive | None
    machine: str
    cpu: str
    origin: str
    byproducts: Mapping[str, str]

    @property
    def images(self) -> dict[str, str]:
        """All images that the plan's steps run in: name -> identity."""
        others = {name: identity for identity, name in self.plan.others.items()}
        return {self.image: self.plan.identity, **others}

    @property
    def plain_export(self) -> bool:
        """Whether the export leaves batch norms to the converter (the seed profile's)."""
        return any(step.params.get("exact_batch_norm") is False for step in self.plan.steps)

    def inputs(self) -> dict[str, str]:
        """Return SHA-256 -> name in the plan, of every content that is read."""
        found: dict[str, str] = {}
        for step in self.plan.steps:
            for name, item in step.inputs.items():
                if isinstance(item, Files):
                    for path, digest in item.files.items():
                        found.setdefault(digest, "/".join(filter(None, (step.id, name, path))))
        return found

    def came_from(self, name: str) -> str:
        """Return where an input is available, "" if unknown; ``name`` as in :meth:`inputs`."""
        if self.archive is not None and name.split("/")[1] not in _LOCAL_INPUTS:
            return self.archive.uri
        return self.origin


def read(statement: Mapping[str, Any], place: Path) -> Recorded:
    """Parse a provenance statement.

    Raises:
        VerificationError: it is not kiln's, contradicts itself, or cannot be understood.
    """
    try:
        return _read(statement, place)
    except VerificationError as error:
        raise VerificationError(f"{place}: {error.message}", error.remedy) from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        why = _shown(f"{type(error).__name__}: {error}")
        raise VerificationError(
            f"{place} is not a provenance that kiln understands ({why}).",
            _REMEDY,
        ) from None


def _read(statement: Mapping[str, Any], place: Path) -> Recorded:
    predicate = statement["predicate"]
    build, run = predicate["buildDefinition"], predicate["runDetails"]
    if statement["predicateType"] != PROVENANCE_TYPE or build["buildType"] != BUILD_TYPE:
        raise VerificationError(f"this is not a provenance of a {BUILD_TYPE}.", _REMEDY)
    (subject,) = statement["subject"]
    outside, inside = build["externalParameters"], build["internalParameters"]
    file, model = _text(subject["name"], _FILE), _text(outside["model"], _NAME)
    materials: dict[str, Mapping[str, Any]] = {
        item["name"]: item for item in build["resolvedDependencies"]
    }
    plan = plan_from_data(inside["plan"], model=model, variant=file)
    others = {step.image for step in plan.steps if step.image}
    named = {identity: _image(materials, identity) for identity in sorted(others)}
    return Recorded(
        place=place,
        file=file,
        sha256=_text(subject["digest"]["sha256"], _HEX),
        model=model,
        variant=_text(outside["variant"], _NAME),
        plan=replace(plan, others=named),
        image=_image(materials, plan.identity),
        limits=_limits(inside["limits"]),
        locks={
            _text(name.removeprefix(_LOCK), _PLACE): _text(item["digest"]["sha256"], _HEX)
            for name, item in materials.items()
            if name.startswith(_LOCK)
        },
        source=_digest(materials.get(SOURCE_FILE)),
        archive=_archive(materials.get(ARCHIVE), outside["recipe"]["text"]),
        machine=_shown(inside["host"]["machine"]),
        cpu=_shown(inside["host"]["cpu"]),
        origin=_origin(materials.get("repository")),
        byproducts={
            item["name"]: _digest(item) for item in run.get("byproducts", ()) if _digest(item)
        },
    )


def _text(value: Any, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{repr(value)[:100]} is impossible")
    return value


def _shown(value: Any) -> str:
    """Convert a text for display: one short line without control characters."""
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} where a text belongs")
    return "".join(char if char.isprintable() else "?" for char in value[:_MAX_SHOWN])


def _digest(item: Mapping[str, Any] | None) -> str:
    digest = item.get("digest", {}).get("sha256") if item is not None else None
    return "" if digest is None else _text(digest, _HEX)


def _image(materials: Mapping[str, Mapping[str, Any]], identity: str) -> str:
    """Return the name of an image that the plan runs in.

    Raises:
        VerificationError: the statement's list of materials does not hold that image.
    """
    for name, item in materials.items():
        if name.startswith("image/") and f"sha256:{_digest(item)}" == identity:
            return _text(name.removeprefix("image/"), IMAGE_NAME)
    raise VerificationError(
        f"its plan runs in the image {identity}, which is not among its materials.", _REMEDY
    )


def _limits(said: Mapping[str, Any]) -> Limits:
    memory, timeout = said["memory"], said["timeout"]
    if not (type(memory) is int and memory > 0 and type(timeout) in (int, float) and timeout > 0):
        raise ValueError("its limits are impossible")
    return Limits(memory=min(memory, _ALL_MEMORY), timeout=float(min(timeout, _FOREVER)))


def _archive(item: Mapping[str, Any] | None, recipe: Any) -> Archive | None:
    if item is None:
        return None
    return Archive(_address(item.get("uri", "")), _digest(item), _mirrors(recipe))


def _address(value: Any) -> str:
    """Return an address unchanged, or anything else as a text for display."""
    whole = isinstance(value, str) and _ADDRESS.fullmatch(value)
    return str(value) if whole else _shown(value)


def _mirrors(recipe: Any) -> tuple[str, ...]:
    """Read further addresses of the archive; none if a recipe has them in an unknown form."""
    if not isinstance(recipe, str):
        raise TypeError(f"a {type(recipe).__name__} where a recipe's text belongs")
    try:
        mirrors = parse_toml(recipe).get("source", {}).get("mirrors", ())
        return tuple(_address(item) for item in mirrors[:_MAX_MIRRORS])
    except (MalformedError, TypeError, AttributeError):
        return ()


def _origin(item: Mapping[str, Any] | None) -> str:
    if item is None:
        return ""
    uri = _shown(item.get("uri", ""))
    commit = _shown(item.get("digest", {}).get("gitCommit", ""))
    known = uri.removeprefix("git+") not in ("", "unknown")
    return f"{uri}@{commit}" if known and commit else uri if known else ""
