"""An S3 server on 127.0.0.1: moto's, in a process of its own."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator

import requests

#: What a client needs to know to use it. Any key will do: the server checks none.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "a-key-id-of-tests",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextlib.contextmanager
def s3_server(bucket: str) -> Iterator[str]:
    """Start the server with a bucket in it; yield its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        found = None
        while found is None:
            line = process.stderr.readline()
            assert line, "the S3 server ended"
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
        requests.put(f"{found[0]}/{bucket}", timeout=30).raise_for_status()
        yield found[0]
    finally:
        process.kill()
        process.wait()
