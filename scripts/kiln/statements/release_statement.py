"""Make and read the statement about a whole release: its files and its name."""

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
    """Return the name of the release being made: ``KILN_RELEASE``, else ``local``.

    Raises:
        UsageError: that is not a valid name.
    """
    name = os.environ.get(RELEASE_VARIABLE, "") or LOCAL
    if not _ID.fullmatch(name):
        raise UsageError(
            f"{RELEASE_VARIABLE} is {name!r}, which is not a valid release name.",
            "Use up to 100 letters, digits, dots, hyphens and underscores, such as v1.2.0.",
        )
    return name


def release_statement(digests: Mapping[str, str], name: str) -> dict[str, Any]:
    """Make the statement that a release consists of exactly these files.

    Args:
        digests: path -> SHA-256 of every file but ``release.sigstore.json``.
        name: the release's name.
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
    """Return the files (path -> SHA-256) and name of a release from its verified statement.

    Raises:
        VerificationError: it is another kind of statement, or has unknown fields.
    """
    try:
        digests = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
        name = statement["predicate"]["releaseId"]
        sound = _ID.fullmatch(name) and all(isinstance(one, str) for one in digests.values())
        again = release_statement(digests, name)
        if SIGNATURE_FORM not in statement["predicate"]:  # statements of older versions
            del again["predicate"][SIGNATURE_FORM]
        same = sound and again == statement
    except (KeyError, TypeError, AttributeError):
        same = False
    if not same:
        raise VerificationError(
            f"{RELEASE_BUNDLE} is not a statement about a release.",
            "Do not use these files: fetch the release again.",
        )
    return digests, name
