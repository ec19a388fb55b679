"""Which release of kiln is installed, and whether its files are still those of its wheel."""

from __future__ import annotations

import base64
import fnmatch
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kiln.core.digest import CACHE_PATTERNS, sha256_file
from kiln.core.version import __version__
from kiln.project.folders import PACKAGE, is_installed

DISTRIBUTION = "tflite-kiln"


@dataclass(frozen=True)
class Package:
    """An installed kiln.

    Attributes:
        version: of kiln.
        dirty: whether a file of it is missing, was added, or is another one than the installation's
            own record (``RECORD``) has; also where there is no such record.
    """

    version: str
    dirty: bool

    @property
    def uri(self) -> str:
        """Its package URL.

        >>> Package("1.2.3", dirty=False).uri
        'pkg:pypi/tflite-kiln@1.2.3'
        """
        return f"pkg:pypi/{DISTRIBUTION}@{self.version}"


def installed_package() -> Package | None:
    """The installed package that this driver is; None for the code of a checkout."""
    if not is_installed():
        return None
    return Package(__version__, dirty=_recorded() != _there())


def _there() -> Mapping[str, str]:
    """SHA-256 of each file of the package, by its path; without what Python leaves there."""
    found = {}
    for folder, folders, names in os.walk(PACKAGE):
        folders[:] = [name for name in folders if not _is_cache(name)]
        for name in names:
            path = Path(folder, name)
            if not _is_cache(name):
                found[str(path)] = sha256_file(path)
    return found


def _recorded() -> Mapping[str, str]:
    """The same by ``RECORD``; empty where there is none of this very package."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        files = distribution(DISTRIBUTION).files or []
    except PackageNotFoundError:
        return {}
    found = {}
    for item in files:
        path = Path(os.path.realpath(str(item.locate())))
        ours = path.is_relative_to(PACKAGE) and not any(map(_is_cache, item.parts))
        if ours and item.hash is not None and item.hash.mode == "sha256":
            digest = base64.urlsafe_b64decode(item.hash.value + "=")
            found[str(path)] = digest.hex()
    return found


def _is_cache(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in CACHE_PATTERNS)
