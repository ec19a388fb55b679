"""Seal images: turn whatever an engine built into one canonical layer.

Engines disagree about layers, time stamps, entry order and the files they inject, so an image's
own id is not reproducible. A sealed image has exactly one layer: the file system sorted by path,
with times clamped, owner names dropped, engine-made files emptied, and a fixed configuration. Its
identity is the SHA-256 of that configuration, which names the layer's digest (OCI image
specification, ``diff_ids``), so it can be checked on every engine and every storage backend.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from kiln.core.errors import ImageBuildError
from kiln.core.untrusted import parse_json

#: Folders whose contents belong to the running engine, not to the image, and their modes.
EMPTIED = {
    **dict.fromkeys(("dev", "proc", "sys", "run", "in", "out", "kiln/stages"), 0o755),
    "tmp": 0o1777,
}
#: Files that engines create or write in every container.
ENGINE_FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
#: What engines or programs leave in a container.
DROPPED = (".dockerenv", "etc/mtab", "run/.containerenv", "root/.bash_history")

_CHUNK = 1 << 20

#: Most bytes of a contents list as text: some twenty times the largest of ours.
MAX_CONTENTS = 64 << 20

#: Most bytes of an image's layer: some forty times the largest of ours.
MAX_SIZE = 64 << 30


@dataclass(frozen=True)
class FileFact:
    """One entry of an image: everything that counts in a comparison.

    ``kind`` is ``f`` file, ``d`` folder, ``l`` symbolic link, ``h`` hard link; ``mode`` are the
    permission bits; ``content`` is the first 16 hex digits of a file's SHA-256, or the target of
    a link; ``size`` is in bytes (0 unless a file).
    """

    path: str
    kind: str
    mode: int
    owner: str
    size: int
    content: str

    def line(self) -> str:
        """The entry as a line of an image's contents list (tab-separated, ASCII, escaped)."""
        path, content = (
            text.encode("unicode_escape").decode("ascii") for text in (self.path, self.content)
        )
        return "\t".join((path, self.kind, f"{self.mode:o}", self.owner, str(self.size), content))

    @classmethod
    def parse(cls, line: str) -> FileFact:
        """The inverse of :meth:`line`."""
        path, kind, mode, owner, size, content = line.split("\t")
        path, content = (text.encode("ascii").decode("unicode_escape") for text in (path, content))
        return cls(path, kind, int(mode, 8), owner, int(size), content)


@dataclass(frozen=True)
class Sealed:
    """A sealed image. ``size`` is that of the uncompressed layer in bytes."""

    identity: str  # "sha256:<hex of the config JSON>"
    layer: str  # "sha256:<hex>", the layer's diff_id
    config: bytes
    size: int
    contents: tuple[FileFact, ...] = field(repr=False)

    @property
    def short(self) -> str:
        """The first digits of the identity, which are the image's tag."""
        return self.identity.removeprefix("sha256:")[:16]


def sealed_as(
    settings: dict[str, Any], layer: str, size: int, contents: Iterable[FileFact], *, epoch: int
) -> Sealed:
    """Return the sealed image of a layer.

    Args:
        settings: its ``Config`` as engines call it (only ``Env``, ``Cmd``, ``WorkingDir`` count).
        layer: ``sha256:<hex>`` of the layer.
        size: of the layer in bytes.
    """
    config = _config(settings, layer, epoch)
    identity = f"sha256:{hashlib.sha256(config).hexdigest()}"
    return Sealed(identity, layer, config, size, tuple(contents))


@dataclass(frozen=True)
class _Item:
    info: tarfile.TarInfo
    offset: int


