"""The signing key: made once, kept private, refused where it cannot be trusted."""

from __future__ import annotations

import grp
import multiprocessing
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from patience import PATIENCE

from kiln.core.errors import SigningKeyError
from kiln.signing import keys, model_signature

AnyKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(keys.KEY_VARIABLE, raising=False)
    monkeypatch.delenv(keys.PASSWORD_VARIABLE, raising=False)
    monkeypatch.delenv(keys.PEM_VARIABLE, raising=False)


def write_key(
    path: Path,
    key: AnyKey,
    encryption: KeySerializationEncryption | None = None,
    form: PrivateFormat = PrivateFormat.PKCS8,
) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()))
    path.chmod(0o600)
    return path


def refusal(path: Path | None = None) -> SigningKeyError:
    with pytest.raises(SigningKeyError) as caught:
        keys.load_or_create_key(path)
    assert caught.value.remedy
    return caught.value


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_default_key_is_made_at_first_use_and_found_again() -> None:
    place = keys.default_key_path()
    assert not place.exists()
    key = keys.load_or_create_key()
    assert key.private_path == place
    assert (mode(place), mode(place.parent)) == (0o600, 0o700)
    assert key.public_path.read_bytes() == key.public_pem
    assert key.key_id == keys.key_id(key.public_pem)
    assert sorted(p.name for p in place.parent.iterdir()) == ["signing-key.pem", "signing-key.pub"]
    before = place.read_bytes()
    assert keys.load_or_create_key() == key
    assert place.read_bytes() == before
    assert keys.parse_public_key(key.public_pem).curve.name == "secp256r1"


def test_a_folder_that_was_open_is_closed_but_only_our_own(tmp_path: Path) -> None:
    place = keys.default_key_path()
    place.parent.mkdir(parents=True, mode=0o755)
    place.parent.chmod(0o755)
    keys.load_or_create_key()
    assert mode(place.parent) == 0o700
    tmp_path.chmod(0o755)
    keys.load_or_create_key(tmp_path / "k.pem")
    assert mode(tmp_path) == 0o755


def test_a_lost_public_half_is_written_anew() -> None:
    key = keys.load_or_create_key()
    key.public_path.unlink()
    assert keys.load_or_create_key() == key
    assert key.public_path.read_bytes() == key.public_pem


def _make(place: Path, barrier: object, out: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    out.put(keys.load_or_create_key(place).key_id)  # type: ignore[attr-defined]


def test_processes_that_make_the_key_at_once_get_the_same_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        place = tmp_path / str(attempt) / "k.pem"
        barrier, out = context.Barrier(4), context.Queue()
        workers = [context.Process(target=_make, args=(place, barrier, out)) for _ in range(4)]
        for worker in workers:
            worker.start()
        ids = {out.get(timeout=PATIENCE) for _ in workers}
        for worker in workers:
            worker.join(PATIENCE)
        assert ids == {keys.load_or_create_key(place).key_id}
        assert sorted(p.name for p in place.parent.iterdir()) == ["k.pem", "k.pub"]


def test_the_environment_names_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ec.generate_private_key(ec.SECP384R1())
    place = write_key(tmp_path / "mine.pem", made)
    monkeypatch.setenv(keys.KEY_VARIABLE, str(place))
    key = keys.load_or_create_key()
    assert key.private_path == place
    assert key.password is None
    assert not keys.default_key_path().exists()
    assert not key.public_path.exists(), "kiln does not write beside a key of the user's"
    assert keys.load_public_key() == key.public_pem
    place.unlink()
    assert str(place) in refusal().message, "a key that is named must exist"


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_locked_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: PrivateFormat) -> None:
    made = ec.generate_private_key(ec.SECP256R1())
    place = write_key(tmp_path / "k.pem", made, BestAvailableEncryption(b"secret"), form)
    monkeypatch.setenv(keys.KEY_VARIABLE, str(place))
    assert "locked" in refusal().message
    monkeypatch.setenv(keys.PASSWORD_VARIABLE, "wrong")
    error = refusal()
    assert "password does not open" in error.message
    assert keys.PASSWORD_VARIABLE in error.remedy
    monkeypatch.setenv(keys.PASSWORD_VARIABLE, "secret")
    key = keys.load_or_create_key()
    assert key.password == b"secret"
    assert "secret" not in repr(key)


