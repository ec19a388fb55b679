"""The stage code and image definitions that an artefact was made with: out of its release."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kiln.archive import unpack
from kiln.attest.names import SOURCE_FILE
from kiln.digest import sha256_file, tree_digest
from kiln.errors import KilnError, VerificationError
from kiln.images.lock import read_lock
from kiln.project import Project
from kiln.reproduce.recorded import Recorded
from kiln.store import Store

_REMEDY = (
    "Do not use these files: get the release again, and check it with `kiln verify` before "
    "anything of it is run."
)


@dataclass
class ReleasedCode:
    """Source archives, unpacked once each.

    Args:
        store: where archives are looked for by their digest (an imported bundle's).
        checkout: may stand in where there is no archive, if it is exactly what is recorded.
        scratch: a private folder to unpack into.
        given: the archive that the user named, for all.
    """

    store: Store
    checkout: Project | None
    scratch: Path
    given: Path | None = None
    _unpacked: dict[str, Path] = field(default_factory=dict)

    def docker_dir(self, recorded: Recorded) -> tuple[Path, str] | None:
        """The folder with image definitions, locks and stage code, and what to say about it.

        None where it is not to be had. What comes back holds exactly the recorded stage code,
        and the lock of exactly the recorded image.

        Raises:
            VerificationError: there is an archive, and it is not the recorded one.
            ArchiveError: the recorded one cannot be unpacked.
        """
        if recorded.source not in self._unpacked:
            path = self._archive_of(recorded)
            if path is None:
                return self._from_checkout(recorded)
            folder = self.scratch / f"source-{recorded.source[:16]}"
            unpack(path, folder)
            self._unpacked[recorded.source] = folder
        self._check(recorded)
        return self._unpacked[recorded.source] / "docker", ""

    def _archive_of(self, recorded: Recorded) -> Path | None:
        """The archive with the recorded digest.

        Raises:
            VerificationError: where it should be, there is another one.
        """
        beside = recorded.place.parent
        places = [self.given] if self.given else [beside / SOURCE_FILE, beside.parent / SOURCE_FILE]
        for path in places:
            if path.is_file():
                got = sha256_file(path)
                if got != recorded.source:
                    raise VerificationError(
                        f"{path} is not the source archive that {recorded.file} was made with: "
                        f"SHA-256 expected {recorded.source or 'none'}, got {got}.",
                        _REMEDY,
                    )
                return path
        if recorded.source and self.store.has(recorded.source):
            path = self.store.path(recorded.source)
            return path if sha256_file(path) == recorded.source else None
        return None

    def _check(self, recorded: Recorded) -> None:
        """Hold what was unpacked against the statement.

        Raises:
            VerificationError: stage code, a lock or the image's identity is another one.
        """
        root = self._unpacked[recorded.source]
        stages = root / "docker" / "stages"
        wrong = [
            name
            for name, digest in sorted(recorded.locks.items())
            if not (root / name).is_file() or sha256_file(root / name) != digest
        ]
        if not stages.is_dir() or tree_digest(stages) != recorded.plan.code:
            wrong.append("docker/stages")
        elif _identity(root / "docker", recorded.image) != recorded.plan.identity:
            wrong.append("docker/images.lock")
        if wrong:
            raise VerificationError(
                f"The source archive of {recorded.model} contradicts {recorded.place.name}: "
                f"{', '.join(wrong)} differs from what is recorded.",
                _REMEDY,
            )

    def _from_checkout(self, recorded: Recorded) -> tuple[Path, str] | None:
        if self.checkout is None:
            return None
        docker = self.checkout.docker
        try:
            same = (
                tree_digest(docker / "stages") == recorded.plan.code
                and _identity(docker, recorded.image) == recorded.plan.identity
            )
        except KilnError:
            return None
        if not same:
            return None
        return docker, (
            f"{recorded.model}: there is no {SOURCE_FILE}. This checkout stands in for it: its "
            "stage code and image lock are exactly those recorded."
        )


def _identity(docker: Path, image: str) -> str:
    entry = read_lock(docker).get(image)
    return "" if entry is None else entry.identity
