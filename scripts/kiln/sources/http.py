"""One way to talk HTTP: the environment's proxies and certificates, and reasons in words."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import requests
import urllib3

import kiln

TIMEOUT = (15.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes."""

ATTEMPTS = 4
"""Tries in a row without progress before a mirror is given up."""

RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be different in a moment."""

REMEDY = (
    "Check the network, HTTPS_PROXY and, behind a proxy that opens TLS, REQUESTS_CA_BUNDLE; "
    "then run again: what has been downloaded is kept."
)


def make_session(connections: int = 10) -> requests.Session:
    """A session that several threads may use for plain GETs.

    ``requests`` itself follows HTTP(S)_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE;
    SSL_CERT_FILE is honoured here when neither of the latter is set.
    """
    session = requests.Session()
    adapter = requests.adapters.HTTPAdapter(pool_connections=connections, pool_maxsize=connections)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.headers["User-Agent"] = f"tflite-kiln/{kiln.__version__}"
    bundle = os.environ.get("SSL_CERT_FILE")
    named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if bundle and not named and os.path.isfile(bundle):  # noqa: PTH113 - a setting, not a path of ours
        session.verify = bundle
    return session


def host_of(url: str) -> str:
    """What to call a URL in a message: its host (never its credentials), or a local path."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return parts.path
    host = parts.hostname or url
    return f"{host}:{parts.port}" if parts.port else host


def reason(error: BaseException) -> str:
    """Why a request failed, in a few words and without URLs (they may hold credentials)."""
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
    ]
    return next((word for holds, word in words if holds), type(error).__name__)
