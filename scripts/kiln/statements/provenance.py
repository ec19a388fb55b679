"""Make the SLSA provenance v1 of one artefact; ``docs/build-type.md`` explains every part.

The same build on the same machine gives the same statement: it contains no time. Most of it
follows from the plan and the source archive; a verifier makes the statement again from those and
compares.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kiln.core.errors import VerificationError
from kiln.core.machine import cpu_name
from kiln.core.untrusted import MalformedError
from kiln.core.version import __version__
from kiln.images import definition, lock
from kiln.images.lock import Locked
from kiln.running.limits import Limits
from kiln.signing.statement_names import (
    BUILD_TYPE,
    BUILDER_LOCAL,
    CONVERSION_FILE,
    PROVENANCE_TYPE,
    SBOM_FILE,
    SOURCE_FILE,
    STATEMENT_TYPE,
    sbom_file,
)
from kiln.statements.package import Package
from kiln.statements.repository import Repository
from kiln.statements.source_archive_reader import SourceArchive

REPOSITORY = "repository"
PACKAGE = "package"


@dataclass(frozen=True)
class Host:
    """The machine that published: its kind (``x86_64``) and its processor's name."""

    machine: str = field(default_factory=platform.machine)
    cpu: str = field(default_factory=cpu_name)


@dataclass(frozen=True)
class Build:
    """The common data of all artefacts of one model's build.

    Attributes:
        archive: the sources that it was made with.
        recipe_path: of the recipe, in that archive.
        shared: the result of :func:`shared_dependencies`.
        limits: bounds of the containers.
        conversion: SHA-256 of ``conversion.json``.
        repository: the checkout's state, where it is a git checkout.
        package: the installed kiln, where it is one.
        builder: the builder's id, and the run's id ("" where runs have none).
        version: of kiln.
    """

    model: str
    archive: SourceArchive
    recipe_path: str
    shared: Sequence[Mapping[str, Any]]
    limits: Limits
    conversion: str
    repository: Repository | None = None
    host: Host = field(default_factory=Host)
    builder: tuple[str, str] = (BUILDER_LOCAL, "")
    version: str = __version__
    package: Package | None = None


def provenance_statement(
    build: Build, plan: Mapping[str, Any], *, variant: str, file: str, sha256: str
) -> dict[str, Any]:
    """Make the statement about ``file``.

    Args:
        plan: the plan that makes it (:func:`kiln.statements.plan_data.plan_as_data`).
        variant: the name of its variant.
        file: its name in the model folder.
        sha256: its digest.
    """
    resolved = [*build.shared, *(_digest(name, digest) for name, digest in _inputs(plan))]
    if build.repository is not None:
        resolved.append(_repository(build.repository))
    if build.package is not None:
        resolved.append(_package(build.package, build.archive))
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "recipe": {
                "path": build.recipe_path,
                "sha256": build.archive.digest(build.recipe_path),
                "text": build.archive.files[build.recipe_path].decode("utf-8"),
            },
            "model": build.model,
            "variant": variant,
        },
        "internalParameters": {
            "plan": dict(plan),
            "limits": {"memory": build.limits.memory, "timeout": build.limits.timeout},
            "host": {"machine": build.host.machine, "cpu": build.host.cpu},
        },
        "resolvedDependencies": sorted(resolved, key=lambda item: str(item["name"])),
    }
    record = _digest(CONVERSION_FILE, build.conversion)
    return slsa_statement(
        _digest(file, sha256), definition, record, builder=build.builder, version=build.version
    )


def slsa_statement(
    subject: Mapping[str, Any],
    definition: Mapping[str, Any],
    record: Mapping[str, Any],
    *,
    builder: tuple[str, str],
    version: str,
) -> dict[str, Any]:
    """Make a SLSA provenance v1 statement.

    Args:
        subject: name and digest of the file that was made.
        definition: the ``buildDefinition``.
        record: name and digest of the record beside the file.
        builder: the builder's id, and the run's id ("" where runs have none).
        version: of kiln.
    """
    name, invocation = builder
    return {
        "_type": STATEMENT_TYPE,
        "subject": [dict(subject)],
        "predicateType": PROVENANCE_TYPE,
        "predicate": {
            "buildDefinition": dict(definition),
            "runDetails": {
                "builder": {"id": name, "version": {"kiln": version}},
                "metadata": {"invocationId": invocation} if invocation else {},
                "byproducts": [dict(record)],
            },
        },
    }


