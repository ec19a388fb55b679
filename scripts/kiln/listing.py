"""What a released folder holds, looked at without following or opening anything odd."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Listing:
    """The content of a folder.

    Attributes:
        files: relative POSIX path -> path, for every regular file.
        odd: relative POSIX path -> why it cannot be part of a release (a symbolic link, an
            empty folder, a device, a name that sha256sum could not write plainly).
    """

    files: dict[str, Path] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)


def list_tree(root: Path) -> Listing:
    """List ``root`` recursively; ``OSError`` if ``root`` itself cannot be read."""
    found = Listing()
    _walk(root, "", found)
    return found


def _walk(folder: Path, prefix: str, found: Listing) -> None:
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
    if not entries and prefix:
        found.odd[prefix.removesuffix("/")] = "is an empty folder, which no signature covers"
    for entry in entries:
        relative = prefix + entry.name
        mode = entry.stat(follow_symlinks=False).st_mode
        if problem := _bad_name(entry.name):
            found.odd[relative] = problem
        elif stat.S_ISDIR(mode):
            try:
                _walk(Path(entry.path), f"{relative}/", found)
            except OSError as error:
                found.odd[relative] = f"cannot be read: {error.strerror or error}"
        elif stat.S_ISREG(mode):
            found.files[relative] = Path(entry.path)
        elif stat.S_ISLNK(mode):
            found.odd[relative] = "is a symbolic link"
        else:
            found.odd[relative] = "is neither a file nor a folder"


def _bad_name(name: str) -> str:
    if "\\" in name or any(ord(char) < 32 or ord(char) == 127 for char in name):
        return "has a control character or a backslash in its name"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    return ""


def printable(name: str) -> str:
    r"""``name`` with everything a terminal could take for a command escaped.

    >>> printable("é" + chr(27) + "[2J")
    'é\\x1b[2J'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in name
    )
