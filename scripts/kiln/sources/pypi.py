"""Fetch locked Python packages: choose the file for each pin, and bring it into the store."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pypi_simple
import requests
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import (
    BuildTag,
    InvalidWheelFilename,
    canonicalize_name,
    parse_wheel_filename,
)

from kiln.core.digest import key_of
from kiln.core.errors import RecipeError, SourceUnavailableError
from kiln.core.store import Store
from kiln.sources.download import Download, OnProgress, fetch
from kiln.sources.http import REMEDY, TIMEOUT, Patience, host_of, make_session, reason

# The names glibc 2.17, 2.12 and 2.5 had before PEP 600.
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


def platforms_of(glibc: str) -> tuple[str, ...]:
    """List the platform tags of a glibc (``"2.31"``) on x86-64, best first."""
    newest = int(glibc.removeprefix("2."))
    return (
        *(
            f"{name}_x86_64"
            for minor in range(newest, 4, -1)
            for name in (f"manylinux_2_{minor}", _LEGACY.get(minor))
            if name
        ),
        "linux_x86_64",
    )


PLATFORMS = platforms_of("2.31")
"""Platform tags of Debian 11 on x86-64, best first."""

PYTHON = "3.9"
"""The Python of Debian 11."""

_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_ASKING = 8  # parallel requests for index pages


class Machine(TypedDict):
    """What the choice of a file depends on: ``"3.9"``, and platform tags, best first."""

    python: str
    platforms: Sequence[str]


@dataclass(frozen=True)
class Pin:
    """One package of a lock; ``hashes`` are the SHA-256 of all files that satisfy it."""

    name: str
    version: str
    hashes: frozenset[str]


def read_lock(path: Path) -> list[Pin]:
    """Read a lock in pip's format.

    A line is ``name==version`` with ``--hash=sha256:…``, continued after ``\\``; ``#`` begins a
    comment.

    Raises:
        RecipeError: the file cannot be read, or a line is not a pin with hashes. A lock for one
            platform has no options, index addresses, environment markers or version ranges.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8"
        raise RecipeError(f"Cannot read the lock {path}: {why}.", "Check the path.") from error
    pins: dict[str, Pin] = {}
    for number, line in _logical_lines(text):
        pin = _parse_pin(path, number, line)
        key = canonicalize_name(pin.name)
        if key in pins:
            raise _bad_line(path, number, f"{pin.name} is pinned twice")
        pins[key] = pin
    return list(pins.values())


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines with continuations joined and comments removed, and their first line number."""
    parts: list[str] = []
    begin = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        if not parts:
            begin = number
        going_on = line.endswith("\\")
        parts.append(line.removesuffix("\\").strip())
        if not going_on:
            if joined := " ".join(filter(None, parts)):
                yield begin, joined
            parts = []
    if joined := " ".join(filter(None, parts)):
        yield begin, joined


def _bad_line(path: Path, number: int, why: str) -> RecipeError:
    return RecipeError(
        f"{path}, line {number}: {why}.",
        "Generate the lock again, for one platform, with hashes and without index addresses.",
    )


def _parse_pin(path: Path, number: int, line: str) -> Pin:
    requirement, *options = re.split(r"\s+(?=--)", line)
    if requirement.startswith("-"):
        raise _bad_line(path, number, f"the option {requirement.split()[0]!r} is not understood")
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        raise _bad_line(path, number, f"{requirement[:80]!r} is not understood") from None
    specifiers = list(parsed.specifier)
    if parsed.url or parsed.marker or len(specifiers) != 1:
        raise _bad_line(path, number, f"{requirement[:80]!r} is not of the form name==version")
    version = specifiers[0].version
    if specifiers[0].operator != "==" or version.endswith("*"):
        raise _bad_line(path, number, f"{requirement[:80]!r} is not of the form name==version")
    hashes = set()
    for option in options:
        match = _HASH.fullmatch(option.strip())
        if match is None:
            raise _bad_line(path, number, f"{option[:80]!r} is not a SHA-256 hash")
        hashes.add(match[1])
    if not hashes:
        raise _bad_line(path, number, f"{parsed.name} has no hash")
    return Pin(parsed.name, version, frozenset(hashes))


# -- which file ---------------------------------------------------------------------------------


def supported_tags(python: str, platforms: Sequence[str]) -> dict[Tag, int]:
    """Rank the wheel tags of CPython ``python`` (``"3.9"``) on ``platforms``; 0 is best."""
    major, minor = (int(part) for part in python.split("."))
    interpreter = f"cp{major}{minor}"
    tags = [
        *cpython_tags((major, minor), abis=[interpreter], platforms=platforms),
        *compatible_tags((major, minor), interpreter, platforms),
    ]
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}


def _rank(filename: str, tags: dict[Tag, int]) -> tuple[int, int, BuildTag, str] | None:
    """Rank how well a file fits, higher is better; None if it does not. A wheel beats an sdist."""
    if filename.endswith(".whl"):
        try:
            _, _, build, carried = parse_wheel_filename(filename)
        except InvalidWheelFilename:
            return None
        ranks = [tags[tag] for tag in carried if tag in tags]
        return (2, -min(ranks), build, filename) if ranks else None
    if filename.endswith(".tar.gz"):
        return (1, 0, (), filename)
    if filename.endswith(".zip"):
        return (0, 0, (), filename)
    return None


def index_url() -> str:
    """The simple index to ask: ``KILN_PYPI_INDEX``, ``PIP_INDEX_URL``, pip's own configuration,
    or the default of the ``pypi-simple`` library."""
    for name in ("KILN_PYPI_INDEX", "PIP_INDEX_URL"):
        if value := os.environ.get(name, "").strip():
            return value
    return _pip_configured() or pypi_simple.PYPI_SIMPLE_ENDPOINT


def _pip_configured() -> str | None:
    pip = shutil.which("pip") or shutil.which("pip3")
    if pip is None:
        return None
    try:
        asked = subprocess.run(
            [pip, "config", "get", "global.index-url"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None if asked.returncode == 0 else None


def resolve(
    pins: Sequence[Pin],
    *,
    python: str = PYTHON,
    platforms: Sequence[str] = PLATFORMS,
    session: requests.Session | None = None,
) -> list[Download]:
    """Choose each pin's file from the index, in the given order.

    Of the files whose SHA-256 the pin names, the one that fits ``python`` and ``platforms`` best
    is taken; a wheel before an sdist. Yanked files are taken: the pin is more precise.

    Raises:
        SourceUnavailableError: the index does not answer, no longer has a pin's files, or has none
            that fits.
    """
    if not pins:
        return []
    endpoint = index_url()
    tags = supported_tags(python, platforms)
    stop = threading.Event()

    def ask(pin: Pin) -> Download:
        try:
            return _choose(pin, _packages(index, pin, stop), tags, endpoint)
        except BaseException:
            stop.set()
            raise

    with (
        pypi_simple.PyPISimple(endpoint, session=session or make_session(_ASKING)) as index,
        ThreadPoolExecutor(min(_ASKING, len(pins)), "index") as pool,
    ):
        tasks = [pool.submit(ask, pin) for pin in pins]
        try:
            return [task.result() for task in tasks]
        finally:
            stop.set()
            for task in tasks:
                task.cancel()


def _packages(
    index: pypi_simple.PyPISimple, pin: Pin, stop: threading.Event
) -> list[pypi_simple.DistributionPackage]:
    where = host_of(index.endpoint)
    patience = Patience(stop)
    while True:
        try:
            return index.get_project_page(pin.name, timeout=TIMEOUT[1]).packages
        except pypi_simple.NoSuchProjectError as error:
            raise _gone(pin, f"{where} has no project of that name") from error
        except pypi_simple.UnsupportedContentTypeError as error:
            raise _gone(pin, f"{where} is not a simple index") from error
        except (requests.RequestException, pypi_simple.UnsupportedRepoVersionError) as error:
            response = getattr(error, "response", None)
            final = isinstance(error, requests.exceptions.SSLError | requests.exceptions.InvalidURL)
            final = final or not isinstance(error, requests.RequestException)
            if response is not None:
                final = not patience.may_change(response)
            if final or not patience.wait(response):
                raise SourceUnavailableError(
                    f"Cannot ask the package index for {pin.name} {pin.version} "
                    f"({where}: {reason(error)}).",
                    f"KILN_PYPI_INDEX names another index. {REMEDY}",
                ) from error


def _gone(pin: Pin, why: str) -> SourceUnavailableError:
    return SourceUnavailableError(
        f"The package {pin.name} {pin.version} cannot be fetched: {why}.",
        "Set KILN_PYPI_INDEX to an index (or mirror) that has it, or generate the lock again.",
    )


def _choose(
    pin: Pin,
    packages: Sequence[pypi_simple.DistributionPackage],
    tags: dict[Tag, int],
    endpoint: str,
) -> Download:
    pinned = [p for p in packages if p.digests.get("sha256", "").lower() in pin.hashes]
    ranked = [(rank, p) for p in pinned if (rank := _rank(p.filename, tags)) is not None]
    if not ranked:
        where = host_of(endpoint)
        if pinned:
            raise _gone(pin, f"none of the pinned files at {where} fits the image's Python")
        raise _gone(pin, f"{where} has none of the pinned files (any more)")
    best = max(ranked, key=lambda item: item[0])[1]
    return Download((best.url,), best.size, best.digests["sha256"].lower(), best.filename)


# -- remembering it -----------------------------------------------------------------------------

_REF = "pypi"


@dataclass(frozen=True)
class Chosen:
    """The file chosen for a pin; ``size`` in bytes if the index states it."""

    filename: str
    sha256: str
    size: int | None = None


def _choice_key(pin: Pin, python: str, platforms: Sequence[str]) -> str:
    # Everything that the choice depends on.
    return key_of([pin.name, pin.version, sorted(pin.hashes), python, list(platforms)])


def recall(
    store: Store, pin: Pin, *, python: str = PYTHON, platforms: Sequence[str] = PLATFORMS
) -> Chosen | None:
    """Return the file chosen earlier for a pin; None if it is unknown or not in the store."""
    known = store.get_ref(_REF, _choice_key(pin, python, platforms)) or {}
    filename, digest = known.get("filename"), known.get("sha256")
    if isinstance(filename, str) and digest in pin.hashes and store.has(str(digest)):
        return Chosen(filename, str(digest), known.get("size"))
    return None


def remember(
    store: Store,
    pin: Pin,
    chosen: Chosen,
    *,
    python: str = PYTHON,
    platforms: Sequence[str] = PLATFORMS,
) -> None:
    """Record which file was chosen for a pin."""
    file = {"filename": chosen.filename, "sha256": chosen.sha256, "size": chosen.size}
    about = {**file, "name": pin.name, "version": pin.version}
    store.set_ref(_REF, _choice_key(pin, python, platforms), about)


# -- bringing them ------------------------------------------------------------------------------


def fetch_lock(
    lock_path: Path,
    store: Store,
    *,
    jobs: int = 4,
    on_progress: OnProgress | None = None,
    python: str = PYTHON,
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, str]:
    """Fetch every package of a lock into the store; return file name to digest, sorted.

    The file chosen for each pin is recorded, so that once the store has all of them no index is
    asked and a build can be repeated without a network.

    Raises:
        RecipeError: see :func:`read_lock`.
        SourceUnavailableError, DigestMismatchError: see :func:`resolve` and
            :func:`kiln.sources.download.fetch`.
    """
    found: dict[str, str] = {}
    missing: list[Pin] = []
    for pin in read_lock(lock_path):
        known = recall(store, pin, python=python, platforms=platforms)
        if known is not None:
            found[known.filename] = known.sha256
        else:
            missing.append(pin)
    downloads = resolve(missing, python=python, platforms=platforms)
    found.update(fetch(downloads, store, jobs=jobs, on_progress=on_progress))
    for pin, download in zip(missing, downloads, strict=True):
        chosen = Chosen(download.name, str(download.sha256), download.size)
        remember(store, pin, chosen, python=python, platforms=platforms)
    return dict(sorted(found.items()))
