"""A real HTTP server on 127.0.0.1 whose bad habits can be chosen, for the download tests."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served, how badly, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    ignore_range: bool = False
    etag: bool = True
    shift_range: int = 0
    """Bytes by which an answer to a range begins too early."""
    break_after: list[int] = field(default_factory=list)
    """Bytes of the body after which the connection is cut, one number per request."""
    statuses: list[int] = field(default_factory=list)
    """Statuses to answer instead, one per request."""
    retry_after: str = ""
    """What such an answer says in ``Retry-After``."""
    locations: dict[str, str] = field(default_factory=dict)
    """Where else a path is said to be."""
    delay: float = 0.0
    """Seconds between pieces of 16 KiB."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range header) of each request."""
    base: str = ""

    def url(self, path: str) -> str:
        return f"{self.base}/{path}"


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            asked = self.headers.get("Range")
            site.asked.append((path, asked))
            if site.statuses:
                pause = {"Retry-After": site.retry_after} if site.retry_after else {}
                self._empty(site.statuses.pop(0), pause)
                return
            if path in site.locations:
                self._empty(302, {"Location": site.locations[path]})
                return
            if path not in site.files:
                self._empty(404)
                return
            data = site.files[path]
            etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            start = 0
            match = re.fullmatch(r"bytes=(\d+)-", asked or "")
            fresh = self.headers.get("If-Range", etag) == etag
            if match and not site.ignore_range and fresh:
                start = max(0, int(match[1]) - site.shift_range)
                if start >= len(data):
                    self._empty(416, {"Content-Range": f"bytes */{len(data)}"})
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            body = data[start:]
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", site.types.get(path, "application/octet-stream"))
            if site.etag:
                self.send_header("ETag", etag)
            self.end_headers()
            limit = site.break_after.pop(0) if site.break_after else len(body)
            with contextlib.suppress(OSError):
                for at in range(0, min(limit, len(body)), 16384):
                    self.wfile.write(body[at : min(at + 16384, limit)])
                    if site.delay:
                        threading.Event().wait(site.delay)
            if limit < len(body):
                self.close_connection = True

        def _empty(self, status: int, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


@contextlib.contextmanager
def serving(files: dict[str, bytes] | None = None) -> Iterator[Site]:
    site = Site(files=dict(files or {}))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    server.daemon_threads = True
    site.base = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
