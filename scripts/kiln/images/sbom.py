"""Write an image's software bill of materials (SBOM): CycloneDX 1.6, beside the image's lock.

It lists every package of the image's locks and of its parents', with version, file digest, licences
and requirements. The document is a function of the locks and the packages: its serial number
follows from the image's identity, and its time is that of all files in the image.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseExpression
from cyclonedx.model.lifecycle import LifecyclePhase, PredefinedLifecycle
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import is_supported_id
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from kiln.core.errors import ImageMismatchError
from kiln.core.store import Store
from kiln.core.untrusted import parse_json, read_file
from kiln.images import definition
from kiln.images.definition import SOURCE_DATE_EPOCH, Definition, System
from kiln.images.lock import Locked, locked_image
from kiln.images.package_facts import PackageFacts, debian_facts, python_facts, spdx
from kiln.project import bounds
from kiln.sources import debian, pypi

if TYPE_CHECKING:
    from kiln.sources.download import OnProgress

SBOM_FILE = "sbom.cdx.json"


def sbom_path(docker_dir: Path, image: str) -> Path:
    """Return the path of an image's document."""
    return docker_dir / image / SBOM_FILE


def debian_purl(name: str, version: str, arch: str, suite: str) -> PackageURL:
    """Return the package URL of a Debian package.

    >>> str(debian_purl("libstdc++6", "1:10.2.1-6", "amd64", "bullseye"))
    'pkg:deb/debian/libstdc%2B%2B6@1:10.2.1-6?arch=amd64&distro=bullseye'
    """
    return PackageURL("deb", "debian", name, version, {"arch": arch, "distro": suite})


def python_purl(name: str, version: str) -> PackageURL:
    """Return the package URL of a Python package.

    >>> str(python_purl("Keras_Applications", "1.0.8"))
    'pkg:pypi/keras-applications@1.0.8'
    """
    return PackageURL("pypi", None, canonicalize_name(name), version)


def make_sbom(
    docker_dir: Path, image: str, store: Store, *, on_progress: OnProgress | None = None
) -> bytes:
    """Make the document of a locked image; packages missing in the store are fetched.

    Raises:
        ImageMismatchError: the lock does not match the present sources.
        SourceUnavailableError, DigestMismatchError: a package cannot be fetched.
        ArchiveError: a package cannot be read.
    """
    locked = locked_image(docker_dir, image)
    components: dict[str, Component] = {}
    requires: dict[str, set[str]] = defaultdict(set)
    for item in _lineage(docker_dir, image):
        definition.fetch(item, store, on_progress=on_progress)
        for purl, sha256, file, facts, others in _packages(item, store):
            components.setdefault(str(purl), _component(purl, sha256, file, facts))
            requires[str(purl)] |= others
    bom = _document(docker_dir, locked, components.values())
    for ref, others in requires.items():
        bom.register_dependency(components[ref], [components[other] for other in others])
    # Sorted, because versions of the library order the fields differently.
    document = parse_json(JsonV1Dot6(bom).output_as_string())
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _lineage(docker_dir: Path, image: str) -> Iterator[Definition]:
    item = definition.get(docker_dir, image)
    if item.parent is not None:
        yield from _lineage(docker_dir, item.parent)
    yield item


# Package URL, SHA-256 and file name from the lock, the package's facts, and its requirements.
_Package = tuple[PackageURL, str, str, PackageFacts, set[str]]


def _packages(item: Definition, store: Store) -> Iterator[_Package]:
    if item.debian is not None:
        yield from _debian_packages(debian.read_lock(item.debian), item.system, store)
    for lock in item.wheels:
        yield from _python_packages(pypi.read_lock(lock), item.system, store)


def _debian_packages(
    pins: Iterable[debian.DebPin], system: System, store: Store
) -> Iterator[_Package]:
    facts = {pin.name: debian_facts(store.path(pin.sha256)) for pin in pins}
    purls = {pin.name: debian_purl(pin.name, pin.version, pin.arch, system.suite) for pin in pins}
    providers: dict[str, set[str]] = defaultdict(set)
    for name, found in facts.items():
        for virtual in (name, *found.provides):
            providers[virtual].add(str(purls[name]))
    for pin in pins:
        own = facts[pin.name]
        shared = facts.get(own.shares_licence_of or pin.name, own)
        told = replace(own, licences=shared.licences)
        requires = {purl for name in own.requires for purl in providers[name]}
        yield purls[pin.name], pin.sha256, pin.filename, told, requires


