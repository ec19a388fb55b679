"""Find out whether an engine sees this machine's files: one that runs elsewhere has its own."""

from __future__ import annotations

import contextlib
import io
import secrets
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import docker.errors
from docker.types import Mount

from kiln.core.lease import tagged_name
from kiln.core.untrusted import parse_json_object

#: SELinux would refuse a container the store's files. To label them instead would change what
#: other programs may do with them. Where there is no SELinux, ``label=disable`` has no effect.
SECURITY_OPTIONS = ("no-new-privileges", "label=disable")

#: Docker's words, Podman's, and Docker Desktop's for what its virtual machine does not share; and
#: those for what the engine may not read, as on a network file system that is closed to root.
_UNSEEN = ("does not exist", "no such file", "is not shared", "permission denied")

#: A file that is read back has at most so many bytes.
_SMALL = 64 << 10


def bind(source: Path, place: str, mode: str) -> Mount:
    """Describe a mount of a folder; unlike with ``volumes=``, Docker refuses a missing source."""
    return Mount(place, str(source), type="bind", read_only=mode == "ro", propagation="rprivate")


def is_unmountable(error: docker.errors.APIError, sources: Iterable[Path]) -> bool:
    """Whether an engine refused a mount because of its source, which this machine has."""
    text = str(error.explanation or error)
    unseen = any(words in text for words in _UNSEEN)
    # Podman writes a mount as text with commas.
    cut = "invalid mount option" in text
    return any(
        path.exists() and ((unseen and str(path) in text) or (cut and "," in str(path)))
        for path in sources
    )


def reads_back(container: Any, mounts: Mapping[Path, tuple[str, str]]) -> bool | None:
    """Compare a small file of a mount with what a created container has in its place.

    Names of scratch folders are random, so no other machine has such a file by chance.

    Returns:
        None if no mount has a small file.
    """
    for source, (place, _) in mounts.items():
        found = {source: place}
        if source.is_dir():
            found = {path: f"{place}/{path.name}" for path in sorted(source.iterdir())}
        for path, inside in found.items():
            if path.is_file() and not path.is_symlink() and 0 < path.stat().st_size <= _SMALL:
                return _content(container, inside) == path.read_bytes()
    return None


def sees(client: docker.DockerClient, folder: Path, label: str) -> bool:
    """Say whether an engine sees ``folder``: a new file there is read back through a mount.

    No container runs. The image that it takes is an empty one, and is removed.

    Args:
        folder: of this machine; it must be one that only the caller writes to.
        label: put on the container and the image, with our tag as its value.
    """
    probe = folder / "probe"
    probe.write_text(secrets.token_hex(16))
    probe.chmod(0o644)
    folder.chmod(0o755)
    tag = tagged_name()
    said = client.api.import_image_from_data(_EMPTY_TAR, changes=[f"LABEL {label}={tag}"])
    image = parse_json_object(said.strip().splitlines()[-1]).get("status")
    if not image:
        raise docker.errors.DockerException(said)
    try:
        try:
            container = client.containers.create(
                image, ["none"], labels={label: tag}, network_mode="none", read_only=True,
                mounts=[bind(folder, "/in", "ro")], security_opt=list(SECURITY_OPTIONS),
            )  # fmt: skip
        except docker.errors.APIError as error:
            if is_unmountable(error, [folder]):
                return False
            raise
        try:
            return _content(container, f"/in/{probe.name}") == probe.read_bytes()
        finally:
            container.remove(force=True, v=True)
    finally:
        with contextlib.suppress(docker.errors.APIError):
            client.images.remove(image, force=True)


def _content(container: Any, path: str) -> bytes | None:
    try:
        stream, _ = container.get_archive(path)
        data = bytearray()
        for chunk in stream:
            data += chunk
            if len(data) > _SMALL + (64 << 10):  # with the headers and padding of a tar
                return None
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            found = archive.extractfile(archive.next() or "")
            return found.read() if found is not None else None
    except docker.errors.NotFound:
        return None
    except (tarfile.TarError, KeyError):
        return None


def _empty_tar() -> bytes:
    with io.BytesIO() as stream:
        tarfile.open(fileobj=stream, mode="w").close()
        return stream.getvalue()


_EMPTY_TAR = _empty_tar()
