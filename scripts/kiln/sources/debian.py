"""Fetch locked Debian packages from the mirrors that the host is configured with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import quote, urlsplit

from debian.deb822 import Deb822

from kiln.core.errors import RecipeError, SourceUnavailableError
from kiln.core.store import Store
from kiln.sources.download import Download, OnProgress, fetch

ARCHIVES = ("debian", "debian-security")

APT = Path("/etc/apt")

_REMEDY = (
    "Set KILN_DEBIAN_MIRROR to a mirror that has it (http://…/debian), or KILN_DEBIAN_SNAPSHOT to "
    "a snapshot archive of the lock's date (http://…/debian/<date>); then run again."
)
_SOURCE_LINE = re.compile(r"deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+\S+")


@dataclass(frozen=True)
class DebPin:
    """One line of a package lock; ``size`` in bytes, ``path`` below the archive's base."""

    name: str
    version: str
    arch: str
    sha256: str
    size: int
    archive: str
    path: str

    @property
    def filename(self) -> str:
        """The package file's name."""
        return PurePosixPath(self.path).name


def read_lock(path: Path) -> list[DebPin]:
    """Read a lock: ``name version arch sha256 size archive path`` on each line, ``#`` comments.

    Raises:
        RecipeError: the file cannot be read, or a line is not of that form.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8"
        raise RecipeError(f"Cannot read the lock {path}: {why}.", "Check the path.") from error
    pins: dict[tuple[str, str], DebPin] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        fields = raw.partition("#")[0].split()
        if not fields:
            continue
        pin, why = _parse(fields)
        if pin is None or (pin.name, pin.arch) in pins:
            raise RecipeError(
                f"{path}, line {number}: {why or fields[0] + ' is pinned twice'}.",
                "A line is: name version arch sha256 size archive path.",
            )
        pins[pin.name, pin.arch] = pin
    return list(pins.values())


def _parse(fields: list[str]) -> tuple[DebPin | None, str]:
    if len(fields) != 7:
        return None, f"{len(fields)} fields instead of 7"
    name, version, arch, sha256, size, archive, path = fields
    parts = path.split("/")
    checks = (
        (re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name), f"{name!r} is not a package name"),
        (arch in {"amd64", "all"}, f"{arch!r} is neither amd64 nor all"),
        (re.fullmatch(r"[0-9a-f]{64}", sha256), f"{sha256!r} is not a SHA-256"),
        (re.fullmatch(r"[1-9][0-9]*", size), f"{size!r} is not a size in bytes"),
        (archive in ARCHIVES, f"{archive!r} is not one of {', '.join(ARCHIVES)}"),
        (
            parts[0] == "pool" and path.endswith(".deb") and not {"", ".", ".."} & set(parts),
            f"{path!r} is not the path of a package in the pool",
        ),
    )
    for holds, why in checks:
        if not holds:
            return None, why
    return DebPin(name, version, arch, sha256, int(size), archive, path), ""


def mirrors(*, apt: Path = APT, environ: Mapping[str, str] | None = None) -> dict[str, list[str]]:
    """List the base addresses of each archive, best first, without a trailing slash.

    First ``KILN_DEBIAN_MIRROR`` (the security archive's is ``KILN_DEBIAN_SECURITY_MIRROR``, or
    the same with ``-security``), then the mirrors of the host's apt, last
    ``KILN_DEBIAN_SNAPSHOT`` (its ``debian`` folder is ``debian-security`` for that archive).

    Args:
        apt: apt's configuration folder; unreadable files in it are skipped.
        environ: used instead of the process's environment.
    """
    env = os.environ if environ is None else environ
    found: dict[str, list[str]] = {archive: [] for archive in ARCHIVES}

    def add(archive: str, base: str) -> None:
        base = base.strip().rstrip("/")
        if base and base not in found[archive]:
            found[archive].append(base)

    named = env.get("KILN_DEBIAN_MIRROR", "").strip().rstrip("/")
    security = env.get("KILN_DEBIAN_SECURITY_MIRROR", "")
    add("debian", named)
    add("debian-security", security or (f"{named}-security" if named else ""))
    for base in _apt_bases(apt):
        if (archive := _archive_of(base)) is not None:
            add(archive, base)
    snapshot = env.get("KILN_DEBIAN_SNAPSHOT", "").strip().rstrip("/")
    add("debian", snapshot)
    add(
        "debian-security",
        re.sub(r"/debian(?=/|$)(?!.*/debian(?:/|$))", "/debian-security", snapshot),
    )
    return found


def _archive_of(base: str) -> str | None:
    path = urlsplit(base).path.rstrip("/")
    if path.endswith("/debian"):
        return "debian"
    if path.endswith(("/debian-security", "/security")):
        return "debian-security"
    return None


def _apt_bases(apt: Path) -> Iterator[str]:
    lists = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))]
    for path in lists:
        for line in _text_of(path).splitlines():
            match = _SOURCE_LINE.match(line.partition("#")[0].strip())
            if match is not None:
                yield from _fetchable([match[1]])
    for path in sorted((apt / "sources.list.d").glob("*.sources")):
        paragraphs = cast(
            "Iterable[Mapping[str, Any]]",
            Deb822.iter_paragraphs(_text_of(path), use_apt_pkg=False),
        )
        for paragraph in paragraphs:
            off = str(paragraph.get("Enabled", "yes")).strip().lower() in {
                "no",
                "false",
                "0",
                "off",
            }
            if not off and "deb" in str(paragraph.get("Types", "")).split():
                yield from _fetchable(str(paragraph.get("URIs", "")).split())


def _fetchable(bases: Iterable[str]) -> Iterator[str]:
    for base in bases:
        if base.startswith(("http://", "https://")):
            yield base
        elif base.startswith("file:"):
            yield "file://" + urlsplit(base).path  # apt writes file:/path


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def fetch_lock(
    lock_path: Path,
    store: Store,
    *,
    jobs: int = 4,
    on_progress: OnProgress | None = None,
    bases: Mapping[str, list[str]] | None = None,
) -> dict[str, str]:
    """Fetch every package of a lock into the store; return file name to digest, sorted.

    Args:
        lock_path: see :func:`read_lock`.
        store: where the packages go.
        jobs: number of parallel downloads.
        on_progress: see :data:`kiln.sources.download.OnProgress`.
        bases: used instead of :func:`mirrors`.

    Raises:
        RecipeError: see :func:`read_lock`.
        SourceUnavailableError: no mirror is known, or none has a package.
        DigestMismatchError: a package's bytes are not the locked ones; they are not kept.
    """
    pins = read_lock(lock_path)
    bases = mirrors() if bases is None else bases
    downloads = []
    for pin in pins:
        urls = tuple(f"{base}/{quote(pin.path, safe='/+~')}" for base in bases.get(pin.archive, []))
        if not urls and not store.has(pin.sha256):
            raise SourceUnavailableError(
                f"No mirror of the {pin.archive} archive is known; {pin.filename} "
                "cannot be fetched.",
                _REMEDY,
            )
        downloads.append(Download(urls, pin.size, pin.sha256, pin.filename))
    try:
        found = fetch(downloads, store, jobs=jobs, on_progress=on_progress)
    except SourceUnavailableError as error:
        raise SourceUnavailableError(error.message, _REMEDY) from error
    return dict(sorted(found.items()))
