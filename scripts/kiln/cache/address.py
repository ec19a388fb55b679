"""Read the address of a remote cache: which backend, and where in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import urlsplit

from kiln.cache.opening import CACHE_VARIABLE
from kiln.core.errors import UsageError

#: Schemes, with the modules that their backends need and what installs them.
_NEEDS = {
    "file": ((), ""),
    "s3": (("s3fs",), "s3fs"),
    "gs": (("gcsfs",), "gcsfs"),
    "sftp": (("paramiko",), "paramiko"),
}
_FORMS = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, sftp://HOST/FOLDER or file:///FOLDER"
_REMEDY = f"Use one of {_FORMS}, or unset {CACHE_VARIABLE}."
_LONGEST = 2000
_PART = re.compile(r"[A-Za-z0-9._@+=,~ -]+")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Address:
    """Where a remote cache is.

    Attributes:
        scheme: ``file``, ``s3``, ``gs`` or ``sftp``.
        root: the folder, or bucket and prefix, as the backend names it.
        host: of an SFTP server.
        port: of an SFTP server; 0 for the usual one.
        user: at an SFTP server; "" for the backend's own choice.
    """

    scheme: str
    root: str
    host: str = ""
    port: int = 0
    user: str = ""

    def __str__(self) -> str:
        """The address for people. It cannot hold a secret: :func:`parse_address` takes none."""
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{self.scheme}://{user}{self.host}{port}{self.root}"


def parse_address(text: str) -> Address:
    """Parse the value of ``KILN_CACHE``.

    Raises:
        UsageError: it is not an address that kiln takes, or holds credentials. The message never
            repeats what could be a secret.

    >>> str(parse_address("s3://bucket/team/kiln/"))
    's3://bucket/team/kiln'
    """
    if len(text) > _LONGEST or not text.isprintable():
        raise _bad("is too long, or holds characters that are not printable")
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise _bad("is not an address: it has no scheme")
    if scheme not in _NEEDS:
        said = f"has the unknown scheme {scheme[:20]!r}" if scheme.isalnum() else "has no scheme"
        raise _bad(said)
    if "?" in rest or "#" in rest:
        raise _bad("has a query or a fragment")
    authority, _, path = rest.partition("/")
    login, at, place = authority.rpartition("@")
    if at and (scheme != "sftp" or not _USER.fullmatch(login)):
        raise UsageError(
            f"{CACHE_VARIABLE} holds credentials.",
            "Remove them from the address, and give them to the backend in its own way: "
            "docs/cache.md lists where each one looks.",
        )
    parts = [part for part in path.split("/") if part]
    if any(part in {".", ".."} or not _PART.fullmatch(part) for part in parts):
        raise _bad("has a path that is not plain")
    folder = "/".join(parts)
    if scheme == "file":
        if authority not in {"", "localhost"} or not folder:
            raise _bad("names no folder: write three slashes, file:///FOLDER")
        return Address(scheme, f"/{folder}")
    host, port = _host_and_port(place, scheme)
    if scheme == "sftp":
        if not folder:
            raise _bad("names no folder of the server")
        return Address(scheme, f"/{folder}", host, port, login)
    return Address(scheme, f"{host}/{folder}" if folder else host)


def _host_and_port(place: str, scheme: str) -> tuple[str, int]:
    try:
        split = urlsplit(f"//{place}")
        port = split.port or 0
    except ValueError:
        raise _bad("has a port that is not a number") from None
    host = place.rpartition(":")[0] if ":" in place else place
    if not _HOST.fullmatch(host) or (port and scheme != "sftp"):
        what = "server" if scheme == "sftp" else "bucket"
        raise _bad(f"names no {what}")
    return host, port


def refuse_missing(address: Address) -> None:
    """Refuse an address whose backend is not installed.

    Raises:
        UsageError: it is not; the remedy says what to install.
    """
    modules, package = _NEEDS[address.scheme]
    if find_spec("fsspec") is None or (address.scheme == "s3" and find_spec("s3fs") is None):
        raise UsageError(
            f"{CACHE_VARIABLE} is set, but the libraries for remote caches are not installed.",
            "Install them with `pip install 'tflite-kiln[cache]'`.",
        )
    if any(find_spec(module) is None for module in modules):
        raise UsageError(
            f"{CACHE_VARIABLE} is a {address.scheme}:// address, and {package} is not installed.",
            f"Install it with `pip install 'tflite-kiln[cache]' {package}`.",
        )


def _bad(what: str) -> UsageError:
    return UsageError(f"{CACHE_VARIABLE} {what}.", _REMEDY)
