"""Download files into the store: in parallel, from several mirrors, resumed and verified."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
import urllib3

from kiln.core.digest import canonical_json, sha256_bytes
from kiln.core.errors import DigestMismatchError, RecipeError, SourceUnavailableError, StoreError
from kiln.core.files import disk_guard, write_atomic
from kiln.core.lease import boot_id
from kiln.core.store import FileMismatchError, Store
from kiln.core.untrusted import MalformedError, parse_json_object, read_file
from kiln.sources.http import REMEDY, TIMEOUT, Patience, host_of, make_session, reason

_CHUNK = 64 << 10  # small enough to notice a stop soon on a slow line
_NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)

OnProgress = Callable[[str, int, "int | None"], None]
"""Called with a download's name, the bytes received and the total if known; one call at a time,
from several threads."""


@dataclass(frozen=True)
class Download:
    """A file to fetch.

    Args:
        urls: its addresses, best first; ``http``, ``https`` or ``file``.
        size: its size in bytes, if known.
        sha256: its digest, 64 hex digits, if known.
        name: its name in messages and results.
        most: limit in bytes where the size is not known.
    """

    urls: tuple[str, ...]
    size: int | None
    sha256: str | None
    name: str
    most: int | None = None


def fetch(
    downloads: Sequence[Download],
    store: Store,
    *,
    jobs: int = 4,
    on_progress: OnProgress | None = None,
    session: requests.Session | None = None,
) -> dict[str, str]:
    """Fetch files into the store; return each download's name and digest, in the given order.

    Files whose pinned digest the store holds are not requested. A broken download is resumed, by
    the same run or a later one, after checking that the server still has the same file. When a
    mirror fails, the next one is tried. After the first failure no new download starts.

    Args:
        downloads: the files to fetch; names must be unique.
        store: where the files go.
        jobs: number of parallel downloads.
        on_progress: see :data:`OnProgress`.
        session: used for all requests; by default one that follows the environment.

    Raises:
        SourceUnavailableError: every mirror failed; the message has a reason for each.
        DigestMismatchError: a file's size or digest is not the pinned one; it is removed.
        RecipeError: two files have the same name.
        StoreError, DiskFullError: the store cannot be written.
    """
    named: dict[str, Download] = {}
    for download in downloads:
        if named.setdefault(download.name, download) != download:
            raise RecipeError(
                f"Two different downloads are both named {download.name!r}.", "Rename one."
            )
    stop = threading.Event()
    report = _Reporter(on_progress)
    with contextlib.ExitStack() as stack:
        if session is None:
            session = stack.enter_context(make_session(max(jobs, 1)))
        pool = stack.enter_context(ThreadPoolExecutor(max(jobs, 1), "download"))
        tasks = {
            name: pool.submit(_Fetcher(download, store, session, report, stop).run)
            for name, download in named.items()
        }
        try:
            done, _ = wait(tasks.values(), return_when=FIRST_EXCEPTION)
        finally:  # also on Ctrl-C: threads look at the event between chunks
            failed = any(t.done() and not t.cancelled() and t.exception() for t in tasks.values())
            if failed or not all(task.done() for task in tasks.values()):
                stop.set()
                for task in tasks.values():
                    task.cancel()
    errors = [e for t in done if (e := t.exception()) and not isinstance(e, _StoppedError)]
    if errors:
        raise errors[0]
    return {name: task.result() for name, task in tasks.items()}


class _StoppedError(Exception):
    """Another download failed, or the user interrupted the run."""


class _MirrorError(Exception):
    """This mirror cannot deliver the file; the text says why."""


class _RestartError(Exception):
    """The partial file does not match the server's file: restart from byte 0."""


