"""From one key to the next: whole at every moment, and others can follow."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from places import SCRIPTS

from kiln.cli.keys import keys_group
from kiln.core.errors import KilnError, SigningKeyError, UsageError, VerificationError
from kiln.signing import dsse, keys
from kiln.signing.rotation import PREDICATE_TYPE, fingerprint, follow, rotate, rotation_statement


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in (keys.KEY_VARIABLE, keys.PEM_VARIABLE, keys.PASSWORD_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def kiln(*arguments: str, **options: Any) -> Result:
    result = CliRunner().invoke(keys_group, arguments, **options)
    if result.exception is not None and not isinstance(result.exception, KilnError | SystemExit):
        raise result.exception
    return result


def told(result: Result) -> dict[str, Any]:
    assert result.exception is None, result.exception
    return dict(json.loads(result.stdout.splitlines()[-1]))


def test_the_new_key_takes_the_old_one_s_place(tmp_path: Path) -> None:
    place = tmp_path / "k.pem"
    keys.create_key(place, b"old")
    first = keys.load_key(place, b"old")
    done = rotate(place, b"old", b"new")
    assert (done.old.key_id, done.new.private_path) == (first.key_id, place)
    assert done.new.key_id != first.key_id
    assert keys.load_key(place, b"new").key_id == done.new.key_id
    kept = tmp_path / f"k-{first.key_id[:16]}.pem"
    assert done.old.private_path == kept
    assert keys.load_key(kept, b"old").key_id == first.key_id
    for path in (place, kept):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert keys.load_public_key(path.with_suffix(".pub"))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("k.pem", "k.pub", kept.name, kept.with_suffix(".pub").name, done.statement.name)
    }
    assert follow(done.statement.read_bytes(), first.public_pem) == done.new.public_pem


def test_twice_in_a_row_makes_a_chain(tmp_path: Path) -> None:
    place = tmp_path / "k.pem"
    keys.create_key(place)
    first = keys.load_key(place).public_pem
    one, two = rotate(place, None, None), rotate(place, None, None)
    middle = follow(one.statement.read_bytes(), first)
    assert follow(two.statement.read_bytes(), middle) == two.new.public_pem
    with pytest.raises(VerificationError):
        follow(two.statement.read_bytes(), first)


def test_what_a_killed_rotation_left_does_no_harm(tmp_path: Path) -> None:
    place = tmp_path / "k.pem"
    keys.create_key(place)
    before = keys.load_key(place)
    keys.create_key(tmp_path / "k-new.pem")
    done = rotate(place, None, None)
    assert done.old.key_id == before.key_id
    assert not (tmp_path / "k-new.pem").exists()


def test_a_wrong_password_changes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "k.pem"
    keys.create_key(place, b"old")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SigningKeyError, match="does not open"):
        rotate(place, b"wrong", b"new")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_only_a_statement_of_that_form_is_followed(tmp_path: Path) -> None:
    place = tmp_path / "k.pem"
    keys.create_key(place)
    old = keys.load_key(place)
    keys.create_key(tmp_path / "n.pem")
    new = keys.load_key(tmp_path / "n.pem").public_pem
    good = rotation_statement(old.public_pem, new)
    assert follow(dsse.seal(good, old), old.public_pem) == new
    bad: list[dict[str, Any]] = [
        {**good, "predicateType": "https://slsa.dev/provenance/v1"},
        {**good, "subject": []},
        {**good, "predicate": {**good["predicate"], "old": "0" * 64}},
        {**good, "predicate": {**good["predicate"], "publicKey": "junk"}},
        {**good, "predicate": {**good["predicate"], "publicKey": 1}},
        {**good, "predicate": None},
    ]
    for statement in bad:
        with pytest.raises(VerificationError):
            follow(dsse.seal(statement, old), old.public_pem)
    data = dsse.seal(good, old)
    for at in range(0, len(data), 7):
        with pytest.raises(VerificationError):
            follow(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], old.public_pem)


def test_a_fingerprint_is_what_openssl_shows(tmp_path: Path) -> None:
    keys.create_key(tmp_path / "k.pem")
    pem = keys.load_key(tmp_path / "k.pem").public_pem
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=pem, capture_output=True, check=True
    ).stdout
    shown = subprocess.run(
        ["openssl", "dgst", "-sha256", "-r"], input=der, capture_output=True, check=True
    ).stdout
    assert shown.decode().split()[0] == fingerprint(pem)


# --- the commands ------------------------------------------------------------------------------


def test_without_a_terminal_a_password_must_be_decided_on() -> None:
    error = kiln("init").exception
    assert isinstance(error, UsageError)
    assert "KILN_SIGNING_KEY_PASSWORD" in error.remedy
    assert "--no-password" in error.remedy
    assert not keys.default_key_path().exists()


def test_init_show_rotate(monkeypatch: pytest.MonkeyPatch) -> None:
    made = told(kiln("init", "--json", env={keys.PASSWORD_VARIABLE: "secret"}))
    assert made["encrypted"] is True
    assert told(kiln("show", "--json")) == made, "showing needs no password"
    assert isinstance(kiln("init", "--no-password").exception, UsageError), "never overwritten"
    assert isinstance(kiln("rotate").exception, UsageError)
    done = told(kiln("rotate", "--json", env={keys.PASSWORD_VARIABLE: "secret"}))
    assert done["old"] == made["id"]
    shown = told(kiln("show", "--json"))
    assert shown["id"] == done["new"]
    assert shown["encrypted"] is True
    statement = dsse.open_bundle(Path(done["statement"]).read_bytes(), made["public"].encode())
    assert statement["predicateType"] == PREDICATE_TYPE
    text = kiln("rotate", "--no-password", env={keys.PASSWORD_VARIABLE: "secret"}).stdout
    assert "encrypted    no" in text
    assert "rotated = " in text


def test_a_key_elsewhere_for_a_ci(tmp_path: Path) -> None:
    made = told(kiln("init", "--out", str(tmp_path / "ci.pem"), "--no-password", "--json"))
    assert made["path"] == str(tmp_path / "ci.pem")
    assert (tmp_path / "ci.pub").read_text() == made["public"]
    assert not keys.default_key_path().exists()
    secret = (tmp_path / "ci.pem").read_text()
    shown = told(kiln("show", "--json", env={keys.PEM_VARIABLE: secret}))
    assert (shown["id"], shown["path"]) == (made["id"], keys.PEM_VARIABLE)
    error = kiln("rotate", env={keys.PEM_VARIABLE: secret}).exception
    assert isinstance(error, UsageError)
    assert keys.PEM_VARIABLE in error.message


def on_a_terminal(home: Path, arguments: list[str], answers: list[str]) -> str:
    """Run ``kiln`` on a terminal of its own and answer each question; what it showed."""
    child, terminal = pty.fork()
    if child == 0:
        scripts = str(SCRIPTS)
        environment = {"PYTHONPATH": scripts, "XDG_CONFIG_HOME": str(home), "HOME": str(home)}
        os.execve(sys.executable, [sys.executable, "-m", "kiln.cli", *arguments], environment)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while data := os.read(terminal, 1024):
            shown += data
            if data.rstrip().endswith(b":") and answers:
                os.write(terminal, answers.pop(0).encode() + b"\n")
    os.waitpid(child, 0)
    os.close(terminal)
    return shown.decode()


def test_passwords_are_asked_for_on_a_terminal(tmp_path: Path) -> None:
    said = on_a_terminal(tmp_path, ["keys", "init"], ["", "one", "two", "secret", "secret"])
    assert "encrypted    yes" in said
    assert "secret" not in said
    place = tmp_path / "tflite-kiln" / "signing-key.pem"
    first = keys.load_key(place, b"secret")
    said = on_a_terminal(tmp_path, ["keys", "rotate"], ["wrong"])
    assert "does not open" in said
    assert keys.load_key(place, b"secret") == first
    on_a_terminal(tmp_path, ["keys", "rotate"], ["secret", "new", "new"])
    assert keys.load_key(place, b"new").key_id != first.key_id
