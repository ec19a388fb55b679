"""Read licences, makers and requirements from packages' own metadata.

For Debian packages these are the control file and ``/usr/share/doc/<package>/copyright`` (Debian
Policy 12.5), for Python packages the core metadata. Nothing is guessed: a package without a
machine-readable licence has none here.
"""

from __future__ import annotations

import email.utils
import io
import logging
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debian.copyright import Copyright, NotMachineReadableError
from debian.deb822 import Packages
from debian.debfile import DebFile
from license_expression import get_spdx_licensing
from packaging.metadata import RawMetadata, parse_email
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kiln.core.errors import ArchiveError
from kiln.images.rootfs import UNREADABLE

#: Environment markers in the images: Debian's Python on x86-64, no extras.
_MARKERS = {
    "extra": "",
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_release": "",
    "platform_system": "Linux",
    "platform_version": "",
    "sys_platform": "linux",
}
# It warns of an outdated format address, which a user cannot change.
logging.getLogger("debian.copyright").setLevel(logging.ERROR)

_SPDX = get_spdx_licensing()
# Licence names of machine-readable copyright files (DEP-5) that differ from SPDX's.
_DEBIAN_NAMES = {"Artistic": "Artistic-1.0-Perl", "Artistic-2": "Artistic-2.0", "Expat": "MIT"}
_WORD = re.compile(r"\S+")
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z]+(?:-\d+(?:\.\d+)?)?)\b")


@dataclass(frozen=True)
class PackageFacts:
    """The metadata of a package.

    Args:
        licences: SPDX identifiers and expressions, or the package's own names.
        maker: its maintainer or author, without address.
        requires: names of required packages, including names that others provide.
        provides: other names that the package satisfies.
        shares_licence_of: a Debian package with the same copyright file.
    """

    licences: tuple[str, ...] = ()
    maker: str | None = None
    requires: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    shares_licence_of: str | None = None


def spdx(text: str) -> str | None:
    """Normalise ``text`` as an SPDX expression; None if it is not one.

    >>> spdx("apache-2.0"), spdx("Apache 2.0")
    ('Apache-2.0', None)
    """
    try:
        expression = _SPDX.parse(text, validate=True, strict=True)
    except Exception:  # not only the parser's own: "( and MIT" fails an assertion in it
        return None
    # The library also knows names invented by a licence scanner.
    made_up = expression is None or "LicenseRef-" in str(expression)
    return None if made_up else str(expression)


# -- Debian -------------------------------------------------------------------------------------


def debian_facts(path: Path) -> PackageFacts:
    """Read the facts of a ``.deb``.

    Raises:
        ArchiveError: it is not a readable package.
    """
    try:
        with path.open("rb") as stream:
            package = DebFile(fileobj=stream)
            control = Packages(package.debcontrol())
            name = str(control["Package"])
            text, other = _copyright(package.data.tgz(), name)
    except UNREADABLE as error:
        raise ArchiveError(
            f"{path.name} is not a readable Debian package ({error}).",
            "Remove it from the store with `kiln clean --store` and fetch it again.",
        ) from error
    return PackageFacts(
        licences=licences_of(text),
        maker=email.utils.parseaddr(str(control.get("Maintainer", "")))[0] or None,
        requires=_names(control, "pre-depends", "depends"),
        provides=_names(control, "provides"),
        shares_licence_of=other,
    )


def _copyright(data: tarfile.TarFile, name: str) -> tuple[str, str | None]:
    folder = f"./usr/share/doc/{name}"
    for info in data.getmembers():
        if info.name == folder and info.issym():
            return "", Path(info.linkname).name
        if info.name == f"{folder}/copyright":
            if info.issym():
                return "", Path(info.linkname).parent.name
            stream = data.extractfile(info)
            return (stream.read().decode("utf-8", "replace") if stream else ""), None
    return "", None


def _names(control: Packages, *fields: str) -> tuple[str, ...]:
    choices = (choice for field in fields for choice in control.relations[field] or ())
    return tuple(sorted({package["name"] for choice in choices for package in choice}))


