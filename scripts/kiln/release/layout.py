"""Define the layout of a release folder: file names, checksums, and its lock.

::

    dist/<model>/...               the artefacts, what is known about them, source.tar
    dist/<model>/attestations/     signed statements about each artefact
    dist/<model>/model.sig         signature of all other files in that folder
    dist/index.html                the release as a page; latency.json, accuracy.json: if measured
    dist/kiln.pub                  the public key of the signatures, where it is a key
    dist/SHA256SUMS                every file but itself and the next, in sha256sum's format
    dist/release.sigstore.json     signed statement: the release consists of just these files

Nothing else is allowed in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from kiln.core.untrusted import MalformedError, read_file
from kiln.project import bounds
from kiln.signing.statement_names import RELEASE_BUNDLE, SOURCE_FILE, is_sbom

SUMS_FILE = "SHA256SUMS"
KEY_FILE = "kiln.pub"
PAGE_FILE, LATENCY_FILE, ACCURACY_FILE = "index.html", "latency.json", "accuracy.json"
MEASURED_FILES = (LATENCY_FILE, ACCURACY_FILE)
PAGE_FILES = (PAGE_FILE, *MEASURED_FILES)

#: Files beside the model folders.
LOOSE = (SUMS_FILE, KEY_FILE, *PAGE_FILES, RELEASE_BUNDLE)


@contextlib.contextmanager
def locked(dist: Path, *, exclusive: bool) -> Iterator[None]:
    """Lock the folder ``dist`` itself, so that it contains no lock file."""
    while True:
        fd = os.open(dist, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            except OSError as error:
                # Some network file systems cannot lock a folder. Each step is atomic anyway;
                # without the lock a concurrent SHA256SUMS may be stale until the next build.
                if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP):
                    raise
            here, held = os.stat(dist), os.fstat(fd)  # noqa: PTH116 (pairs with fstat)
            if (here.st_dev, here.st_ino) != (held.st_dev, held.st_ino):
                continue  # replaced while we waited
            yield
            return
        finally:
            os.close(fd)


def is_our_aside(name: str) -> bool:
    """Whether kiln uses this kind of name for a file before renaming it."""
    return name.startswith(".") and name.endswith(".aside")


_GIT_NAMES = (".git", ".gitattributes", ".github", ".gitignore")


def is_gits(path: str) -> bool:
    """Whether a path of a release is what git keeps in a checkout, by its name and place.

    >>> is_gits(".git"), is_gits("toy/.gitattributes"), is_gits("toy/previews/.gitignore")
    (True, True, False)
    """
    folder, _, name = path.rpartition("/")
    return name in _GIT_NAMES and "/" not in folder


def sums(digests: Mapping[str, str]) -> bytes:
    """Format ``sha256sum`` lines, sorted as ``LC_ALL=C sort`` would sort the paths."""
    lines = {path.encode("utf-8", "surrogateescape"): digests[path].encode() for path in digests}
    return b"".join(b"%s  %s\n" % (lines[path], path) for path in sorted(lines))


#: Most bytes that are read of a file, by its name and for all others.
_MOST = {
    KEY_FILE: bounds.KEY,
    SUMS_FILE: bounds.SUMS,
    PAGE_FILE: bounds.PAGE,
    LATENCY_FILE: bounds.MEASUREMENTS,
    ACCURACY_FILE: bounds.MEASUREMENTS,
    SOURCE_FILE: bounds.SOURCE,
}


def read(path: Path) -> bytes:
    """Read a file of a release, up to the size that its name allows.

    Raises:
        MalformedError: it is larger, or not a plain file.
        OSError: it cannot be read.
    """
    other = bounds.SBOM if is_sbom(path.name) else bounds.STATEMENT
    return read_file(path, _MOST.get(path.name, other).most)


def read_or_none(path: Path) -> bytes | None:
    """Read a file of a release; None if it is missing or :func:`read` refuses it."""
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError, MalformedError):
        return None
