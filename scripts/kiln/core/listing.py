"""List a folder of files to publish without following links or opening special files."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class FolderBound(NamedTuple):
    """Most files, nested folders, and bytes of a folder."""

    files: int
    depth: int
    size: int


#: The samples' release has 76 files in nested folders, 130 MB in total.
RELEASE = FolderBound(files=10_000, depth=8, size=32 << 30)

#: Why an empty folder is odd.
EMPTY = "is an empty folder"


@dataclass
class Listing:
    """The content of a folder.

    Attributes:
        files: relative POSIX path -> path, for every regular file.
        odd: relative POSIX path -> why it cannot be part of a release (a symbolic link, an
            empty folder, a device, a name that sha256sum could not write plainly).
        left_out: relative POSIX paths that were not looked at, with what is below them.
    """

    files: dict[str, Path] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


class TooMuchError(OSError):
    """A folder holds more than its kind allows; the message follows "it"."""


def list_tree(
    root: Path,
    most: FolderBound = RELEASE,
    leave_out: Callable[[str], bool] = lambda path: False,
) -> Listing:
    """List everything below ``root``, folder by folder, names sorted in each.

    Args:
        root: the folder.
        most: bounds of what it may hold.
        leave_out: whether a relative POSIX path is not looked at, nor anything below it.

    Raises:
        TooMuchError: it holds more files, nested folders or bytes than ``most`` allows.
        OSError: ``root`` itself cannot be read.
    """
    found = Listing()
    size = number = 0
    waiting = [("", os.fspath(root))]
    while waiting:
        prefix, folder = waiting.pop()
        try:
            with os.scandir(folder) as scan:
                # One more than allowed is enough to know.
                entries = [
                    (entry, entry.stat(follow_symlinks=False))
                    for entry in itertools.islice(scan, most.files - number + 1)
                ]
        except OSError as error:
            if not prefix:
                raise
            found.odd[prefix.removesuffix("/")] = f"cannot be read: {error.strerror or error}"
            continue
        number += len(entries)
        if number > most.files:
            raise TooMuchError(f"it holds more than {most.files:,} files and folders")
        if not entries and prefix:
            found.odd[prefix.removesuffix("/")] = EMPTY
        below = []
        for entry, about in sorted(entries, key=lambda item: os.fsencode(item[0].name)):
            relative = prefix + entry.name
            if leave_out(relative):
                found.left_out.append(relative)
            elif problem := _bad_name(entry.name):
                found.odd[relative] = problem
            elif stat.S_ISDIR(about.st_mode):
                below.append((f"{relative}/", entry.path))
            elif stat.S_ISREG(about.st_mode):
                found.files[relative] = Path(entry.path)
                size += about.st_size
            elif stat.S_ISLNK(about.st_mode):
                found.odd[relative] = "is a symbolic link"
            else:
                found.odd[relative] = "is neither a file nor a folder"
        if below and prefix.count("/") >= most.depth:
            raise TooMuchError(f"it has more than {most.depth} folders inside each other")
        if size > most.size:
            raise TooMuchError(f"its files have more than {most.size:,} bytes together")
        waiting += reversed(below)
    return found


def _bad_name(name: str) -> str:
    if "\\" in name or any(ord(char) < 32 or ord(char) == 127 for char in name):
        return "has a control character or a backslash in its name"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    return ""


def printable(name: str) -> str:
    r"""Escape everything in ``name`` that a terminal could take for a command.

    >>> printable("é" + chr(27) + "[2J")
    'é\\x1b[2J'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in name
    )
