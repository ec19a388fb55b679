"""A secret that lies where no guest may read, and things beside it that nobody may change."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hostile.cases import FindingError

#: Names of the canary's variable and file.
NAME = "hostile_canary"
_CHUNK = 1 << 20
#: When a file was last read that was never read, in nanoseconds since 1970.
_NEVER = 1_000_000_000


@dataclass(frozen=True)
class Canary:
    """Files of the host with a random word in them, and what they looked like.

    Attributes:
        word: it must not turn up anywhere else.
        folder: where they lie: ``canary``, ``report.json``, ``signing-key.pem``.
    """

    word: str
    folder: Path
    before: tuple[tuple[str, int, int, int, int, bytes], ...] = ()

    @classmethod
    def plant(cls, folder: Path) -> Canary:
        """Make them in the new folder ``folder``."""
        word = f"canary-{secrets.token_hex(16)}"
        folder.mkdir()
        for name in ("canary", "signing-key.pem", "environ", "passwd"):
            (folder / name).write_text(f"{word}\n")
            (folder / name).chmod(0o600)
        about = {"status": "ok", "facts": {"canary": word}, "seconds": 1.0, "peak_rss": 1}
        (folder / "report.json").write_text(json.dumps(about))
        (folder / "result.json").write_text(json.dumps(about))
        (folder / "files").mkdir()
        (folder / "files" / "model.tflite").write_text(word)
        (folder / "open").write_text(word)
        (folder / "open").chmod(0o666)
        made = cls(word, folder)
        for path in made._files():
            os.utime(path, ns=(_NEVER, path.stat().st_mtime_ns))
        return cls(word, folder, tuple(made._look()))

    @property
    def environment(self) -> dict[str, str]:
        """For the environment of the process that is attacked: ``/proc/self/environ`` holds it."""
        return {NAME: self.word}

    def places(self) -> dict[str, str]:
        """For attacks: what their ``{...}`` stand for."""
        return {
            "{canary}": str(self.folder / "canary"),
            "{folder}": str(self.folder),
            "{report}": str(self.folder / "report.json"),
            "{key}": str(self.folder / "signing-key.pem"),
            "{token}": NAME,
        }

    def check_untouched(self) -> None:
        """Nothing was read, added, removed, written to, linked, or given other rights.

        That something was read is only seen where the file system keeps track of it: an access is
        noted where the last one is older than the content, unless it is mounted without.

        Raises:
            FindingError: something was.
        """
        for path in self._files():
            if path.stat().st_atime_ns != _NEVER:
                raise FindingError(f"a file outside was read: {path}")
        now = tuple(self._look())
        if now != self.before:
            old, new = {x[0]: x for x in self.before}, {x[0]: x for x in now}
            changed = sorted(n for n in old.keys() | new.keys() if old.get(n) != new.get(n))
            raise FindingError(f"files outside were changed: {', '.join(changed)}")

    def check_unseen(self, *places: Path) -> None:
        """The word is in no file at or below ``places``, nor in a name there.

        Raises:
            FindingError: it is.
        """
        word = self.word.encode()
        for place in places:
            for path in _files(place):
                if self.word in str(path) or _holds(path, word):
                    raise FindingError(f"bytes of the host are in {path}")

    def check_unsaid(self, *texts: str) -> None:
        """The word is in none of these texts.

        Raises:
            FindingError: it is.
        """
        for text in texts:
            if self.word in text:
                raise FindingError(f"bytes of the host were said: {text[:300]!r}")

    def _files(self) -> list[Path]:
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file()]

    def _look(self) -> Iterator[tuple[str, int, int, int, int, bytes]]:
        for path in sorted([self.folder, *self.folder.rglob("*")]):
            about = path.lstat()
            data = _unnoticed(path) if path.is_file() and not path.is_symlink() else b""
            name = str(path.relative_to(self.folder))
            yield name, about.st_mode, about.st_uid, about.st_nlink, about.st_mtime_ns, data


def _unnoticed(path: Path) -> bytes:
    """A file's content, read without a note of it."""
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _files(place: Path) -> Iterator[Path]:
    if place.is_file() and not place.is_symlink():
        yield place
    for folder, _, names in os.walk(place):
        for name in names:
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                yield path


def _holds(path: Path, word: bytes) -> bool:
    """Whether a file holds ``word``; holes are passed over."""
    with path.open("rb") as file:
        fd, size = file.fileno(), path.stat().st_size
        place = 0
        while place < size:
            try:
                place = os.lseek(fd, place, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                return False
            data = os.pread(fd, _CHUNK, max(0, place - len(word)))
            if word in data:
                return True
            if not data:
                return False
            place = max(0, place - len(word)) + len(data)
    return False
