"""Give a container of an engine elsewhere its files: copied in before it runs, and out after it.

Such an engine has no folder of this machine to mount. Its containers get volumes of the engine in
the same places.
"""

from __future__ import annotations

import contextlib
import http
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

import docker.errors
import requests
from docker.types import Mount

from kiln.core.archive import unpack
from kiln.core.errors import ArchiveError
from kiln.core.files import remove
from kiln.running.limits import Limits
from kiln.running.stage_output import refused
from kiln.running.visibility import SECURITY_OPTIONS

#: Entries of the file system itself beside those that a container may write.
_OWN_INODES = 100

#: Bytes of a tmpfs's block: a page of x86-64.
_BLOCK = 4 << 10

#: The keeper only sleeps.
_KEEPER_MEMORY, _KEEPER_PIDS = 64 << 20, 16

#: Headers and padding of an archive, beside its files' contents: per entry, and at its end.
_ARCHIVE_ENTRY, _ARCHIVE_END = 4 << 10, 1 << 20

#: Seconds that containers which are being removed may keep their volumes.
_REMOVAL_PATIENCE = 3.0

_GONE = (docker.errors.DockerException, requests.exceptions.RequestException)


class Copies:
    """Volumes in the places of one container's mounts.

    Inputs lie in plain volumes, which the container may only read. What it writes lies in a tmpfs:
    there the kernel bounds bytes and files while they grow, which cannot be watched from here. A
    tmpfs lasts as long as a container mounts it, so a second one, the keeper, sleeps beside it. The
    engine copies through the keeper.

    Args:
        mounts: folders or files of this machine -> (place, ``ro``/``rw``).
        limits: of what the container may write.
        user: ``uid:gid`` of the container's process.
        name: a fresh name, for volumes and keeper to start with.
        labels: of volumes and keeper.
    """

    def __init__(
        self,
        client: docker.DockerClient,
        mounts: Mapping[Path, tuple[str, str]],
        limits: Limits,
        user: str,
        *,
        name: str,
        labels: Mapping[str, str],
    ) -> None:
        self._client, self._limits, self._user = client, limits, user
        self._name, self._labels = name, dict(labels)
        self._mounts = dict(mounts)
        self._volumes: list[Any] = []
        self.keeper: Any = None

    def fill(self, image: str, created: Callable[[Any], None]) -> None:
        """Make the volumes, and copy the files of this machine into them.

        Args:
            image: with a program ``sleep``; the container's own.
            created: is given the keeper before it starts.
        """
        for number, (_, mode) in enumerate(self._mounts.values()):
            self._volumes.append(
                self._client.volumes.create(
                    f"{self._name}-{number}",
                    driver="local",
                    driver_opts=self._tmpfs() if mode == "rw" else None,
                    labels=self._labels,
                )
            )
        self.keeper = self._client.containers.create(
            image,
            ["infinity"],
            entrypoint=["sleep"],
            name=f"{self._name}-keeper",
            labels=self._labels,
            network_mode="none",
            read_only=True,
            user=self._user,
            cap_drop=["ALL"],
            security_opt=list(SECURITY_OPTIONS),
            mem_limit=_KEEPER_MEMORY,
            pids_limit=_KEEPER_PIDS,
            stop_signal="SIGKILL",
            mounts=self.mounts(keeper=True),
        )
        created(self.keeper)
        self.keeper.start()
        for source, (place, _) in self._mounts.items():
            with _packed(source, self._user) as tar:
                self.keeper.put_archive(_folder(source, place), tar)

    def _tmpfs(self) -> dict[str, str]:
        most = self._limits.output_files + _OWN_INODES
        # In blocks: Podman takes a size for a disk quota, which few file systems have.
        blocks = self._limits.output // _BLOCK
        uid, _, gid = self._user.partition(":")
        # The mode is for engines that give users other ids outside; Podman only heeds the ids.
        options = f"nr_blocks={blocks},nr_inodes={most},uid={uid},gid={gid},mode=1777,nosuid,nodev"
        return {"type": "tmpfs", "device": "tmpfs", "o": options}

    def mounts(self, *, keeper: bool = False) -> list[Mount]:
        """Return the mounts of the container, or of its keeper, which may write everywhere."""
        return [
            Mount(
                _folder(source, place),
                volume.name,
                type="volume",
                read_only=mode == "ro" and not keeper,
                no_copy=True,
            )
            for volume, (source, (place, mode)) in zip(
                self._volumes, self._mounts.items(), strict=True
            )
        ]

    def take(self) -> None:
        """Copy what the ended container wrote into the folders that it would have written to.

        Raises:
            StageOutputError: it wrote something that cannot be a stage's output.
        """
        for folder, (place, mode) in self._mounts.items():
            if mode == "rw":
                self._take(folder, place)

    def _take(self, folder: Path, place: str) -> None:
        most = self._limits.output + self._limits.output_files * _ARCHIVE_ENTRY + _ARCHIVE_END
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            archive, unpacked = Path(scratch, "written.tar"), Path(scratch, "written")
            stream, _ = self.keeper.get_archive(place)
            with archive.open("wb") as file:
                for chunk in stream:
                    most -= file.write(chunk)
                    if most < 0:
                        raise refused(place, "its archive is larger than its files may be")
            try:
                unpack(
                    archive,
                    unpacked,
                    max_bytes=self._limits.output,
                    max_entries=self._limits.output_files + 1,  # the folder itself is one
                    refuse_litter=True,
                )
            except ArchiveError as error:
                raise refused(place, error.message.rstrip(".")) from None
            archive.unlink()
            # The files belong to whom the folder was given to.
            owner = folder.stat()
            if os.getuid() == 0:
                for path in unpacked.rglob("*"):
                    os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
            for path in folder.iterdir():
                remove(path)
            for path in (unpacked / PurePosixPath(place).name).iterdir():
                path.rename(folder / path.name)

    def remove(self) -> None:
        """Remove keeper and volumes; silent if they, or the engine, are already gone."""
        if self.keeper is not None:
            with contextlib.suppress(*_GONE):
                self.keeper.remove(force=True, v=True)
        until = time.monotonic() + _REMOVAL_PATIENCE
        for volume in self._volumes:
            while not _removed(volume) and time.monotonic() < until:
                time.sleep(0.05)


def _removed(volume: Any) -> bool:
    """Remove a volume; False if a container, which is being removed, still has it."""
    try:
        volume.remove(force=True)
    except docker.errors.APIError as error:
        return error.status_code != http.HTTPStatus.CONFLICT
    except _GONE:
        pass
    return True


def _folder(source: Path, place: str) -> str:
    """Return the folder of the container that a volume is mounted at."""
    return place if source.is_dir() else str(PurePosixPath(place).parent)


@contextlib.contextmanager
def _packed(source: Path, user: str) -> Iterator[IO[bytes]]:
    """Write a folder's content, or a file, to a tar; everything in it belongs to ``user``."""
    uid, gid = map(int, user.split(":"))

    def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid, entry.gid, entry.uname, entry.gname = uid, gid, "", ""
        return entry

    with tempfile.TemporaryFile(dir=source.parent) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for path in sorted(source.iterdir()) if source.is_dir() else [source]:
                tar.add(path, path.name, filter=owned)
        file.seek(0)
        yield file
