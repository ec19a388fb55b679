"""Choose whom to trust from the options of a command or the arguments of a function."""

from __future__ import annotations

from pathlib import Path

from kiln.core.errors import UsageError
from kiln.signing.keys import load_public_key
from kiln.signing.trust import Trust, trust_in_identity, trust_in_key


def choose_trust(
    key: Path | None = None,
    identity: str | None = None,
    issuer: str | None = None,
    policy: Path | None = None,
    trusted_root: Path | None = None,
) -> Trust:
    """Return the trust in a trust file, an identity or a key; by default the user's own key.

    Raises:
        UsageError: they cannot be combined, or the trust file is not usable.
        SigningKeyError: there is no such key.
    """
    if sum(item is not None for item in (key, identity, policy)) > 1:
        raise UsageError(
            "--key, --identity and --policy cannot be combined.",
            "A trust file (--policy) can name several keys and identities.",
        )
    if (identity is None) != (issuer is None):
        raise UsageError(
            "--identity and --issuer need each other.",
            "An identity is only meaningful together with its issuer.",
        )
    if policy is not None:
        from kiln.signing.trust_file import load_policy  # imports the reader of trust files

        return load_policy(policy, trusted_root)
    if identity is not None and issuer is not None:
        return trust_in_identity(identity, issuer, trusted_root)
    return trust_in_key(load_public_key(key))
