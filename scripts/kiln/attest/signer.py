"""Who signs, and who is trusted: the one place where kinds of keys differ.

Publishing knows a :class:`Signer`, verifying a :class:`Verifier`, and neither what is behind
them. Here they are a key; whatever else signs has to do no more than these protocols say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kiln import keys, signing
from kiln.attest import dsse
from kiln.keys import SigningKey
from kiln.signing import SignedFolder


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
        """Write ``model.sig`` over all other files of ``folder`` (:mod:`kiln.signing`)."""


@dataclass(frozen=True)
class KeyVerifier:
    """Trusts one public key, in PEM; ``SigningKeyError`` at first use where it is none."""

    pem: bytes

    @property
    def public_pem(self) -> bytes:
        """The key in its canonical spelling."""
        return keys.canonical_public_pem(self.pem)

    def open_bundle(self, data: bytes, name: str = "the bundle") -> dict[str, Any]:
        """See :func:`kiln.attest.dsse.open_bundle`."""
        return dsse.open_bundle(data, self.pem, name)

    def read_signature(self, data: bytes) -> SignedFolder:
        """See :func:`kiln.signing.read_signature`."""
        return signing.read_signature(data, self.pem)


@dataclass(frozen=True)
class KeySigner:
    """Signs with a key on this machine."""

    key: SigningKey

    @property
    def public_pem(self) -> bytes:
        """The key's public half."""
        return self.key.public_pem

    def seal(self, statement: Mapping[str, Any]) -> bytes:
        """See :func:`kiln.attest.dsse.seal`."""
        return dsse.seal(statement, self.key)

    def sign_folder(self, folder: Path) -> None:
        """See :func:`kiln.signing.sign_folder`."""
        signing.sign_folder(folder, self.key)

    def open_bundle(self, data: bytes, name: str = "the bundle") -> dict[str, Any]:
        """See :func:`kiln.attest.dsse.open_bundle`."""
        return dsse.open_bundle(data, self.key.public_pem, name)

    def read_signature(self, data: bytes) -> SignedFolder:
        """See :func:`kiln.signing.read_signature`."""
        return signing.read_signature(data, self.key.public_pem)


def own_signer() -> Signer:
    """Who signs here: the user's own key, made at first use.

    Raises:
        SigningKeyError: see :func:`kiln.keys.load_or_create_key`.
    """
    return KeySigner(keys.load_or_create_key())
