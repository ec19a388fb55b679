"""Define signers and verifiers: the one place where kinds of keys differ.

Publishing uses a :class:`Signer`, verifying a :class:`Verifier`, independent of the kind of key.
Here they are implemented for a key and for an identity; other kinds implement these protocols.
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
    """Checks that a trusted signer signed something."""

    @property
    def public_pem(self) -> bytes | None:
        """The trusted key in canonical PEM, as in ``kiln.pub``; None where there is none."""

    def open_bundle(self, data: bytes, name: str = "the bundle") -> dict[str, Any]:
        """Return a bundle's statement; ``VerificationError`` unless a trusted signer made it."""

    def read_signature(self, data: bytes) -> SignedFolder:
        """Return what a ``model.sig`` covers; ``VerificationError`` likewise."""


class Signer(Verifier, Protocol):
    """Signs, and recognises its own signatures."""

    def seal(self, statement: Mapping[str, Any]) -> bytes:
        """Seal ``statement`` in a signed bundle; ``SigningKeyError`` where that is impossible."""

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
    """Signs by the identity that a CI proves, with a new certificate in each run.

    It cannot recognise signatures of earlier runs, so everything is signed again.
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
        """Return the statement in a bundle sealed in this run; refuse any other."""
        if data not in self._made:
            raise VerificationError(f"{name} was not signed in this run.")
        return self._made[data]

    def read_signature(self, data: bytes) -> SignedFolder:
        """Refuse every folder: none counts as already signed."""
        raise VerificationError("model.sig is signed again in each run.")


def own_signer() -> Signer:
    """Choose the signer: by default the user's own key, created at first use.

    With ``KILN_SIGN=keyless`` it is the identity that the environment proves.

    Raises:
        UsageError: ``KILN_SIGN`` has an unknown value.
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
