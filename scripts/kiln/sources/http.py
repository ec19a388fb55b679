"""Make HTTP sessions with the environment's proxies and certificates; retry and explain errors."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from kiln.core.version import __version__

TIMEOUT = (15.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes."""

ATTEMPTS = 4
"""Attempts without progress before a mirror is given up."""

BACKOFF = 0.5
"""Seconds to wait from the second retry on, doubled for each further one."""

LONGEST_PAUSE = 30.0
"""Longest wait in seconds, whatever a server asks for in ``Retry-After``."""

_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})  # transient failures

REMEDY = (
    "Check the network, HTTPS_PROXY and, behind a proxy that opens TLS, REQUESTS_CA_BUNDLE; "
    "then run again: what has been downloaded is kept."
)


def make_session(connections: int = 10) -> requests.Session:
    """Make a session that several threads may use for GET requests.

    ``requests`` itself follows HTTP(S)_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE;
    SSL_CERT_FILE is used here when neither of the latter is set.
    """
    session = requests.Session()
    adapter = requests.adapters.HTTPAdapter(pool_connections=connections, pool_maxsize=connections)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.headers["User-Agent"] = f"tflite-kiln/{__version__}"
    bundle = os.environ.get("SSL_CERT_FILE")
    named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if bundle and not named and os.path.isfile(bundle):  # noqa: PTH113 - a setting, not a path of ours
        session.verify = bundle
    return session


class Patience:
    """Retry policy for one server: urllib3's count and back-off, with waits that can be stopped.

    Retries are counted here and not in the session's adapter. There a wait could not be
    interrupted, an error page of any length would be read to its end, and an address would not
    be checked again before each attempt (:func:`public_session`).
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self.renew()

    def renew(self) -> None:
        """Reset the count after progress."""
        self._retry = urllib3.Retry(
            total=ATTEMPTS - 1, status_forcelist=_RETRY_STATUS, backoff_factor=BACKOFF
        )

    def may_change(self, response: requests.Response) -> bool:
        """Whether the response is a transient failure."""
        return self._retry.is_retry("GET", response.status_code)

    def wait(self, response: requests.Response | None = None) -> bool:
        """Wait before the next attempt; False when there is none left, or the run was stopped."""
        try:
            self._retry = self._retry.increment()
        except urllib3.exceptions.MaxRetryError:
            return False
        seconds = self._asked_for(response) or self._retry.get_backoff_time()
        return not self._stop.wait(min(seconds, LONGEST_PAUSE))

    def _asked_for(self, response: requests.Response | None) -> float:
        value = response.headers.get("Retry-After") if response is not None else None
        try:
            return self._retry.parse_retry_after(value) if value else 0.0
        except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
            return 0.0  # neither seconds nor a date


#: Whether requests may go to an address.
Allowed = Callable[["IPv4Address | IPv6Address"], bool]


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is public: not this machine's, nor its local network's."""
    inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (inner or address).is_global and not (inner or address).is_multicast


def public_session(allowed: Allowed = is_public) -> requests.Session:
    """Make a session as :func:`make_session` does, for untrusted addresses.

    Every address that a request goes to, after redirects too, has to be allowed. Behind a proxy
    nothing is checked: the proxy resolves the names and sends the requests.
    """
    session = make_session()
    session.max_redirects = _MAX_REDIRECTS
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Guarded(allowed))
    return session


_MAX_REDIRECTS = 5


class _Guarded(requests.adapters.HTTPAdapter):
    """Adapter that refuses requests to addresses that are not allowed."""

    def __init__(self, allowed: Allowed) -> None:
        super().__init__()
        self._allowed = allowed

    def send(
        self, request: requests.PreparedRequest, *args: Any, **options: Any
    ) -> requests.Response:
        url = str(request.url)
        if not requests.utils.select_proxy(url, options.get("proxies")):
            parts = urlsplit(url)
            host = parts.hostname or ""
            try:
                found = socket.getaddrinfo(host, parts.port or parts.scheme)
                places = {ip_address(str(item[4][0]).partition("%")[0]) for item in found}
            except (OSError, ValueError) as error:
                raise requests.ConnectionError(f"{host}: Name or service not known") from error
            if not all(self._allowed(place) for place in places):
                raise requests.exceptions.InvalidURL("not a public address")
        return super().send(request, *args, **options)


def host_of(url: str) -> str:
    """Return what messages call a URL: its host without credentials, or a local path."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return parts.path
    host = parts.hostname or url
    return f"{host}:{parts.port}" if parts.port else host


def reason(error: BaseException) -> str:
    """Describe briefly why a request failed, without URLs (they may hold credentials)."""
    text = str(error)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code} {error.response.reason or ''}".strip()
    words: list[tuple[bool, str]] = [
        (isinstance(error, requests.exceptions.SSLError), "its TLS certificate is not trusted"),
        (isinstance(error, requests.exceptions.ProxyError), "the proxy does not answer"),
        ("NameResolutionError" in text or "Name or service" in text, "its name is not known"),
        ("refused" in text, "connection refused"),
        (
            isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError),
            "no answer in time",
        ),
        (
            isinstance(error, urllib3.exceptions.ProtocolError | requests.ConnectionError),
            "the connection broke",
        ),
        (isinstance(error, requests.exceptions.InvalidSchema), "not an http(s) address"),
        (isinstance(error, requests.TooManyRedirects), "it sends on and on"),
        ("not a public address" in text, "not a public address"),
    ]
    return next((word for holds, word in words if holds), type(error).__name__)