def shared_dependencies(
    archive: SourceArchive,
    image: str,
    source: Mapping[str, Any],
    others: Sequence[str],
    sboms: Mapping[str, str],
) -> list[dict[str, Any]]:
    """List the dependencies that all artefacts of a model share, from archive and source.

    Args:
        archive: the sources of the build.
        image: name of the image in the archive's ``docker/images.lock``.
        source: where the model came from, as ``conversion.json`` has it.
        others: names of the images that artefacts were checked in, likewise.
        sboms: those beside the artefacts (:func:`sboms_in`).

    Raises:
        VerificationError: the archive's images.toml or images.lock is invalid.
        KeyError, ValueError, TypeError, AttributeError: the archive's locks are missing, damaged
            or do not name the image.
    """
    found = [
        *(_image(locked_in(archive, name)) for name in (image, *others)),
        {"name": "stage-code", "digest": {"kilnTree": archive.stage_code()}},
        _digest(SOURCE_FILE, archive.sha256),
    ]
    paths = {path for name in (image, *others) for path in _locks(archive, name)}
    found += [_digest(f"lock/{path}", archive.digest(path)) for path in sorted(paths)]
    found += [_digest(file, archive.digest(path)) for file, path in sboms.items()]
    if source.get("sha256") and source.get("url"):
        found.append({**_digest("source/archive", source["sha256"]), "uri": source["url"]})
    return found


def _image(locked: Locked) -> dict[str, Any]:
    return {
        **_digest(f"image/{locked.name}", locked.identity.removeprefix("sha256:")),
        "annotations": {"layer": locked.layer, "size": locked.size, "recipe": locked.recipe},
    }


def other_images(conversion: Mapping[str, Any]) -> list[str]:
    """Return the names of the other images that a record names, in its order.

    Raises:
        KeyError, TypeError: it is damaged.
    """
    return [str(item["name"]) for item in conversion.get("other_images", [])]


def locked_in(archive: SourceArchive, image: str) -> Locked:
    """Return the archive's lock entry of an image; errors as of :func:`shared_dependencies`."""
    path = f"docker/{lock.LOCK_FILE}"
    try:
        return lock.parse_lock(archive.files[path])[image]
    except MalformedError as error:
        raise _no_definitions(path, error) from None


def recipe_digest_in(archive: SourceArchive, image: str) -> str:
    """Return the digest of an image's sources in the archive; errors likewise."""
    return definition.digest_of_recipe(
        _definitions(archive), Path("docker"), image, lambda path: archive.digest(path.as_posix())
    )


def sboms_in(archive: SourceArchive, image: str, others: Sequence[str]) -> dict[str, str]:
    """Return name of an SBOM in a model folder -> its path in the archive, of images that have one.

    Args:
        image: the recipe's.
        others: the others that the build used.
    """
    files = {SBOM_FILE: image, **{sbom_file(name): name for name in others}}
    paths = {file: f"docker/{name}/{SBOM_FILE}" for file, name in files.items()}
    return {file: path for file, path in paths.items() if path in archive.files}


def _definitions(archive: SourceArchive) -> dict[str, definition.Definition]:
    path = f"docker/{definition.DEFINITIONS}"
    try:
        return definition.parse(archive.files[path], Path("docker"))
    except MalformedError as error:
        raise _no_definitions(path, error) from None


def _no_definitions(path: str, error: MalformedError) -> VerificationError:
    return VerificationError(
        f"{SOURCE_FILE} holds a {path} that {error}.",
        "Do not use these files: fetch the release again.",
    )


def _locks(archive: SourceArchive, image: str) -> list[str]:
    """List the archive's paths of all files that decide an image's content, its parents' too."""
    definitions = _definitions(archive)
    paths = {f"docker/{lock.LOCK_FILE}", f"docker/{definition.DEFINITIONS}"}
    name: str | None = image
    while name is not None:
        paths |= {path.as_posix() for path in definitions[name].inputs()}
        name = definitions[name].parent
    return sorted(paths)


def _inputs(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every content that the plan reads: name of the dependency, SHA-256."""
    for step in plan["steps"]:
        for name, item in step["inputs"].items():
            for path, digest in item.get("files", {}).items():
                yield "/".join(filter(None, ("input", step["id"], name, path))), digest


def builder_of(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return builder and run: a GitHub workflow and its run, or this machine and ``""``.

    >>> builder_of({})[1]
    ''
    """
    workflow = environment.get("GITHUB_WORKFLOW_REF", "")
    if environment.get("GITHUB_ACTIONS") != "true" or not workflow:
        return BUILDER_LOCAL, ""
    server = environment.get("GITHUB_SERVER_URL", "https://github.com")
    run = (
        f"{server}/{environment.get('GITHUB_REPOSITORY', '')}/actions/runs/"
        f"{environment.get('GITHUB_RUN_ID', '')}/attempts/"
        f"{environment.get('GITHUB_RUN_ATTEMPT', '1')}"
    )
    return f"{server}/{workflow}", run


def _repository(state: Repository) -> dict[str, Any]:
    return {
        "name": REPOSITORY,
        "uri": state.uri,
        "digest": {"gitCommit": state.commit},
        "annotations": {"dirty": state.dirty},
    }


def _package(state: Package, archive: SourceArchive) -> dict[str, Any]:
    return {
        "name": PACKAGE,
        "uri": state.uri,
        "digest": {"kilnTree": archive.driver_code()},
        "annotations": {"dirty": state.dirty},
    }


def _digest(name: str, sha256: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}}