def licences_of(text: str) -> tuple[str, ...]:
    """List the licences that a copyright file names, sorted.

    These are the short names of a machine-readable file; else the files in
    ``/usr/share/common-licenses`` that it refers to, whose names do not tell whether later versions
    are allowed.

    >>> licences_of("Format: https://www.debian.org/...\\nLicense: GPL-2+ or Expat\\n")
    ('GPL-2.0-or-later OR MIT',)
    >>> licences_of("See /usr/share/common-licenses/GPL-3.")
    ('GPL-3',)
    """
    try:
        # Typed as Any: their fields are created at run time.
        paragraphs: list[Any] = list(Copyright(io.StringIO(text), strict=False))
        found = {item.license.synopsis for item in paragraphs if item.license}
    except (NotMachineReadableError, ValueError):
        return tuple(sorted(set(_COMMON.findall(text))))
    return tuple(sorted({spdx(_WORD.sub(_spdx_name, name)) or name for name in found if name}))


def _spdx_name(word: re.Match[str]) -> str:
    """Return SPDX's name for Debian's, which omits the ``.0`` of GNU licence versions."""
    return _DEBIAN_NAMES.get(word[0]) or re.sub(r"(GPL-\d)(?=\+?$)", r"\1.0", word[0])


# -- Python -------------------------------------------------------------------------------------


def python_facts(path: Path, filename: str, *, python: str) -> PackageFacts:
    """Read the facts of a wheel or a source package.

    Args:
        path: the file.
        filename: its published name.
        python: version of the image's Python (``3.9.2``), for conditional requirements.

    Raises:
        ArchiveError: it has no metadata.
    """
    try:
        data = _wheel_metadata(path) if filename.endswith(".whl") else _source_metadata(path)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise ArchiveError(
            f"{filename} is not a readable package ({error}).",
            "Remove it from the store with `kiln clean --store` and fetch it again.",
        ) from error
    if data is None:
        raise ArchiveError(f"{filename} has no metadata.", "Report it to its author.")
    metadata, _ = parse_email(data)
    addresses = [metadata.get("author_email", ""), metadata.get("maintainer_email", "")]
    named = [metadata.get("author"), metadata.get("maintainer")]
    named += [name for name, _ in email.utils.getaddresses(addresses)]
    makers = [name.strip() for name in named if name and name.strip() not in {"", "UNKNOWN"}]
    return PackageFacts(
        licences=_python_licences(metadata),
        maker=" ".join(makers[0].split()) if makers else None,
        requires=_required(metadata.get("requires_dist", []), python),
    )


def _wheel_metadata(path: Path) -> bytes | None:
    with zipfile.ZipFile(path) as wheel:
        for name in wheel.namelist():
            if re.fullmatch(r"[^/]+\.dist-info/METADATA", name):
                return wheel.read(name)
    return None


def _source_metadata(path: Path) -> bytes | None:
    with tarfile.open(path) as source:
        for info in source:
            if re.fullmatch(r"[^/]+/PKG-INFO", info.name) and info.isreg():
                stream = source.extractfile(info)
                return stream.read() if stream else None
    return None


def _python_licences(metadata: RawMetadata) -> tuple[str, ...]:
    """Return the licence expression, else a short ``License`` field, else the classifiers."""
    if expression := metadata.get("license_expression"):
        return (spdx(expression) or expression,)
    text = (metadata.get("license") or "").strip()
    if text and text != "UNKNOWN" and "\n" not in text and len(text) <= 80:
        return (spdx(text) or text,)
    prefix = "License :: "
    classifiers = [c for c in metadata.get("classifiers", []) if c.startswith(prefix)]
    named = [c.rpartition(" :: ")[2] for c in classifiers if c != f"{prefix}OSI Approved"]
    return tuple(sorted({spdx(name) or name for name in named}))


def _required(lines: Iterable[str], python: str) -> tuple[str, ...]:
    found = set()
    markers = {
        **_MARKERS,
        "implementation_version": python,
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
    }
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # older than the standard
            continue
        if requirement.marker is None or requirement.marker.evaluate(markers):
            found.add(str(canonicalize_name(requirement.name)))
    return tuple(sorted(found))
