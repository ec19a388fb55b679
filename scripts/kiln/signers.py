"""Who signs a release: the user's key, or the identity that a CI proves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kiln.attest import dsse
from kiln.errors import UsageError, VerificationError
from kiln.keyless import KeylessSigner
from kiln.keys import SigningKey, load_or_create_key

SIGN_VARIABLE = "KILN_SIGN"

ReleaseSigner = SigningKey | KeylessSigner


def load_signer() -> ReleaseSigner:
    """Whoever signs here: by a key, or with ``KILN_SIGN=keyless`` by an identity.

    Raises:
        UsageError: ``KILN_SIGN`` says something else.
        SigningKeyError: see :func:`kiln.keys.load_or_create_key`.
    """
    how = os.environ.get(SIGN_VARIABLE, "") or "key"
    if how == "keyless":
        return KeylessSigner()
    if how != "key":
        raise UsageError(
            f"{SIGN_VARIABLE} is {how!r}.", "Set it to `keyless` or `key`, or leave it unset."
        )
    return load_or_create_key()


def seal(statement: Mapping[str, Any], signer: ReleaseSigner) -> bytes:
    """A bundle around ``statement``, signed by ``signer``.

    Raises:
        SigningKeyError, SourceUnavailableError: see :class:`kiln.keyless.KeylessSigner`.
    """
    if isinstance(signer, KeylessSigner):
        return signer.seal(statement)
    return dsse.seal(statement, signer)


def open_own(data: bytes, signer: ReleaseSigner, name: str = "the bundle") -> dict[str, Any]:
    """The statement in a bundle that ``signer`` made earlier, to see whether it is still good.

    Raises:
        VerificationError: it is not a valid one of that key. One by an identity never is: each run
            has another certificate, so what it signs is signed anew.
    """
    if isinstance(signer, KeylessSigner):
        raise VerificationError(f"{name} is signed anew.")
    return dsse.open_bundle(data, signer.public_pem, name)
