"""The statement about a whole release: which files it consists of, and what it is called."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from kiln.core.errors import UsageError, VerificationError
from kiln.signing.statement_names import (
    LOW_S,
    RELEASE_BUNDLE,
    RELEASE_TYPE,
    SIGNATURE_FORM,
    STATEMENT_TYPE,
)

RELEASE_VARIABLE = "KILN_RELEASE"
LOCAL = "local"
_NAME = "tflite-kiln"

# Goes into a package URL and a file name as it is.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def release_id() -> str:
    """What the release being made is called: ``KILN_RELEASE``, else ``local``.

    Raises:
        UsageError: that is no name for one.
    """
    name = os.environ.get(RELEASE_VARIABLE, "") or LOCAL
    if not _ID.fullmatch(name):
        raise UsageError(
            f"{RELEASE_VARIABLE} is {name!r}, which is no name for a release.",
            "Use up to 100 letters, digits, dots, hyphens and underscores, such as v1.2.0.",
        )
    return name


def release_statement(digests: Mapping[str, str], name: str) -> dict[str, Any]:
    """The statement that a release consists of just these files.

    Args:
        digests: path -> SHA-256 of every file but ``release.sigstore.json``.
        name: what the release is called.
    """
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": path, "digest": {"sha256": digests[path]}} for path in sorted(digests)
        ],
        "predicateType": RELEASE_TYPE,
        "predicate": {
            "purl": f"pkg:generic/{_NAME}@{name}",
            "releaseId": name,
            SIGNATURE_FORM: LOW_S,
        },
    }


def read_release(statement: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """Files (path -> SHA-256) and name of the release that a verified statement is about.

    Raises:
        VerificationError: it is another kind of statement, or has something unknown in it.
    """
    try:
        digests = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
        name = statement["predicate"]["releaseId"]
        sound = _ID.fullmatch(name) and all(isinstance(one, str) for one in digests.values())
        again = release_statement(digests, name)
        if SIGNATURE_FORM not in statement["predicate"]:  # as kiln once made them
            del again["predicate"][SIGNATURE_FORM]
        same = sound and again == statement
    except (KeyError, TypeError, AttributeError):
        same = False
    if not same:
        raise VerificationError(
            f"{RELEASE_BUNDLE} is no statement about a release.",
            "Do not use these files: fetch the release again.",
        )
    return digests, name
