"""``kiln keys``: create, show and rotate the key that signs releases."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from kiln.cli.common import PATH, json_option
from kiln.cli.reporters import JsonReporter
from kiln.core.errors import UsageError

_no_password = click.option(
    "--no-password", is_flag=True, help="Leave the new key unencrypted; only file rights guard it."
)


@click.group("keys", short_help="The signing key: make, show, replace.")
def keys_group() -> None:
    """The key that signs releases (docs/trust.md)."""


@keys_group.command("init", short_help="Make a signing key.")
@click.option("--out", type=PATH, help="Where to [the user's configuration folder].")
@_no_password
@json_option
def init_key(out: Path | None, no_password: bool, as_json: bool) -> None:
    """Make a P-256 signing key, encrypted with a password.

    It is asked for on a terminal, else taken from KILN_SIGNING_KEY_PASSWORD.
    """
    from kiln.signing import keys

    place = (out or keys.own_key_path()).absolute()
    if os.path.lexists(place) or os.path.lexists(place.with_suffix(".pub")):
        raise UsageError(
            f"There is a key at {place} already.",
            "`kiln keys show` shows it, `kiln keys rotate` replaces it, --out makes another one.",
        )
    password = _new_password(no_password)
    keys.create_key(place, password)
    made = keys.load_key(place, password)
    keys.write_public(made)
    _show(made, as_json)


@keys_group.command("show", short_help="Show the signing key's public half.")
@json_option
def show_key(as_json: bool) -> None:
    """Show where the signing key is, its id and fingerprint, and its public half."""
    from kiln.signing import keys
    from kiln.signing.rotation import fingerprint

    public_pem = keys.load_public_key()
    in_environment = bool(os.environ.get(keys.PEM_VARIABLE))
    path = Path(keys.PEM_VARIABLE) if in_environment else keys.own_key_path()
    pem = os.environ[keys.PEM_VARIABLE].encode() if in_environment else None
    locked = keys.is_locked_pem(pem) if pem is not None else keys.is_locked(path)
    fields = {
        "path": str(path),
        "encrypted": locked,
        "id": keys.key_id(public_pem),
        "fingerprint": fingerprint(public_pem),
        "public": public_pem.decode("ascii"),
    }
    _print(fields, as_json)


@keys_group.command("rotate", short_help="Replace the signing key by a new one.")
@_no_password
@json_option
def rotate_key(no_password: bool, as_json: bool) -> None:
    """Replace the signing key with a new one, and keep the old one beside it.

    A statement signed by the old key names the new one, so that users who trust the old key can
    follow. Both passwords are asked for on a terminal; else KILN_SIGNING_KEY_PASSWORD is both.
    """
    from kiln.signing import keys
    from kiln.signing.rotation import rotate

    if os.environ.get(keys.PEM_VARIABLE):
        raise UsageError(
            f"The signing key is in {keys.PEM_VARIABLE}, which kiln cannot change.",
            "Put it into a file, name that in KILN_SIGNING_KEY, rotate, and replace the secret.",
        )
    path = keys.own_key_path().absolute()
    old_password = None
    if keys.is_locked(path):
        old_password = _password_from_environment() or _ask(f"Password of {path}", confirm=False)
    keys.load_key(path, old_password)  # report a wrong password before asking for a new one
    done = rotate(path, old_password, _new_password(no_password))
    if as_json:
        JsonReporter().event(
            "rotated",
            old=done.old.key_id,
            new=done.new.key_id,
            kept=str(done.old.private_path),
            statement=str(done.statement),
        )
        return
    _show(done.new, as_json)
    print(
        f"\nThe old key (id {done.old.key_id[:16]}) is kept in {done.old.private_path}."
        f"\nIts statement that this one follows: {done.statement}"
        "\nPublish that statement beside the new public key. Trust files that name the old key"
        f'\nfollow with: rotated = ["{done.statement.name}"]'
        "\nReleases that the old key signed keep verifying with it; the next `kiln build` signs"
        "\neverything in dist/ with the new one."
    )


def _new_password(no_password: bool) -> bytes | None:
    if no_password:
        return None
    password = _password_from_environment()
    if password is None:
        password = _ask("Password of the new key", confirm=True)
    return password


def _password_from_environment() -> bytes | None:
    from kiln.signing.keys import PASSWORD_VARIABLE

    return os.environ.get(PASSWORD_VARIABLE, "").encode() or None


def _ask(what: str, *, confirm: bool) -> bytes:
    if not sys.stdin.isatty():
        raise UsageError(
            f"{what}: there is no terminal to ask for it.",
            "Set KILN_SIGNING_KEY_PASSWORD"
            + (", or use --no-password for none." if confirm else "."),
        )
    answer: str = click.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True)
    return answer.encode()


def _show(key: object, as_json: bool) -> None:
    from kiln.signing.keys import SigningKey
    from kiln.signing.rotation import fingerprint

    assert isinstance(key, SigningKey)
    fields = {
        "path": str(key.private_path),
        "encrypted": key.password is not None,
        "id": key.key_id,
        "fingerprint": fingerprint(key.public_pem),
        "public": key.public_pem.decode("ascii"),
    }
    _print(fields, as_json)


def _print(fields: dict[str, object], as_json: bool) -> None:
    if as_json:
        JsonReporter().event("key", **fields)
        return
    print(f"path         {fields['path']}")
    print(f"encrypted    {'yes' if fields['encrypted'] else 'no'}")
    print(f"id           {fields['id']}")
    print(f"fingerprint  SHA256 {fields['fingerprint']}")
    print(f"\n{fields['public']}", end="")