class _WrongBytesError(Exception):
    """The mirror delivered a file that is not the pinned one."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")


class _Reporter:
    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        if self._on_progress is not None:
            with self._lock:
                self._on_progress(name, done, total)


class _Fetcher:
    """One download, from the first mirror to the blob in the store."""

    def __init__(
        self,
        download: Download,
        store: Store,
        session: requests.Session,
        report: _Reporter,
        stop: threading.Event,
    ) -> None:
        self._want = download
        self._store = store
        self._session = session
        self._report = report
        self._stop = stop
        self._patience = Patience(stop)
        # Pinned bytes are the same from every mirror; unpinned ones belong to their address.
        key = download.sha256 or sha256_bytes("\n".join(download.urls).encode())
        self._key = key
        self._part = store.downloads / f"{key}.part"
        self._about = store.downloads / f"{key}.json"

    def run(self) -> str:
        if (digest := self._at_hand()) is not None:
            return digest
        lock = self._store.lock(f"download-{self._key}", while_waiting=self._check_stop)
        try:
            with lock:
                # Another process may have fetched it while we waited.
                return self._at_hand() or self._from_mirrors()
        except OSError as error:
            raise StoreError(
                f"Cannot keep the download of {self._want.name} in {self._store.downloads}: "
                f"{error.strerror or error}.",
                "Check who owns the store and that it is writable.",
            ) from error

    def _at_hand(self) -> str | None:
        digest = self._want.sha256
        if digest is None or not self._store.has(digest):
            return None
        size = self._store.path(digest).stat().st_size
        if self._want.size is not None and size != self._want.size:
            self._store.discard(digest)  # a damaged disk: fetch it again
            return None
        self._report(self._want.name, size, size)
        return digest

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise _StoppedError

    def _from_mirrors(self) -> str:
        name = self._want.name
        reasons: list[str] = []
        wrong: _WrongBytesError | None = None
        for url in self._want.urls:
            try:
                return self._from_mirror(url)
            except _MirrorError as error:
                reasons.append(f"{host_of(url)}: {error}")
            except _WrongBytesError as error:
                self._forget()
                wrong = wrong or error
                reasons.append(f"{host_of(url)}: {error}")
        told = "; ".join(reasons) or "no address is known"
        if wrong is not None:
            raise DigestMismatchError(
                f"{name} is not the file that was pinned ({told}).",
                "Either the publisher changed the file, or something on the way did; nothing was "
                "kept. Find out which before you change the pin.",
            )
        raise SourceUnavailableError(f"Cannot download {name} ({told}).", REMEDY)

    def _from_mirror(self, url: str) -> str:
        restarted = False
        self._patience.renew()
        while True:
            before = self._have()
            resumed = before > 0
            try:
                self._transfer(url)
                return self._finish()
            except _RestartError:
                self._forget()
                if restarted:
                    raise _MirrorError("it does not resume properly") from None
                restarted = True
                continue
            except _WrongBytesError:
                self._forget()
                if resumed and not restarted:
                    # The beginning came from elsewhere or earlier: give this mirror a fair try.
                    restarted = True
                    continue
                raise
            except _Retry as error:
                if self._have() > before:
                    self._patience.renew()
                if not self._patience.wait(error.response):
                    self._check_stop()
                    raise _MirrorError(str(error)) from error

    # -- the partial file -----------------------------------------------------------------------

    def _have(self) -> int:
        try:
            return self._part.stat().st_size
        except FileNotFoundError:
            return 0

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)

    def _validator(self, url: str) -> str | None:
        """Return the If-Range value for the partial file.

        Empty if it needs none, None if the partial file cannot be used.
        """
        try:
            about = parse_json_object(read_file(self._about))
        except (OSError, MalformedError):
            about = {}
        validator = about.get("validator") if about.get("url") == url else None
        if self._want.sha256 is not None:
            return validator if isinstance(validator, str) else ""
        # Without a digest, neither a mixed-up file nor zeros left by a power failure would be
        # noticed: require the server's validator and the same boot.
        same_boot = about.get("boot") == boot_id() != ""
        return validator if isinstance(validator, str) and validator and same_boot else None

    def _remember(self, url: str, headers: Mapping[str, str]) -> None:
        etag = headers.get("ETag", "")
        # A weak ETag does not promise equal bytes, and may not be used in If-Range (RFC 9110).
        strong = etag if etag.startswith('"') else ""
        about = {
            "url": url,
            "validator": strong or headers.get("Last-Modified", ""),
            "boot": boot_id(),
        }
        write_atomic(self._about, canonical_json(about))

    def _finish(self) -> str:
        want = self._want
        size = self._have()
        if want.size is not None and size != want.size:
            raise _WrongBytesError(f"{want.size:,} bytes", f"{size:,} bytes")
        if not self._part.exists():
            self._part.touch()  # an empty file
        try:
            digest = self._store.add_file(self._part, move=True, expect=want.sha256)
        except FileMismatchError as error:
            raise _WrongBytesError(f"SHA-256 {error.expected}", error.got) from error
        self._about.unlink(missing_ok=True)
        self._report(want.name, size, size)
        return digest

    # -- the wire -------------------------------------------------------------------------------

    def _transfer(self, url: str) -> None:
        """Complete the partial file from ``url``."""
        if urlsplit(url).scheme == "file":
            self._copy_local(url)
            return
        have = self._have()
        validator = self._validator(url) if have else ""
        if validator is None or (self._want.size is not None and have > self._want.size):
            self._forget()
            have, validator = 0, ""
        if have and have == self._want.size:
            return  # killed between the last byte and the store
        # "identity": a server that packs on the fly would break ranges and sizes.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator
        try:
            response = self._session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
        except _NETWORK_ERRORS as error:
            raise _retry_or_not(error) from error
        with response:
            complete = f"bytes */{have}"
            if response.status_code == 416 and response.headers.get("Content-Range") == complete:
                return  # killed between the last byte and the store, size not pinned
            start, total = self._read_head(url, response, have)
            self._read_body(response, start, total)

    def _read_head(
        self, url: str, response: requests.Response, have: int
    ) -> tuple[int, int | None]:
        """Check the response; return the offset its body starts at and the file's total size."""
        status, headers = response.status_code, response.headers
        if self._patience.may_change(response):
            raise _Retry(_status(response), response)
        if status == 416 and have:
            raise _RestartError
        if status == 206:
            span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("Content-Range", ""))
            if span is None or int(span[1]) != have:
                raise _RestartError
            total = None if span[3] == "*" else int(span[3])
            start = have
        elif status == 200:
            length = headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
            start = 0
        else:
            raise _MirrorError(_status(response))
        if self._want.size is not None and total is not None and total != self._want.size:
            kind = headers.get("Content-Type", "").partition(";")[0]
            raise _WrongBytesError(
                f"{self._want.size:,} bytes", f"{total:,} bytes" + (f" of {kind}" if kind else "")
            )
        if start == 0:
            with disk_guard(self._part):
                self._part.write_bytes(b"")
                self._remember(url, headers)
        return start, total

    def _read_body(self, response: requests.Response, start: int, total: int | None) -> None:
        limit = self._want.size if self._want.size is not None else self._want.most
        shown = total if total is not None else self._want.size
        have = start
        # The raw stream: requests would unpack a .tar.gz sent with "Content-Encoding: gzip".
        chunks = response.raw.stream(_CHUNK, decode_content=False)
        with disk_guard(self._part), self._part.open("r+b") as sink:
            sink.seek(start)
            self._report(self._want.name, have, shown)
            while True:
                self._check_stop()
                try:
                    chunk = next(chunks, b"")
                except _NETWORK_ERRORS as error:
                    raise _retry_or_not(error) from error
                if not chunk:
                    break
                sink.write(chunk)
                have += len(chunk)
                if limit is not None and have > limit:
                    raise _WrongBytesError(f"{limit:,} bytes", "more")
                self._report(self._want.name, have, shown)
        end = total if total is not None else self._want.size
        if end is not None and have < end:
            raise _Retry(f"the connection ended after {have:,} of {end:,} bytes")

    def _copy_local(self, url: str) -> None:
        source = Path(url2pathname(urlsplit(url).path))
        self._forget()
        try:
            reader = source.open("rb")
        except OSError as error:
            raise _MirrorError(error.strerror or str(error)) from error
        have = 0
        with reader, disk_guard(self._part), self._part.open("wb") as sink:
            total = source.stat().st_size
            while True:
                self._check_stop()
                try:
                    chunk = reader.read(_CHUNK * 16)
                except OSError as error:
                    raise _MirrorError(error.strerror or str(error)) from error
                if not chunk:
                    return
                sink.write(chunk)
                have += len(chunk)
                self._report(self._want.name, have, total)


class _Retry(Exception):  # noqa: N818 - an instruction more than an error
    """The request may succeed later; the response may say when."""

    def __init__(self, why: str, response: requests.Response | None = None) -> None:
        super().__init__(why)
        self.response = response


def _retry_or_not(error: BaseException) -> Exception:
    # Retrying does not help against an untrusted certificate or an invalid address.
    final = (
        requests.exceptions.SSLError,
        requests.exceptions.InvalidSchema,
        requests.exceptions.InvalidURL,
        requests.exceptions.MissingSchema,
    )
    return _MirrorError(reason(error)) if isinstance(error, final) else _Retry(reason(error))


def _status(response: requests.Response) -> str:
    return f"HTTP {response.status_code} {response.reason or ''}".strip()