def test_a_password_for_an_open_key_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_key(tmp_path / "k.pem", ec.generate_private_key(ec.SECP256R1()))
    monkeypatch.setenv(keys.KEY_VARIABLE, str(place))
    monkeypatch.setenv(keys.PASSWORD_VARIABLE, "secret")
    assert keys.load_or_create_key().password is None


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o602])
def test_a_key_open_to_others_is_refused(bits: int) -> None:
    place = keys.load_or_create_key().private_path
    place.chmod(bits)
    error = refusal()
    assert "open to other users" in error.message
    assert f"chmod 600 {place}" in error.remedy


@pytest.mark.parametrize("bits", [0o777, 0o770, 0o720, 0o702])
def test_a_folder_open_to_others_is_refused(bits: int) -> None:
    """They could not read the key, but exchange it."""
    keys.load_or_create_key()
    folder = keys.default_key_path().parent
    folder.chmod(bits)
    for use in (
        keys.load_or_create_key,
        keys.load_public_key,
        lambda: keys.is_locked(keys.default_key_path()),
    ):
        with pytest.raises(SigningKeyError) as caught:
            use()
        assert f"{folder} of the signing key" in caught.value.message
        assert f"mode {bits:04o}" in caught.value.message
        assert f"chmod go-w {folder}" in caught.value.remedy
    subprocess.run(["chmod", "go-w", folder], check=True)
    keys.load_or_create_key()


def test_a_folder_further_up_counts_too(tmp_path: Path) -> None:
    place = tmp_path / "shared" / "mine" / "k.pem"
    key = keys.load_or_create_key(place)
    shared = tmp_path / "shared"
    shared.chmod(0o777)
    assert f"The folder {shared} of" in refusal(place).message
    shared.chmod(0o1777)  # as /tmp: nobody but us can rename what is ours
    assert keys.load_or_create_key(place) == key
    shared.chmod(0o755)
    assert keys.load_or_create_key(place) == key


def test_folders_are_followed_where_links_lead(tmp_path: Path) -> None:
    place = tmp_path / "real" / "k.pem"
    keys.load_or_create_key(place)
    (tmp_path / "open").mkdir()
    link = tmp_path / "open" / "k.pem"
    link.symlink_to(place)
    (tmp_path / "open").chmod(0o777)  # the link could be exchanged
    assert str(tmp_path / "open") in refusal(link).message
    (tmp_path / "open").chmod(0o755)
    keys.load_key(link)
    place.parent.chmod(0o777)  # what it leads to could be
    assert str(place.parent) in refusal(link).message


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to another group needs root")
def test_a_group_of_one_is_nobody_else(tmp_path: Path) -> None:
    place = tmp_path / "home" / "mine" / "k.pem"
    keys.load_or_create_key(place)
    home = tmp_path / "home"
    home.chmod(0o775)
    keys.load_or_create_key(place)  # root's own group
    os.chown(home, 0, grp.getgrnam("users").gr_gid)
    assert "may be written to by other users" in refusal(place).message
    os.chown(home, 0, 54321)  # a group without a name may have any members
    assert "may be written to by other users" in refusal(place).message


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_folders_made_for_a_key_are_closed_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    place = tmp_path / "a" / "b" / "k.pem"
    before = os.umask(umask)
    try:
        keys.load_or_create_key(place)
    finally:
        os.umask(before)
    assert [mode(path) for path in (place, place.parent, place.parent.parent)] == [
        0o600,
        0o700,
        0o700,
    ]


def test_other_kinds_of_key_are_refused(tmp_path: Path) -> None:
    others: list[AnyKey] = [
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256K1()),
    ]
    for number, key in enumerate(others):
        error = refusal(write_key(tmp_path / f"{number}.pem", key))
        assert "P-256" in error.message
        assert "prime256v1" in error.remedy


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00\xff", b"-----BEGIN PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "k.pem"
    place.write_bytes(content)
    place.chmod(0o600)
    assert "not a private key" in refusal(place).message