class Sealer:
    """Seals one exported file system.

    Args:
        exported: an uncompressed tar as ``docker export`` writes it, seekable.
        settings: the built image's ``Config`` (only ``Env``, ``Cmd``, ``WorkingDir`` count).
        epoch: seconds since 1970-01-01 UTC for every entry and for ``created``.
        repository: the engine will know the image as ``<repository>:<16 digits of identity>``.

    Use: iterate :meth:`archive` to the end (a ``docker load`` stream), then read :attr:`sealed`.
    """

    def __init__(
        self, exported: IO[bytes], settings: dict[str, Any], *, epoch: int, repository: str
    ) -> None:
        self._exported = exported
        self._epoch = epoch
        self._repository = repository
        self._settings = settings
        self._items = _canonical(exported)
        self._contents: list[FileFact] = []
        self.sealed: Sealed | None = None

    def archive(self) -> Iterator[bytes]:
        """Yield the ``docker load`` archive in chunks; :attr:`sealed` is set at its end.

        The layer comes first and the configuration, which needs the layer's digest, last: the
        loader unpacks everything before it reads.
        """
        size = sum(_tar_size(item.info) for item in self._items.values()) + 2 * tarfile.BLOCKSIZE
        padded = -(-size // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
        yield archive_head(padded)
        digest = hashlib.sha256()
        written = 0
        for chunk in self._layer():
            digest.update(chunk)
            written += len(chunk)
            yield chunk
        tail = bytes(padded - written)
        digest.update(tail)
        yield tail + bytes(-padded % tarfile.BLOCKSIZE)
        layer = f"sha256:{digest.hexdigest()}"
        sealed = sealed_as(self._settings, layer, padded, self._contents, epoch=self._epoch)
        # The name is its identity from the start: it never means another image.
        yield archive_tail(sealed.config, f"{self._repository}:{sealed.short}")
        self.sealed = sealed

    def _layer(self) -> Iterator[bytes]:
        for path, item in self._items.items():
            info = item.info
            info.mtime = self._epoch
            yield _tobuf(info)
            digest = hashlib.sha256()
            if info.isreg():
                self._exported.seek(item.offset)
                left = info.size
                while left:
                    chunk = self._exported.read(min(left, _CHUNK))
                    if not chunk:
                        raise ImageBuildError(
                            "The engine's export of the image ended in the middle of a file.",
                            "Run the command again; if it repeats, restart the engine.",
                        )
                    digest.update(chunk)
                    left -= len(chunk)
                    yield chunk
                yield bytes(-info.size % tarfile.BLOCKSIZE)
            self._contents.append(_fact(path, info, digest.hexdigest()))


def _canonical(exported: IO[bytes]) -> dict[str, _Item]:
    """Return the entries that belong to the image, cleaned and sorted by path."""
    items: dict[str, _Item] = {}
    try:
        with tarfile.open(fileobj=exported, mode="r:") as tar:
            for info in tar:
                path = info.name.removeprefix("./").strip("/")
                if not path or path == "." or _foreign(path):
                    continue
                if not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
                    continue  # devices, sockets, pipes: the engine makes its own
                items[path] = _Item(_plain(path, info), info.offset_data)
            # tarfile treats a file that stops between two entries, or a damaged header, as the
            # end. A complete archive ends with a block of zeros.
            exported.seek(tar.offset)
            if exported.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it is truncated")
    except tarfile.TarError as error:
        raise ImageBuildError(
            f"The engine's export of the image cannot be read ({error}).",
            "Run the command again; if it repeats, restart the engine.",
        ) from error
    _sort_out_hard_links(items)
    for path, mode in EMPTIED.items():
        items[path] = _Item(_made(path, tarfile.DIRTYPE, mode), 0)
    for path in ENGINE_FILES:
        items[path] = _Item(_made(path, tarfile.REGTYPE, 0o644), 0)
    for path in list(items):
        for parent in Path(path).parents:
            if str(parent) != "." and str(parent) not in items:
                items[str(parent)] = _Item(_made(str(parent), tarfile.DIRTYPE, 0o755), 0)
    # A hard link can only be unpacked after the file it names: those come last.
    return dict(sorted(items.items(), key=lambda pair: (pair[1].info.islnk(), pair[0])))


def _foreign(path: str) -> bool:
    return path in DROPPED or any(path.startswith(f"{folder}/") for folder in EMPTIED)


def _sort_out_hard_links(items: dict[str, _Item]) -> None:
    """Make the first name in path order the file and every other name a link to it.

    Which of several names an engine writes as the file depends on its directory order.
    """
    groups: dict[str, list[str]] = {}
    for path, item in items.items():
        if item.info.islnk():
            groups.setdefault(item.info.linkname.removeprefix("./").strip("/"), []).append(path)
    for target, links in groups.items():
        if target not in items:
            raise ImageBuildError(
                f"The engine's export of the image links {links[0]} to a missing {target}.",
                "Run the command again; if it repeats, restart the engine.",
            )
        original = items[target]
        first, *rest = sorted([target, *links])
        items[first] = _Item(_plain(first, original.info), original.offset)
        for path in rest:
            link = _made(path, tarfile.LNKTYPE, original.info.mode)
            link.uid, link.gid, link.linkname = original.info.uid, original.info.gid, first
            items[path] = _Item(link, 0)


def _plain(path: str, info: tarfile.TarInfo) -> tarfile.TarInfo:
    plain = tarfile.TarInfo(path)
    plain.type = tarfile.REGTYPE if info.isreg() else info.type
    plain.mode = 0o777 if info.issym() else stat.S_IMODE(info.mode)
    plain.uid, plain.gid, plain.linkname = info.uid, info.gid, info.linkname
    plain.size = info.size if info.isreg() else 0
    return plain


def _made(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode = kind, mode
    return info


def _fact(path: str, info: tarfile.TarInfo, digest: str) -> FileFact:
    kind = "d" if info.isdir() else "l" if info.issym() else "h" if info.islnk() else "f"
    content = digest[:16] if kind == "f" else info.linkname
    return FileFact(path, kind, info.mode, f"{info.uid}:{info.gid}", info.size, content)


def _config(settings: dict[str, Any], layer: str, epoch: int) -> bytes:
    created = datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {
        "architecture": "amd64",
        "config": {
            "Cmd": settings.get("Cmd"),
            # Podman moves a variable that is set again to the end, Docker leaves it in place.
            "Env": sorted(settings.get("Env") or []),
            "WorkingDir": settings.get("WorkingDir") or "/",
        },
        "created": created,
        "history": [{"created": created, "created_by": "tflite-kiln seal"}],
        "os": "linux",
        "rootfs": {"diff_ids": [layer], "type": "layers"},
    }
    return json.dumps(config, sort_keys=True, separators=(",", ":")).encode()


def _tobuf(info: tarfile.TarInfo) -> bytes:
    # PAX: a long path or a large file becomes a header of its own, which GNU and BSD tar and
    # every engine read; short entries stay plain ustar.
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _tar_size(info: tarfile.TarInfo) -> int:
    content = -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE if info.isreg() else 0
    return len(_tobuf(info)) + content


def archive_head(layer_size: int) -> bytes:
    """Return the bytes before the layer in an archive of a sealed image."""
    return tar_header("layer.tar", layer_size)


def archive_tail(config: bytes, tag: str) -> bytes:
    """Return the bytes after the layer: the configuration, and the image's name."""
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]
    members = _member(name, config) + _member("manifest.json", json.dumps(manifest).encode())
    return members + bytes(2 * tarfile.BLOCKSIZE)


def tar_header(name: str, size: int) -> bytes:
    """Return the header of a plain file: mode 0644, no owner, time 1970-01-01."""
    info = tarfile.TarInfo(name)
    info.size = size
    return _tobuf(info)


def _member(name: str, data: bytes) -> bytes:
    return tar_header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def compare_configs(expected: bytes, actual: bytes) -> list[str]:
    """List the differences of two configurations: environment, command, working folder.

    >>> old = b'{"config": {"Env": ["A=1"], "Cmd": ["sh"]}}'
    >>> compare_configs(old, b'{"config": {"Env": ["A=2"], "Cmd": ["sh"]}}')
    ["configuration, Env: ['A=1'] -> ['A=2']"]
    """
    old, new = parse_json(expected)["config"], parse_json(actual)["config"]
    return [
        f"configuration, {name}: {old.get(name)} -> {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def compare(expected: Iterable[FileFact], actual: Iterable[FileFact]) -> list[str]:
    """List the differences of two contents lists, one sentence per path, sorted by path.

    >>> a = FileFact("bin/x", "f", 0o755, "0:0", 10, "aa")
    >>> compare([a], [FileFact("bin/x", "f", 0o644, "0:0", 10, "bb")])
    ['/bin/x: mode 755 -> 644, content aa -> bb']
    >>> compare([a], [])
    ['/bin/x: missing']
    """
    old = {fact.path: fact for fact in expected}
    new = {fact.path: fact for fact in actual}
    lines = []
    for path in sorted(old.keys() | new.keys()):
        if path not in new:
            lines.append(f"/{path}: missing")
        elif path not in old:
            lines.append(f"/{path}: added ({new[path].size} bytes)")
        elif old[path] != new[path]:
            lines.append(f"/{path}: {', '.join(_differences(old[path], new[path]))}")
    return lines


def _differences(old: FileFact, new: FileFact) -> Iterator[str]:
    if old.kind != new.kind:
        yield f"kind {old.kind} -> {new.kind}"
    if old.mode != new.mode:
        yield f"mode {old.mode:o} -> {new.mode:o}"
    if old.owner != new.owner:
        yield f"owner {old.owner} -> {new.owner}"
    if old.size != new.size:
        yield f"size {old.size} -> {new.size}"
    if old.content != new.content:
        yield f"content {old.content} -> {new.content}"


def read_contents(packed: bytes) -> list[FileFact]:
    """Read an untrusted contents list of a locked image (:func:`pack_contents`).

    Raises:
        lzma.LZMAError, ValueError: it is damaged, or larger than any of ours.
    """
    import lzma

    decompressor = lzma.LZMADecompressor(memlimit=2 * MAX_CONTENTS)
    text = decompressor.decompress(packed, MAX_CONTENTS).decode()
    if not decompressor.eof:
        raise ValueError("it is truncated, or unpacks to more than the limit")
    return [FileFact.parse(line) for line in text.splitlines()]


def pack_contents(contents: Sequence[FileFact]) -> bytes:
    """Write a contents list as text, one :meth:`FileFact.line` each, xz-compressed."""
    import lzma

    return lzma.compress("".join(f"{fact.line()}\n" for fact in contents).encode(), preset=9)


def spool(chunks: Iterable[bytes], into: IO[bytes]) -> IO[bytes]:
    """Write ``chunks`` into the seekable stream ``into`` and rewind it."""
    for chunk in chunks:
        into.write(chunk)
    into.seek(0, io.SEEK_SET)
    return into
