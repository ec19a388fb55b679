"""Who signs, and who is trusted: the one place where kinds of keys differ.

Publishing knows a :class:`Signer`, verifying a :class:`Verifier`, and neither what is behind
them. Here they are a key; whatever else signs has to do no more than these protocols say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kiln.core.errors import UsageError, VerificationError
from kiln.signing import dsse, keys, model_signature
from kiln.signing.keyless import KeylessSigner
from kiln.signing.keys import SigningKey
from kiln.signing.model_signature import SignedFolder

SIGN_VARIABLE = "KILN_SIGN"


class Verifier(Protocol):
    """Tells whether somebody trusted signed something."""

    @property
    def public_pem(self) -> bytes | None:
        """The trusted key in canonical PEM, which ``kiln.pub`` holds; None where there is none."""

    def open_bundle(self, data: bytes, name: str = "the bundle") -> dict[str, Any]:
        """The statement in a bundle; ``VerificationError`` unless somebody trusted signed it."""

    def read_signature(self, data: bytes) -> SignedFolder:
        """What a ``model.sig`` vouches for; ``VerificationError`` likewise."""


class Signer(Verifier, Protocol):
    """Signs, and knows its own signatures again."""

    def seal(self, statement: Mapping[str, Any]) -> bytes:
        """``statement`` in a signed bundle; ``SigningKeyError`` where that is impossible."""

    def sign_folder(self, folder: Path) -> None:
        """Write ``model.sig`` over all other files of ``folder``
        (:mod:`kiln.signing.model_signature`)."""


@dataclass(frozen=True)
class KeySigner:
    """Signs with a key on this machine."""

    key: SigningKey

    @property
    def public_pem(self) -> bytes:
        """The key's public half."""
        return self.key.public_pem

    def seal(self, statement: Mapping[str, Any]) -> bytes:
        """See :func:`kiln.signing.dsse.seal`."""
        return dsse.seal(statement, self.key)

    def sign_folder(self, folder: Path) -> None:
        """See :func:`kiln.signing.model_signature.sign_folder`."""
        model_signature.sign_folder(folder, self.key)

    def open_bundle(self, data: bytes, name: str = "the bundle") -> dict[str, Any]:
        """See :func:`kiln.signing.dsse.open_bundle`."""
        return dsse.open_bundle(data, self.key.public_pem, name)

    def read_signature(self, data: bytes) -> SignedFolder:
        """See :func:`kiln.signing.model_signature.read_signature`."""
        return model_signature.read_signature(data, self.key.public_pem)


class IdentitySigner:
    """Signs by the identity that a CI proves, each run with a certificate of its own.

    So it does not know what an earlier run signed: all of it is signed anew.
    """

    public_pem = None

    def __init__(self) -> None:
        self._keyless = KeylessSigner()
        self._made: dict[bytes, dict[str, Any]] = {}

    def seal(self, statement: Mapping[str, Any]) -> bytes:
        """See :meth:`kiln.signing.keyless.KeylessSigner.seal`."""
        data = self._keyless.seal(statement)
        self._made[data] = dict(statement)
        return data

    def sign_folder(self, folder: Path) -> None:
        """See :func:`kiln.signing.model_signature.sign_folder`."""
        model_signature.sign_folder(folder, self._keyless)

    def open_bundle(self, data: bytes, name: str = "the bundle") -> dict[str, Any]:
        """The statement in a bundle that was sealed here; ``VerificationError`` for any other."""
        if data not in self._made:
            raise VerificationError(f"{name} was not signed in this run.")
        return self._made[data]

    def read_signature(self, data: bytes) -> SignedFolder:
        """No folder is known to be signed already."""
        raise VerificationError("model.sig is made anew in each run.")


def own_signer() -> Signer:
    """Who signs here: the user's own key, made at first use.

    With ``KILN_SIGN=keyless`` it is the identity that the environment proves.

    Raises:
        UsageError: ``KILN_SIGN`` says something unknown.
        SigningKeyError: see :func:`kiln.signing.keys.load_or_create_key`.
    """
    how = os.environ.get(SIGN_VARIABLE, "") or "key"
    if how == "keyless":
        return IdentitySigner()
    if how != "key":
        raise UsageError(
            f"{SIGN_VARIABLE} is {how!r}.", "Set it to `keyless` or `key`, or leave it unset."
        )
    return KeySigner(keys.load_or_create_key())