def test_a_public_key_in_the_private_ones_place_is_refused(tmp_path: Path) -> None:
    public = keys.load_or_create_key().public_path
    public.chmod(0o600)
    assert "not a private key" in refusal(public).message


@pytest.mark.parametrize("content", [b"junk", None])
def test_a_public_half_that_does_not_belong_is_refused(content: bytes | None) -> None:
    key = keys.load_or_create_key()
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    key.public_path.write_bytes(content or pem)
    error = refusal()
    assert str(key.public_path) in error.message
    assert "not the public half" in error.message


def test_a_folder_in_the_keys_place(tmp_path: Path) -> None:
    place = tmp_path / "k.pem"
    place.mkdir()
    assert str(place) in refusal(place).message
    (tmp_path / "file").write_bytes(b"")
    assert "can be made" in refusal(tmp_path / "file" / "k.pem").message


def test_the_key_to_trust_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyError) as caught:
        keys.load_public_key()
    assert "--key" in caught.value.remedy
    assert not keys.default_key_path().exists()
    key = keys.load_or_create_key()
    assert keys.load_public_key() == key.public_pem
    crlf = tmp_path / "crlf.pub"
    crlf.write_bytes(key.public_pem.replace(b"\n", b"\r\n"))
    assert keys.load_public_key(crlf) == key.public_pem
    for bad in (tmp_path / "nowhere", key.private_path, tmp_path):
        with pytest.raises(SigningKeyError, match=str(bad)):
            keys.load_public_key(bad)


# --- keys from the environment, and locked ones ------------------------------------------------


def pem_of(key: AnyKey, password: bytes | None = None) -> str:
    locked = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked).decode()


@pytest.mark.parametrize("password", [None, b"secret"])
@pytest.mark.parametrize("escaped", [False, True])
def test_a_key_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: bytes | None, escaped: bool
) -> None:
    made = ec.generate_private_key(ec.SECP256R1())
    pem = pem_of(made, password)
    monkeypatch.setenv(keys.PEM_VARIABLE, pem.replace("\n", "\\n") if escaped else pem)
    monkeypatch.setenv(keys.KEY_VARIABLE, str(tmp_path / "not asked"))
    if password:
        assert keys.PASSWORD_VARIABLE in refusal().remedy
        monkeypatch.setenv(keys.PASSWORD_VARIABLE, password.decode())
    key = keys.load_or_create_key()
    assert keys.load_private_key(key).private_numbers() == made.private_numbers()
    assert keys.load_public_key() == key.public_pem
    assert "PRIVATE" not in repr(key)
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_key_in_the_environment_lies_on_no_disk_in_the_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = ec.generate_private_key(ec.SECP256R1())
    monkeypatch.setenv(keys.PEM_VARIABLE, pem_of(made))
    key = keys.load_or_create_key()
    with key.as_file() as (path, password):
        assert mode(path) == 0o600
        assert mode(path.parent) == 0o700
        assert b"ENCRYPTED" in path.read_bytes()
        again = keys.load_key(path, password)
        assert again.public_pem == key.public_pem
    assert not list(tmp_path.iterdir())


def test_a_key_in_the_environment_signs_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(keys.PEM_VARIABLE, pem_of(ec.generate_private_key(ec.SECP384R1())))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("a")
    key = keys.load_or_create_key()
    model_signature.sign_folder(tmp_path / "model", key)
    model_signature.verify_folder(tmp_path / "model", key.public_pem)


@pytest.mark.parametrize("text", ["junk", "-----BEGIN PRIVATE KEY-----\nAA==\n"])
def test_junk_in_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(keys.PEM_VARIABLE, text)
    assert keys.PEM_VARIABLE in refusal().message


def test_the_default_key_may_be_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    keys.create_key(keys.default_key_path(), b"secret")
    assert "locked" in refusal().message
    monkeypatch.setenv(keys.PASSWORD_VARIABLE, "secret")
    key = keys.load_or_create_key()
    assert key.password == b"secret"
    monkeypatch.delenv(keys.PASSWORD_VARIABLE)
    assert keys.load_public_key() == key.public_pem, "verifying asks for no password"
    key.public_path.unlink()
    with pytest.raises(SigningKeyError, match="locked"):
        keys.load_public_key()