def _python_packages(pins: Iterable[pypi.Pin], system: System, store: Store) -> Iterator[_Package]:
    purls = {purl.name: purl for purl in (python_purl(pin.name, pin.version) for pin in pins)}
    for pin, purl in zip(pins, purls.values(), strict=True):
        chosen = pypi.recall(store, pin, **system.wheels)
        assert chosen is not None  # just fetched
        facts = python_facts(store.path(chosen.sha256), chosen.filename, python=system.python)
        requires = {str(purls[other]) for other in facts.requires if other in purls}
        yield purl, chosen.sha256, chosen.filename, facts, requires - {str(purl)}


# -- the document -------------------------------------------------------------------------------


def _document(docker_dir: Path, locked: Locked, components: Iterable[Component]) -> Bom:
    locks = {
        path.relative_to(docker_dir).as_posix()
        for item in _lineage(docker_dir, locked.name)
        for path in (*item.wheels, *([item.debian] if item.debian else []))
    }
    image = Component(
        type=ComponentType.CONTAINER,
        bom_ref=locked.identity,
        name=f"tflite-kiln/{locked.name}",
        version=locked.tag.rpartition(":")[2],
        hashes=[_sha256(locked.identity.removeprefix("sha256:"))],
        properties=[
            Property(name="tflite-kiln:layer", value=locked.layer),
            Property(name="tflite-kiln:recipe", value=locked.recipe),
            *(Property(name="tflite-kiln:lock", value=path) for path in locks),
        ],
    )
    tool = Component(type=ComponentType.APPLICATION, name="tflite-kiln")
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, locked.identity),
        metadata=BomMetaData(
            timestamp=datetime.fromtimestamp(SOURCE_DATE_EPOCH, timezone.utc),
            lifecycles=[PredefinedLifecycle(LifecyclePhase.BUILD)],
            tools=ToolRepository(components=[tool]),
            component=image,
        ),
        components=components,
    )
    bom.register_dependency(image, components)
    return bom


def _component(purl: PackageURL, sha256: str, file: str, facts: PackageFacts) -> Component:
    return Component(
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        name=purl.name,
        version=purl.version,
        purl=purl,
        hashes=[_sha256(sha256)],
        properties=[Property(name="tflite-kiln:file", value=file)],
        supplier=OrganizationalEntity(name=facts.maker) if facts.maker else None,
        licenses=_licences(facts.licences),
    )


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _licences(names: tuple[str, ...]) -> list[License]:
    """Convert licence names; the schema allows several licences, or a single expression."""
    if len(names) == 1 and not is_supported_id(names[0]) and spdx(names[0]) == names[0]:
        return [LicenseExpression(names[0])]
    return [
        DisjunctiveLicense(id=name) if is_supported_id(name) else DisjunctiveLicense(name=name)
        for name in names
    ]


# -- against the locks --------------------------------------------------------------------------


def outdated(docker_dir: Path, image: str) -> list[str]:
    """List how an image's document differs from the locks; empty if it matches.

    Needs no packages: identity, names, versions and file digests are compared.

    Raises:
        ImageMismatchError: the lock does not match the present sources.
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
        elif listed[purl] not in wanted[purl]:
            problems.append(f"{purl} is another file than the locked one")
    return problems


def _wanted(docker_dir: Path, image: str) -> Iterator[tuple[str, set[tuple[str, str | None, str]]]]:
    """Yield the accepted name, version and file's SHA-256 of each package URL."""
    for item in _lineage(docker_dir, image):
        pins = [
            (debian_purl(deb.name, deb.version, deb.arch, item.system.suite), {deb.sha256})
            for deb in (debian.read_lock(item.debian) if item.debian else [])
        ]
        for pin in (pin for lock in item.wheels for pin in pypi.read_lock(lock)):
            pins.append((python_purl(pin.name, pin.version), set(pin.hashes)))
        for purl, hashes in pins:
            yield str(purl), {(purl.name, purl.version, digest) for digest in hashes}


def refuse_outdated(docker_dir: Path, images: Iterable[str]) -> None:
    """Refuse documents that do not match the locks.

    Raises:
        ImageMismatchError: one differs; the message says how.
    """
    for image in images:
        problems = outdated(docker_dir, image)
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise ImageMismatchError(
                f"{sbom_path(docker_dir, image)} does not match the locks: "
                f"{'; '.join(problems[:5])}{more}.",
                "Write it again with `kiln images sbom`, and commit it.",
            )
