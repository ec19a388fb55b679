"""Addresses in KILN_CACHE: what is taken, and what is refused in words that hold no secret."""

from __future__ import annotations

import pytest

from kiln.cache import address as addresses
from kiln.cache.address import parse_address, refuse_missing
from kiln.core.errors import UsageError


@pytest.mark.parametrize(
    ("text", "scheme", "root"),
    [
        ("s3://bucket", "s3", "bucket"),
        ("s3://bucket/team/kiln/", "s3", "bucket/team/kiln"),
        ("gs://my.bucket/x", "gs", "my.bucket/x"),
        ("file:///nfs/kiln", "file", "/nfs/kiln"),
        ("file://localhost/nfs/kiln", "file", "/nfs/kiln"),
        ("sftp://host/srv/kiln", "sftp", "/srv/kiln"),
    ],
)
def test_addresses(text: str, scheme: str, root: str) -> None:
    found = parse_address(text)
    assert (found.scheme, found.root) == (scheme, root)
    assert parse_address(str(found)) == found


def test_a_user_at_an_sftp_server() -> None:
    found = parse_address("sftp://kiln@host:2222/srv")
    assert (found.user, found.host, found.port) == ("kiln", "host", 2222)
    assert str(found) == "sftp://kiln@host:2222/srv"


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIAKEY:hunter2@bucket/x",
        "s3://hunter2@bucket/x",
        "sftp://me:hunter2@host/x",
        "gs://hunter2@bucket",
        "file://me:hunter2@/x",
        "s3://bucket/x?secret=hunter2",
        "s3://bucket/x#hunter2",
        "hunter2://bucket",
        "hunter2",
    ],
)
def test_credentials_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    if not text.startswith("hunter2://"):  # (a scheme is shown: it is not where secrets are)
        assert "hunter2" not in str(caught.value)
    assert "KILN_CACHE" in caught.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://host/x", "unknown scheme 'http'"),
        ("memory://x", "unknown scheme"),
        ("S3://bucket", "unknown scheme"),
        ("simplecache::s3://bucket", "no scheme"),
        ("/nfs/kiln", "no scheme"),
        ("file://nfs/kiln", "three slashes"),
        ("file:///", "no folder"),
        ("s3://", "no bucket"),
        ("s3://bucket:80/x", "no bucket"),
        ("s3://bucket/../other", "not plain"),
        ("s3://bucket/a*", "not plain"),
        ("sftp://host", "no folder"),
        ("sftp://host:x/y", "port"),
        ("sftp:///y", "no server"),
        ("s3://bucket/\n", "not printable"),
        ("s3://" + "x" * 3000, "too long"),
    ],
)
def test_what_is_no_address(text: str, words: str) -> None:
    with pytest.raises(UsageError, match="KILN_CACHE") as caught:
        parse_address(text)
    assert words in caught.value.message
    assert "file:///FOLDER" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "missing", "remedy"),
    [
        ("file:///x", "fsspec", "tflite-kiln[cache]"),
        ("s3://x", "s3fs", "tflite-kiln[cache]"),
        ("gs://x", "gcsfs", "tflite-kiln[cache]' gcsfs"),
        ("sftp://x/y", "paramiko", "tflite-kiln[cache]' paramiko"),
    ],
)
def test_a_library_that_is_missing(
    text: str, missing: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(UsageError, match="not installed") as caught:
        refuse_missing(parse_address(text))
    assert remedy in caught.value.remedy
