"""Read an untrusted ``source.tar`` into memory."""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from kiln.core.digest import sha256_bytes, tree_key
from kiln.core.errors import VerificationError
from kiln.project import bounds

STAGES = "docker/stages/"
DRIVER = "scripts/kiln/"

MAX_BYTES = bounds.SOURCE.most
MAX_ENTRIES = 5_000  # ten times as many as the archive has today


@dataclass(frozen=True)
class SourceArchive:
    """A ``source.tar``, read into memory.

    Attributes:
        sha256: of the whole archive.
        files: path -> content.
        executable: the paths of those that are executable.
    """

    sha256: str
    files: Mapping[str, bytes]
    executable: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def read(cls, data: bytes) -> SourceArchive:
        """Read the archive in ``data``.

        Raises:
            VerificationError: not a tar, damaged, larger than any of ours, or holding something
                other than plain files, a name twice, or a path that leaves it.
        """
        files: dict[str, bytes] = {}
        executable = set()
        if len(data) > MAX_BYTES:
            raise _bad(f"has more than {MAX_BYTES:,} bytes")
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
                for member in tar:
                    if tar.pax_headers:  # copied into each entry, however large they are
                        raise _bad("has headers for all of its entries")
                    name = _checked(member, files)
                    content = tar.extractfile(member)
                    assert content is not None  # a plain file
                    files[name] = content.read()
                    if len(files[name]) != member.size:
                        raise _bad(f"is cut short in {name!r}")
                    if member.mode & stat.S_IXUSR:
                        executable.add(name)
        except (
            *(tarfile.TarError, EOFError, ValueError, OverflowError, OSError),
            RecursionError,  # tarfile recurses for each of a chain of long names
        ) as error:
            raise _bad(f"is damaged or not a tar ({error or type(error).__name__})") from None
        return cls(sha256_bytes(data), files, frozenset(executable))

    def digest(self, path: str) -> str:
        """Return SHA-256 of one of its files; ``KeyError`` where there is none."""
        return sha256_bytes(self.files[path])

    def stage_code(self) -> str:
        """Compute the :func:`kiln.core.digest.tree_digest` of its ``docker/stages``."""
        return tree_key(self.stage_files())

    def stage_files(self) -> dict[str, tuple[bool, str]]:
        """Return the :func:`kiln.core.digest.tree_files` of its ``docker/stages``."""
        return self._tree(STAGES)

    def driver_code(self) -> str:
        """Compute the digest of ``scripts/kiln`` as that of the stage code."""
        return tree_key(self._tree(DRIVER))

    def _tree(self, folder: str) -> dict[str, tuple[bool, str]]:
        return {
            path.removeprefix(folder): (path in self.executable, sha256_bytes(content))
            for path, content in self.files.items()
            if path.startswith(folder)
        }


def _checked(member: tarfile.TarInfo, seen: Mapping[str, bytes]) -> str:
    name = member.name
    if not member.isreg() or member.issparse():
        raise _bad(f"holds {name!r}, which is not a plain file")
    if not is_possible(name):
        raise _bad(f"holds an impossible name, {name!r}")
    if name in seen or len(seen) >= MAX_ENTRIES:
        raise _bad(f"holds {name!r} twice, or too many files")
    return name


def is_possible(name: str) -> bool:
    """Whether a reader takes this name of an entry."""
    path = PurePosixPath(name)
    plain = str(path) == name and not path.is_absolute() and ".." not in path.parts
    return plain and name.isprintable()


def _bad(what: str) -> VerificationError:
    return VerificationError(
        f"source.tar {what}.", "Do not use these files: fetch the release again."
    )
