"""Read a trust file: TOML that says who may sign what, and what must have been stated.

docs/trust.md shows and explains one. File names in it are relative to its own folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kiln.core.errors import UsageError
from kiln.core.untrusted import MalformedError, parse_toml, read_named
from kiln.project import bounds
from kiln.signing import keys
from kiln.signing.rotation import follow
from kiln.signing.trust import Requirements, Signer, Trust

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ImageId = Annotated[str, Field(pattern=r"^(sha256:)?[0-9a-f]{64}$")]
Words = Annotated[str, Field(min_length=1)]
Role = Literal["release", "model", "provenance", "test-result", "stage-result"]

_REMEDY = "Correct the trust file; docs/trust.md shows one."


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SignerTable(_Table):
    """``[[signer]]``: one key or one identity, and its rights."""

    name: Words | None = None
    key: Words | None = None
    key_id: Digest | None = None
    rotated: list[Words] = []
    identity: Words | None = None
    issuer: Words | None = None
    models: Annotated[list[Words], Field(min_length=1)] = ["*"]
    may: Annotated[list[Role], Field(min_length=1)] = list(get_args(Role))

    @model_validator(mode="after")
    def _one_of(self) -> SignerTable:
        if (self.key is None and self.key_id is None) == (self.identity is None):
            raise ValueError("needs either 'key' (or 'key_id') or 'identity'")
        if (self.identity is None) != (self.issuer is None):
            raise ValueError("'identity' and 'issuer' go together")
        if self.rotated and self.key is None:
            raise ValueError("'rotated' needs 'key'")
        return self


class RequireTable(_Table):
    """``[require]``: what provenance and test results must say."""

    clean_git: bool = False
    test_result: Literal["PASSED", "WARNED"] | None = None
    repository: Words | None = None
    images: list[ImageId] = []
    builder: list[Words] = []


class KeylessTable(_Table):
    """``[keyless]``: the trusted root for identities."""

    trusted_root: Words | None = None


class PolicyFile(_Table):
    """A whole trust file."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    signer: Annotated[list[SignerTable], Field(min_length=1)]
    require: RequireTable = RequireTable()
    keyless: KeylessTable = KeylessTable()


def load_policy(path: Path, trusted_root: Path | None = None) -> Trust:
    """Read a trust file.

    Args:
        path: the file.
        trusted_root: instead of the one that the file names.

    Raises:
        UsageError: it cannot be read, or has wrong values; every problem is named.
        SigningKeyError: a key that it names cannot be used.
        VerificationError: a rotation that it names is not valid.
    """
    try:
        table = parse_toml(read_named(path, bounds.TRUST_FILE.most))
        policy = PolicyFile.model_validate(table)
    except OSError as error:
        raise UsageError(
            f"The trust file {path} cannot be read: {error.strerror or error}.", "Check the path."
        ) from None
    except ValidationError as error:
        lines = "".join(
            f"\n  {_key_path(item['loc'])}: {_words(item['msg'])}" for item in error.errors()
        )
        raise UsageError(f"The trust file {path} is wrong:{lines}", _REMEDY) from None
    except MalformedError as error:
        raise UsageError(f"The trust file {path} is wrong: it {error}.", _REMEDY) from None
    folder = path.parent
    signers = [
        one
        for number, item in enumerate(policy.signer, 1)
        for one in _signers_of(item, folder, f"signer {number}")
    ]
    require = policy.require
    root = trusted_root
    if root is None and policy.keyless.trusted_root is not None:
        root = folder / policy.keyless.trusted_root
    return Trust(
        tuple(signers),
        Requirements(
            require.clean_git,
            require.test_result or "",
            require.repository or "",
            tuple(one.removeprefix("sha256:") for one in require.images),
            tuple(require.builder),
        ),
        root,
    )


def _signers_of(item: SignerTable, folder: Path, number: str) -> list[Signer]:
    """Return the signer and the keys that its key was rotated to."""
    rights = Signer("", models=tuple(item.models), may=tuple(item.may))
    if item.identity is not None and item.issuer is not None:
        name = item.name or f"{item.identity} ({item.issuer})"
        return [replace(rights, name=name, identity=item.identity, issuer=item.issuer)]

    def by_key(key_id: str, pem: bytes = b"") -> Signer:
        name = f"{item.name} (key {key_id[:16]})" if item.name else f"key {key_id[:16]}"
        return replace(rights, name=name, key_id=key_id, public_pem=pem)

    if item.key is None:
        assert item.key_id is not None
        return [by_key(item.key_id)]
    pem = keys.load_public_key(folder / item.key)
    known = keys.key_id(pem)
    if item.key_id is not None and item.key_id != known:
        raise UsageError(
            f"{number}: {item.key} has the id {known}, not the 'key_id' that is written there.",
            _REMEDY,
        )
    found = [by_key(known, pem)]
    for statement in item.rotated:
        place = folder / statement
        try:
            data = read_named(place, bounds.STATEMENT.most)
        except OSError as error:
            raise UsageError(
                f"{number}: {place} cannot be read: {error.strerror or error}.", _REMEDY
            ) from None
        except MalformedError as error:
            raise UsageError(f"{number}: {place} {error}.", _REMEDY) from None
        pem = follow(data, pem)
        found.append(by_key(keys.key_id(pem), pem))
    return found


def _key_path(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the file"


def _words(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return {
        "Extra inputs are not permitted": "unknown key",
        "Field required": "missing",
    }.get(message, message[:1].lower() + message[1:])
