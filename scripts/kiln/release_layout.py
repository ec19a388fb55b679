"""How a release lies on the disk: its names, its sums, and who may write there.

::

    dist/<model>/...               the artefacts, what is known about them, source.tar
    dist/<model>/attestations/     signed statements about each artefact
    dist/<model>/model.sig         signature of all other files in that folder
    dist/index.html                the release as a page; latency.json, where it was measured
    dist/kiln.pub                  the public key of the signatures, where it is a key
    dist/SHA256SUMS                every file but itself and the next, in sha256sum's format
    dist/release.sigstore.json     signed statement: the release consists of just these files

Nothing else may be in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from kiln.attest.names import RELEASE_BUNDLE

SUMS_FILE = "SHA256SUMS"
KEY_FILE = "kiln.pub"
PAGE_FILE, LATENCY_FILE = "index.html", "latency.json"
PAGE_FILES = (PAGE_FILE, LATENCY_FILE)

#: What lies beside the models.
LOOSE = (SUMS_FILE, KEY_FILE, *PAGE_FILES, RELEASE_BUNDLE)


@contextlib.contextmanager
def locked(dist: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold the lock on the folder ``dist`` itself, so that no lock file is seen in it."""
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
                continue  # removed and made anew while we waited
            yield
            return
        finally:
            os.close(fd)


def is_our_aside(name: str) -> bool:
    """Whether a name is one that kiln writes under before it renames."""
    return name.startswith(".") and name.endswith(".aside")


def sums(digests: Mapping[str, str]) -> bytes:
    """``sha256sum``'s lines, sorted as ``LC_ALL=C sort`` would sort the paths."""
    lines = {path.encode("utf-8", "surrogateescape"): digests[path].encode() for path in digests}
    return b"".join(b"%s  %s\n" % (lines[path], path) for path in sorted(lines))


def read_or_none(path: Path) -> bytes | None:
    """A file's content; None where there is no such file."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
