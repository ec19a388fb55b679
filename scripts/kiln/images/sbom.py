"""What is in a sealed image, as a CycloneDX 1.6 document beside its lock.

It names every package of the image's locks and of those it starts from, with version, file digest,
licences and requirements. It is a function of the locks and the packages, without time or chance:
the serial number follows from the image's identity, and the only time is that of everything in the
image.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from packaging.utils import canonicalize_name

from kiln.core.errors import ImageMismatchError
from kiln.core.store import Store
from kiln.core.untrusted import parse_json, read_file
from kiln.images import definition
from kiln.images.definition import SOURCE_DATE_EPOCH, Definition
from kiln.images.lock import Locked, locked_image
from kiln.images.package_facts import PackageFacts, debian_facts, python_facts, spdx
from kiln.project import bounds
from kiln.sources import debian, pypi

if TYPE_CHECKING:
    from kiln.sources.download import OnProgress

SBOM_FILE = "sbom.cdx.json"


@dataclass
class _Package:
    """One component; ``requires`` are references of others."""

    name: str
    version: str
    sha256: str
    file: str
    facts: PackageFacts
    requires: set[str] = field(default_factory=set)


def sbom_path(docker_dir: Path, image: str) -> Path:
    """Where the document of an image is kept."""
    return docker_dir / image / SBOM_FILE


def debian_purl(name: str, version: str, arch: str) -> str:
    """The package URL of a Debian package.

    >>> debian_purl("libstdc++6", "1:10.2.1-6", "amd64")
    'pkg:deb/debian/libstdc%2B%2B6@1:10.2.1-6?arch=amd64&distro=bullseye'
    """
    return (
        f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe=':')}"
        f"?arch={arch}&distro=bullseye"
    )


def python_purl(name: str, version: str) -> str:
    """The package URL of a Python package.

    >>> python_purl("Keras_Applications", "1.0.8")
    'pkg:pypi/keras-applications@1.0.8'
    """
    return f"pkg:pypi/{canonicalize_name(name)}@{quote(version, safe='')}"


def make_sbom(
    docker_dir: Path, image: str, store: Store, *, on_progress: OnProgress | None = None
) -> bytes:
    """The document of a locked image; packages that the store lacks are fetched.

    Raises:
        ImageMismatchError: the lock is not of the present sources.
        SourceUnavailableError, DigestMismatchError: a package cannot be had.
        ArchiveError: a package cannot be read.
    """
    locked = locked_image(docker_dir, image)
    found: dict[str, _Package] = {}
    for item in _lineage(docker_dir, image):
        definition.fetch(item, store, on_progress=on_progress)
        for purl, package in _packages(item, store):
            found.setdefault(purl, package).requires.update(package.requires)
    document = _document(docker_dir, locked, dict(sorted(found.items())))
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _lineage(docker_dir: Path, image: str) -> Iterator[Definition]:
    item = definition.get(docker_dir, image)
    if item.parent is not None:
        yield from _lineage(docker_dir, item.parent)
    yield item


def _packages(item: Definition, store: Store) -> Iterator[tuple[str, _Package]]:
    if item.debian is not None:
        yield from _debian_packages(debian.read_lock(item.debian), store)
    for lock in item.wheels:
        yield from _python_packages(pypi.read_lock(lock), store)


def _debian_packages(pins: Iterable[debian.DebPin], store: Store) -> Iterator[tuple[str, _Package]]:
    facts = {pin.name: debian_facts(store.path(pin.sha256)) for pin in pins}
    purls = {pin.name: debian_purl(pin.name, pin.version, pin.arch) for pin in pins}
    providers: dict[str, list[str]] = {}
    for name, said in facts.items():
        for virtual in (name, *said.provides):
            providers.setdefault(virtual, []).append(purls[name])
    for pin in pins:
        said = facts[pin.name]
        shared = facts.get(said.shares_licence_of or "", said)
        told = PackageFacts(licences=shared.licences, maker=said.maker)
        requires = {purl for name in said.requires for purl in providers.get(name, [])}
        yield (
            purls[pin.name],
            _Package(pin.name, pin.version, pin.sha256, pin.filename, told, requires),
        )


def _python_packages(pins: Iterable[pypi.Pin], store: Store) -> Iterator[tuple[str, _Package]]:
    purls = {str(canonicalize_name(pin.name)): python_purl(pin.name, pin.version) for pin in pins}
    for pin in pins:
        name = str(canonicalize_name(pin.name))
        chosen = pypi.recall(store, pin)
        assert chosen is not None  # just fetched
        facts = python_facts(store.path(chosen.sha256), chosen.filename)
        requires = {purls[other] for other in facts.requires if other in purls and other != name}
        yield (
            purls[name],
            _Package(name, pin.version, chosen.sha256, chosen.filename, facts, requires),
        )


# -- the document -------------------------------------------------------------------------------


def _document(docker_dir: Path, locked: Locked, packages: Mapping[str, _Package]) -> dict[str, Any]:
    created = datetime.fromtimestamp(SOURCE_DATE_EPOCH, timezone.utc)
    lock_files = [
        path.relative_to(docker_dir).as_posix()
        for item in _lineage(docker_dir, locked.name)
        for path in (*item.wheels, *([item.debian] if item.debian else []))
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, locked.identity)}",
        "version": 1,
        "metadata": {
            "timestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [{"type": "application", "name": "tflite-kiln"}]},
            "component": {
                "type": "container",
                "bom-ref": locked.identity,
                "name": f"tflite-kiln/{locked.name}",
                "version": locked.tag.rpartition(":")[2],
                "hashes": [_sha256(locked.identity.removeprefix("sha256:"))],
                "properties": [
                    {"name": "tflite-kiln:layer", "value": locked.layer},
                    {"name": "tflite-kiln:recipe", "value": locked.recipe},
                    *({"name": "tflite-kiln:lock", "value": path} for path in sorted(lock_files)),
                ],
            },
        },
        "components": [_component(purl, item) for purl, item in packages.items()],
        "dependencies": [
            {"ref": locked.identity, "dependsOn": list(packages)},
            *(
                {"ref": purl, **({"dependsOn": sorted(item.requires)} if item.requires else {})}
                for purl, item in packages.items()
            ),
        ],
    }


def _component(purl: str, item: _Package) -> dict[str, Any]:
    licences = _licences(item.facts.licences)
    return {
        "type": "library",
        "bom-ref": purl,
        "name": item.name,
        "version": item.version,
        "purl": purl,
        "hashes": [_sha256(item.sha256)],
        "properties": [{"name": "tflite-kiln:file", "value": item.file}],
        **({"supplier": {"name": item.facts.maker}} if item.facts.maker else {}),
        **({"licenses": licences} if licences else {}),
    }


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _licences(names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Several names are several licences; one expression stands alone, as the schema wants it."""
    if len(names) == 1 and " " in names[0] and spdx(names[0]):
        return [{"expression": names[0]}]
    return [
        {"license": {"id": name} if " " not in name and spdx(name) else {"name": name}}
        for name in names
    ]


