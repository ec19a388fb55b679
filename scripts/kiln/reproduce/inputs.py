"""Find the inputs of a recorded plan by digest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kiln.core.archive import MAX_BYTES, unpack
from kiln.core.digest import sha256_file
from kiln.core.errors import ArchiveError, DigestMismatchError, SourceUnavailableError, UsageError
from kiln.core.store import Store
from kiln.reproduce.recorded import Archive

if TYPE_CHECKING:
    import requests

#: Called with an event name and its fields.
OnEvent = Callable[..., None]


@dataclass
class Inputs:
    """The places to look for inputs, in this order.

    Args:
        store: the user's; downloads go there.
        folders: the user's, with any files.
        shipped: the models folder that comes with kiln, such as the inputs of embedded samples
            (:attr:`kiln.project.folders.Project.shipped`); None where there is none.
        scratch: a private folder for unpacked archives.
        fetch: whether archives may be downloaded.
        session: for downloads; by default it only contacts public addresses, since a statement
            (untrusted) chooses them.
    """

    store: Store
    folders: Sequence[Path]
    shipped: Path | None
    scratch: Path
    on_event: OnEvent
    fetch: bool = True
    session: requests.Session | None = None
    _found: dict[str, Path] = field(default_factory=dict)
    _indexed: dict[Path, dict[str, Path]] = field(default_factory=dict)
    _tried: set[Archive] = field(default_factory=set)

    def __post_init__(self) -> None:
        for folder in self.folders:
            if not folder.is_dir():
                raise UsageError(f"There is no folder {folder}.", "Correct --inputs.")

    def find(self, wanted: Mapping[str, str], archive: Archive | None) -> dict[str, Path]:
        """Return the files with the wanted contents; those that cannot be found are left out.

        Each was just read and has its digest.

        Args:
            wanted: SHA-256 -> name for messages.
            archive: the published archive that some of them are in.
        """

        def missing() -> list[str]:
            return [digest for digest in wanted if digest not in self._found]

        for digest in missing():
            self._look_in_store(digest, wanted[digest])
        for folder in self.folders:
            if missing():
                self._found.update(self._index(folder))
        if missing() and self.shipped is not None:
            known = self._index(self.shipped)
            taken = [digest for digest in missing() if digest in known]
            self._found.update({digest: known[digest] for digest in taken})
            if taken:
                self._note(
                    f"{len(taken)} contents are neither in the store nor in a bundle; files of "
                    f"this kiln have their digests: {_some(wanted[d] for d in taken)}"
                )
        if missing() and archive is not None and archive not in self._tried:
            self._tried.add(archive)
            self._look_in_archive(archive)
        return {digest: self._found[digest] for digest in wanted if digest in self._found}

    def _look_in_store(self, digest: str, name: str) -> None:
        if not self.store.has(digest):
            return
        path = self.store.path(digest)
        if sha256_file(path) == digest:
            self._found[digest] = path
        else:
            self._note(f"{name}: the store's copy is damaged, so it is not used: {path}")

    def _index(self, folder: Path) -> dict[str, Path]:
        """Index every file below a folder by its digest; each folder is read once."""
        if folder not in self._indexed:
            found: dict[str, Path] = {}
            for path in sorted(folder.rglob("*")):
                if path.is_file() and ".git" not in path.relative_to(folder).parts:
                    with contextlib.suppress(OSError):  # skip unreadable files
                        found[sha256_file(path)] = path
            self._indexed[folder] = found
        return self._indexed[folder]

    def _look_in_archive(self, archive: Archive) -> None:
        """Unpack the published archive; download it by digest if it was not found."""
        if not archive.sha256:
            return
        self._look_in_store(archive.sha256, archive.uri)
        packed = self._found.get(archive.sha256)  # the user's folders were searched before
        try:
            if packed is None:
                packed = self._fetched(archive)
            folder = self.scratch / archive.sha256
            unpack(packed, folder)
        except (SourceUnavailableError, DigestMismatchError, ArchiveError) as error:
            self._note(f"{archive.uri}: {error.message}")
            return
        self._found.update(self._index(folder))

    def _fetched(self, archive: Archive) -> Path:
        if not self.fetch or not archive.uri:
            raise SourceUnavailableError("it was not found, and downloads are off.")
        if not archive.addresses:
            raise SourceUnavailableError("this is not an http(s) address, so it is not used.")
        from kiln.sources.download import Download, fetch  # slow to import, rarely needed
        from kiln.sources.http import public_session

        name = archive.uri.rsplit("/", 1)[-1] or archive.uri
        download = Download(archive.addresses, None, archive.sha256, name, most=MAX_BYTES)

        def progress(name: str, done: int, total: int | None) -> None:
            self.on_event("download", name=name, done=done, total=total)

        with self.session or public_session() as session:
            found = fetch([download], self.store, on_progress=progress, session=session)
        return self.store.path(found[name])

    def _note(self, text: str) -> None:
        self.on_event("note", message=text)


def _some(names: Iterable[str]) -> str:
    first, *more = names
    return f"{first} and {len(more)} more" if more else first
