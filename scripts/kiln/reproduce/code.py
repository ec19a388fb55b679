"""Get an artefact's stage code and image definitions from its release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kiln.core.digest import sha256_bytes, tree_files, tree_key
from kiln.core.errors import KilnError, VerificationError
from kiln.core.files import disk_guard
from kiln.core.store import Store
from kiln.core.untrusted import MalformedError, read_file
from kiln.images import definition
from kiln.images.lock import LOCK_FILE, Locked, parse_lock, read_lock
from kiln.project.folders import Project
from kiln.reproduce.recorded import Recorded
from kiln.signing.statement_names import SOURCE_FILE
from kiln.statements.source_archive_reader import MAX_BYTES, SourceArchive

_REMEDY = (
    "Do not use these files: get the release again, and check it with `kiln verify` before "
    "anything of it is run."
)

_DOCKER = "docker/"

#: Bounds of a name in a source archive: several times the longest of ours.
_MAX_NAME = 400
_MAX_PART = 200
_MAX_PARTS = 16


@dataclass
class ReleasedCode:
    """Source archives, each unpacked once.

    Args:
        store: archives are looked up there by digest (an imported bundle's).
        checkout: the project in use; a substitute where there is no archive, if it matches the
            records exactly.
        scratch: a private folder to unpack them in.
        given: the archive that the user named, for all artefacts.
    """

    store: Store
    checkout: Project | None
    scratch: Path
    given: Path | None = None
    _archives: dict[str, SourceArchive] = field(default_factory=dict)

    def docker_dir(self, recorded: Recorded) -> tuple[Path, str] | None:
        """Return the folder with image definitions, locks and stage code, and a note about it.

        None if they are not available. The result holds exactly the recorded stage code, and the
        lock of exactly the recorded image. Everything in it is a plain file.

        Raises:
            VerificationError: there is an archive, but not the recorded one, or it holds files that
                our archives never hold.
        """
        archive = self._archives.get(recorded.source)
        folder = self.scratch / f"source-{recorded.source[:16]}"
        if archive is None:
            data = self._archive_of(recorded)
            if data is None:
                return self._from_checkout(recorded)
            archive = SourceArchive.read(data)
            _lay_out(archive, folder)
            self._archives[recorded.source] = archive
        _check(archive, recorded)
        return folder / _DOCKER, ""

    def _archive_of(self, recorded: Recorded) -> bytes | None:
        """Find the archive with the recorded digest.

        Raises:
            VerificationError: another archive is in its place.
        """
        beside = recorded.place.parent
        places = [self.given] if self.given else [beside / SOURCE_FILE, beside.parent / SOURCE_FILE]
        for path in places:
            try:
                data = read_file(path, MAX_BYTES)
            except FileNotFoundError:
                continue
            except MalformedError as error:
                raise VerificationError(f"{path} {error}.", _REMEDY) from None
            except OSError as error:
                raise VerificationError(
                    f"{path} cannot be read: {error.strerror}.", "Check its permissions."
                ) from None
            if (got := sha256_bytes(data)) != recorded.source:
                raise VerificationError(
                    f"{path} is not the source archive that {recorded.file} was made with: "
                    f"SHA-256 expected {recorded.source or 'none'}, got {got}.",
                    _REMEDY,
                )
            return data
        if recorded.source and self.store.has(recorded.source):
            try:
                data = read_file(self.store.path(recorded.source), MAX_BYTES)
            except (MalformedError, OSError):
                return None
            return data if sha256_bytes(data) == recorded.source else None
        return None

    def _from_checkout(self, recorded: Recorded) -> tuple[Path, str] | None:
        if self.checkout is None:
            return None
        docker = self.checkout.docker
        try:
            locked = read_lock(docker)
            here = {name: locked[name].identity for name in recorded.images if name in locked}
            same = _same(tree_files(docker / "stages"), recorded) and here == recorded.images
        except KilnError:
            return None
        if not same:
            return None
        return docker, (
            f"{recorded.model}: there is no {SOURCE_FILE}. {self.checkout.described.capitalize()} "
            "is used instead: its stage code and image lock are exactly those recorded."
        )


def _check(archive: SourceArchive, recorded: Recorded) -> None:
    """Check an archive against the statement.

    Raises:
        VerificationError: stage code, a lock or the image's identity differs; or the image
            definitions are invalid.
    """
    wrong = [
        name
        for name, digest in sorted(recorded.locks.items())
        if name not in archive.files or archive.digest(name) != digest
    ]
    if not _same(archive.stage_files(), recorded):
        wrong.append("docker/stages")
    else:
        locked = _locked_in(archive, recorded)
        said = {item.name: item.identity for item in locked if item.sound}
        if said != recorded.images:
            wrong.append(f"{_DOCKER}{LOCK_FILE}")
    if wrong:
        raise VerificationError(
            f"The source archive of {recorded.model} contradicts {recorded.place.name}: "
            f"{', '.join(wrong[:5])} differs from what is recorded.",
            _REMEDY,
        )


def _same(files: Mapping[str, tuple[bool, str]], recorded: Recorded) -> bool:
    """Whether a folder holds exactly the recorded stage code, and each stage's part of it."""
    code = recorded.plan.code
    return tree_key(files) == code.digest and not code.wrong_in(files)


def _locked_in(archive: SourceArchive, recorded: Recorded) -> list[Locked]:
    """Return the archive's lock entries of the images; its image definitions are parsed, too."""
    locked = []
    for name in (definition.DEFINITIONS, LOCK_FILE):
        path = f"{_DOCKER}{name}"
        if path not in archive.files:
            continue
        try:
            if name == LOCK_FILE:
                known = parse_lock(archive.files[path])
                locked = [known[item] for item in recorded.images if item in known]
            else:
                definition.parse(archive.files[path], Path(_DOCKER))
        except MalformedError as error:
            raise VerificationError(
                f"The source archive of {recorded.model} holds a {path} that {error}.", _REMEDY
            ) from None
    return locked


def _lay_out(archive: SourceArchive, folder: Path) -> None:
    """Write the archive's ``docker/`` to a folder.

    Raises:
        VerificationError: it holds a name that our archives never hold.
    """
    for name, content in sorted(archive.files.items()):
        if not name.startswith(_DOCKER):
            continue
        sizes = [len(part.encode()) for part in PurePosixPath(name).parts]
        if len(name.encode()) > _MAX_NAME or len(sizes) > _MAX_PARTS or max(sizes) > _MAX_PART:
            raise VerificationError(
                f"{SOURCE_FILE} holds an impossible name, {name[:80]!r}.", _REMEDY
            )
        place = folder / name
        with disk_guard(place):
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("xb") as file:
                    file.write(content)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise VerificationError(
                    f"{SOURCE_FILE} holds {name!r} as a file and as a folder.", _REMEDY
                ) from None
        place.chmod(0o755 if name in archive.executable else 0o644)