# -- against the locks --------------------------------------------------------------------------


def outdated(docker_dir: Path, image: str) -> list[str]:
    """How an image's document differs from the locks, one sentence each; empty where it does not.

    Needs no packages: identity, names, versions and file digests are compared.

    Raises:
        ImageMismatchError: the lock is not of the present sources.
    """
    locked = locked_image(docker_dir, image)
    try:
        document = parse_json(read_file(sbom_path(docker_dir, image), bounds.SBOM.most, links=True))
        identity = document["metadata"]["component"]["bom-ref"]
        listed = {
            item["purl"]: (item["name"], item["version"], item["hashes"][0]["content"])
            for item in document["components"]
        }
    except FileNotFoundError:
        return ["there is none"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        return [f"it cannot be read ({type(error).__name__})"]
    problems = []
    if identity != locked.identity:
        problems.append(f"it is of {identity}, the lock names {locked.identity}")
    wanted = dict(_wanted(docker_dir, image))
    for purl in sorted(wanted.keys() | listed.keys()):
        if purl not in listed:
            problems.append(f"{purl} is missing")
        elif purl not in wanted:
            problems.append(f"{purl} is in no lock")
        else:
            name, version, hashes = wanted[purl]
            if listed[purl][:2] != (name, version) or listed[purl][2] not in hashes:
                problems.append(f"{purl} is another file than the locked one")
    return problems


def _wanted(docker_dir: Path, image: str) -> Iterator[tuple[str, tuple[str, str, frozenset[str]]]]:
    for item in _lineage(docker_dir, image):
        for deb in debian.read_lock(item.debian) if item.debian else []:
            purl = debian_purl(deb.name, deb.version, deb.arch)
            yield purl, (deb.name, deb.version, frozenset({deb.sha256}))
        for lock in item.wheels:
            for pin in pypi.read_lock(lock):
                name = str(canonicalize_name(pin.name))
                yield python_purl(pin.name, pin.version), (name, pin.version, pin.hashes)


def refuse_outdated(docker_dir: Path, images: Iterable[str]) -> None:
    """Refuse documents that are not of the locks.

    Raises:
        ImageMismatchError: one is not; says how.
    """
    for image in images:
        problems = outdated(docker_dir, image)
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise ImageMismatchError(
                f"{sbom_path(docker_dir, image)} is not of the locks: "
                f"{'; '.join(problems[:5])}{more}.",
                "Write it anew with `kiln images sbom`, and commit it.",
            )
