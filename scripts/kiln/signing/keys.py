"""Create, load and check the key that signs releases.

An elliptic curve key (P-256; P-384 and P-521 are accepted too) in PEM. By default it is
``signing-key.pem`` in the user's configuration folder, with the public half beside it in
``signing-key.pub``. ``KILN_SIGNING_KEY`` names another file, and ``KILN_SIGNING_KEY_PEM`` holds the
PEM itself, for CI secrets. ``KILN_SIGNING_KEY_PASSWORD`` is the password of any of them.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import hashlib
import os
import pwd
import secrets
import shlex
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kiln.core.errors import SigningKeyError
from kiln.core.files import disk_guard, make_private, sync_folder, write_atomic
from kiln.core.untrusted import MalformedError, read_named
from kiln.project import bounds

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        ECDSA,
        EllipticCurve,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

KEY_VARIABLE = "KILN_SIGNING_KEY"
PEM_VARIABLE = "KILN_SIGNING_KEY_PEM"
PASSWORD_VARIABLE = "KILN_SIGNING_KEY_PASSWORD"  # noqa: S105 (a name, not a password)

#: The curves that both sigstore's key algorithms and ``model_signing`` support.
_CURVES = ("secp256r1", "secp384r1", "secp521r1")

#: The order of each curve's group, from FIPS 186-4 (D.1.2) and SEC 2.
_ORDERS = {
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": int(
        "ffffffffffffffffffffffffffffffffffffffffffffffff"
        "c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
        16,
    ),
    "secp521r1": int(
        "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
        "fa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        16,
    ),
}

_LOCKED = b"ENCRYPTED"  # in the first lines of an encrypted PEM, in either format


@dataclass(frozen=True)
class SigningKey:
    """A private key that was checked and can be used.

    Attributes:
        private_path: the PEM file; a placeholder where the key came from the environment.
        public_pem: the public half, SubjectPublicKeyInfo in PEM.
        key_id: SHA-256 of ``public_pem``, 64 hex digits; signatures name their key by it.
        password: what the PEM is encrypted with, or None.
        private_pem: the PEM itself, of a key from the environment.
    """

    private_path: Path
    public_pem: bytes
    key_id: str
    password: bytes | None = field(default=None, repr=False)
    private_pem: bytes | None = field(default=None, repr=False)

    @property
    def public_path(self) -> Path:
        """Path of the public half, beside the private one."""
        return _public_path(self.private_path)

    @contextlib.contextmanager
    def as_file(self) -> Iterator[tuple[Path, bytes | None]]:
        """Provide the key as a PEM file with its password, for a library that needs a file.

        A key from the environment is written to a private temporary folder for that time,
        encrypted with a random password.
        """
        if self.private_pem is None:
            yield self.private_path, self.password
            return
        password = secrets.token_hex(16).encode()
        with tempfile.TemporaryDirectory(prefix="kiln-key-") as folder:  # mode 0700
            path = Path(folder) / "key.pem"
            path.touch(0o600)
            path.write_bytes(_private_pem(load_private_key(self), password))
            yield path, password


def default_key_path() -> Path:
    """Return ``signing-key.pem`` in the user's configuration folder; it may not exist yet."""
    import platformdirs

    return platformdirs.user_config_path("tflite-kiln") / "signing-key.pem"


def key_id(public_pem: bytes) -> str:
    """Return the id of a public key: SHA-256 of its canonical PEM, 64 hex digits."""
    return hashlib.sha256(public_pem).hexdigest()


def canonical_public_pem(pem: bytes, name: str = "the public key") -> bytes:
    """Normalise ``pem`` to the encoding that key ids and ``kiln.pub`` use.

    Raises:
        SigningKeyError: not the PEM of a public key on a supported curve; ``name`` says which.
    """
    return _pem_of(parse_public_key(pem, name))


def parse_public_key(pem: bytes, name: str = "the public key") -> EllipticCurvePublicKey:
    """Parse the public key in ``pem``.

    Raises:
        SigningKeyError: not the PEM of a public key on a supported curve; ``name`` says which.
    """
    try:
        key = _parsed(pem)
    except ValueError:
        raise SigningKeyError(
            f"{name} is not a public key in PEM.",
            "Name the .pub file that belongs to the signing key.",
        ) from None
    if key is None:
        raise _wrong_type(name)
    return key


@functools.lru_cache(maxsize=8)
def _parsed(pem: bytes) -> EllipticCurvePublicKey | None:
    """Parse a key, None for another kind; cached, since one verification asks dozens of times."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        return None
    return key


def load_public_key(path: Path | None = None) -> bytes:
    """Load the key to trust in a verification, as canonical PEM; never create one.

    Args:
        path: a PEM file with the public key; by default the public half of the user's own
            signing key, for which no password is needed where it lies beside the private one.

    Raises:
        SigningKeyError: there is no such key, or it cannot be used.
    """
    if path is not None:
        return canonical_public_pem(_read(path), str(path))
    if not os.environ.get(PEM_VARIABLE):
        own = own_key_path()
        if own == default_key_path() and not own.exists():
            raise SigningKeyError(
                "There is no key to verify with: this user has not signed anything yet.",
                "Name the public key of the release's maker with --key FILE.",
            )
        beside = _public_path(own)
        if not os.environ.get(PASSWORD_VARIABLE) and beside.exists() and is_locked(own):
            return canonical_public_pem(_read(beside), str(beside))
    return load_or_create_key().public_pem


def load_or_create_key(path: Path | None = None) -> SigningKey:
    """Load the user's signing key, or create it at first use.

    Args:
        path: use this key, and create it if it is missing. By default the key in
            ``KILN_SIGNING_KEY_PEM``, else the one named by ``KILN_SIGNING_KEY`` (which must
            exist), else :func:`default_key_path`, created at first use, without a password.

    Raises:
        SigningKeyError: the key is missing, unreadable, open to other users, of the wrong kind,
            encrypted with another password, or does not belong to the public key beside it.
    """
    pem = os.environ.get(PEM_VARIABLE, "") if path is None else ""
    if pem:
        return _from_environment(pem.encode())
    place = own_key_path() if path is None else path
    ours = path is not None or place == default_key_path()
    if ours and not os.path.lexists(place):
        create_key(place)
    key = load_key(place)
    if ours and not key.public_path.exists():
        _write_public(key.public_path, key.public_pem)
    return key


def load_key(path: Path, password: bytes | None = None) -> SigningKey:
    """Load the key in the file ``path``; the default password is ``KILN_SIGNING_KEY_PASSWORD``.

    Raises:
        SigningKeyError: as :func:`load_or_create_key`.
    """
    return _load(path, password or _password())


def sign(key: SigningKey, data: bytes) -> bytes:
    """Sign ``data`` with ECDSA (:func:`low` form); the signature differs at each call.

    Raises:
        SigningKeyError: see :func:`load_private_key`.
    """
    private = load_private_key(key)
    return low(private.sign(data, _ecdsa(private.curve)), private.curve)


def low(signature: bytes, curve: EllipticCurve) -> bytes:
    """Convert a signature to its low form: ``s`` is at most half the group's order.

    If (r, s) is valid, so is (r, n - s): anybody can compute the other form.

    Raises:
        ValueError: these bytes are not a signature.
    """
    from cryptography.hazmat.primitives.asymmetric.utils import (
        decode_dss_signature,
        encode_dss_signature,
    )

    r, s = decode_dss_signature(signature)
    order = _ORDERS[curve.name]
    return encode_dss_signature(r, min(s, order - s))


def signature_holds(trusted: EllipticCurvePublicKey, data: bytes, signature: bytes) -> bool:
    """Whether ``signature`` over ``data`` was made by that key."""
    from cryptography.exceptions import InvalidSignature

    try:
        trusted.verify(signature, data, _ecdsa(trusted.curve))
    except InvalidSignature:
        return False
    return True


def _ecdsa(curve: EllipticCurve) -> ECDSA:
    """Choose the digest by the curve's size, as sigstore's key algorithms do."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA({256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[curve.key_size])


def load_private_key(key: SigningKey) -> EllipticCurvePrivateKey:
    """Load the private half of a key that was already checked.

    Raises:
        SigningKeyError: it is missing now, or was replaced.
    """
    pem = key.private_pem or _read_private(key.private_path)
    private = _parse_private(pem, key.private_path, key.password)
    if _pem_of(private.public_key()) != key.public_pem:
        raise SigningKeyError(
            f"The signing key {key.private_path} was replaced while it was in use.",
            "Run the command again.",
        )
    return private


def own_key_path() -> Path:
    """Return the path of the user's key: ``KILN_SIGNING_KEY``, else the default one."""
    value = os.environ.get(KEY_VARIABLE, "")
    return Path(value).expanduser() if value else default_key_path()


def is_locked(path: Path) -> bool:
    """Whether the private key in ``path`` is encrypted; SigningKeyError if it cannot be read."""
    return is_locked_pem(_read_private(path))


def is_locked_pem(pem: bytes) -> bool:
    """Whether a private key in PEM is encrypted."""
    return _LOCKED in pem


def write_public(key: SigningKey) -> None:
    """Write a key's public half beside it, if the folder is writable."""
    _write_public(key.public_path, key.public_pem)


def create_key(path: Path, password: bytes | None = None) -> None:
    """Create a P-256 key at ``path``; if another process was first, keep its key.

    Raises:
        SigningKeyError: it cannot be written there.
    """
    _create(path, password)


def _password() -> bytes | None:
    return os.environ.get(PASSWORD_VARIABLE, "").encode() or None


def _from_environment(pem: bytes) -> SigningKey:
    name = Path(PEM_VARIABLE)
    # CI secrets are often stored with escaped line ends.
    pem = pem.replace(b"\\n", b"\n").strip() + b"\n"
    password = _password() if _LOCKED in pem else None
    public_pem = _pem_of(_parse_private(pem, name, password).public_key())
    return SigningKey(name, public_pem, key_id(public_pem), password, pem)


def _public_path(private_path: Path) -> Path:
    return private_path.with_suffix(".pub")


def _load(path: Path, password: bytes | None) -> SigningKey:
    pem = _read_private(path)
    public_pem = _pem_of(_parse_private(pem, path, password).public_key())
    beside = _public_path(path)
    if beside != path and beside.exists():
        try:
            matches = canonical_public_pem(_read(beside), str(beside)) == public_pem
        except SigningKeyError:
            matches = False
        if not matches:
            raise SigningKeyError(
                f"{beside} is not the public half of {path}.",
                f"If {path.name} is the right key, remove {beside}; kiln writes it again.",
            )
    locked = _LOCKED in pem
    return SigningKey(path, public_pem, key_id(public_pem), password if locked else None)


def _read_private(path: Path) -> bytes:
    """Read the file's bytes; refuse it if other users can read, change or replace it."""
    try:
        refuse_open_folders(path)
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & 0o077:
                raise SigningKeyError(
                    f"The signing key {path} is open to other users "
                    f"(mode {stat.S_IMODE(mode):04o}).",
                    f"Run `chmod 600 {path}`; if others have had access to it, make a new key.",
                )
            data = file.read(bounds.KEY.most + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(data) > bounds.KEY.most:
        raise _no_key(path, f"is larger than {bounds.KEY.most:,} bytes")
    return data


def refuse_open_folders(path: Path) -> None:
    """Refuse a key path where another user could replace the key or a folder above it.

    Both the path as named and the targets of links on it are checked. In a folder with the sticky
    bit (``/tmp``) users cannot touch each other's files.

    Args:
        path: the file; it need not exist.

    Raises:
        SigningKeyError: a folder above it may be written to by others.
        OSError: one cannot be examined.
    """
    named, real = path.absolute(), Path(os.path.realpath(path))
    for folder in dict.fromkeys([named.parent, *real.parents, *named.parents]):
        try:
            about = folder.stat()
        except FileNotFoundError:
            continue  # only a user who can write to the folder above can create it
        if about.st_mode & stat.S_ISVTX:
            continue
        # A group whose only member is the owner is as good as the owner: many systems give each
        # user one, with a umask that makes folders group-writable.
        nearest = folder in (named.parent, real.parent)
        group = about.st_mode & stat.S_IWGRP and (nearest or not _is_alone(about))
        if group or about.st_mode & stat.S_IWOTH:
            raise SigningKeyError(
                f"The folder {folder} of the signing key {path} may be written to by other users "
                f"(mode {stat.S_IMODE(about.st_mode):04o}): they can replace the key.",
                f"Run `chmod go-w {shlex.quote(str(folder))}`; if others may have changed "
                "something there, make a new key.",
            )


def _is_alone(about: os.stat_result) -> bool:
    """Whether a folder's group is the owner's private group, without other members."""
    try:
        owner = pwd.getpwuid(about.st_uid).pw_name
        group = grp.getgrgid(about.st_gid)
    except KeyError:
        return False
    return group.gr_name == owner and set(group.gr_mem) <= {owner}


def _read(path: Path) -> bytes:
    try:
        return read_named(path, bounds.KEY.most)
    except OSError as error:
        raise _unreadable(path, error) from None
    except MalformedError as error:
        raise _no_key(path, str(error)) from None


def _no_key(path: Path, why: str) -> SigningKeyError:
    return SigningKeyError(f"{path} {why}: this is not a key.", "Name a key in PEM.")


def _parse_private(pem: bytes, path: Path, password: bytes | None) -> EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    locked = _LOCKED in pem
    if locked and password is None:
        raise SigningKeyError(
            f"The signing key {path} is locked with a password.",
            f"Set {PASSWORD_VARIABLE} to it.",
        )
    try:
        key = load_pem_private_key(pem, password if locked else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if locked:
            raise SigningKeyError(
                f"The password does not open the signing key {path}.",
                f"Correct {PASSWORD_VARIABLE}.",
            ) from None
        raise SigningKeyError(
            f"{path} is not a private key in PEM.",
            f"Point {KEY_VARIABLE} to an elliptic curve key, or move the file away to have "
            "a new one made.",
        ) from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise _wrong_type(str(path))
    return key


def _pem_of(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _private_pem(key: EllipticCurvePrivateKey, password: bytes | None) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    locked = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)


def _create(path: Path, password: bytes | None) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = _private_pem(ec.generate_private_key(ec.SECP256R1()), password)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        with disk_guard(path):
            make_private(path.parent)
            if path == default_key_path():
                # kiln's own folder: close it to others even if it already existed.
                path.parent.chmod(0o700)
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, 0o600)  # independent of the umask
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            # Unlike a rename, a link never replaces a key that another process just created.
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(aside)
            sync_folder(path.parent)
    except OSError as error:
        raise SigningKeyError(
            f"No signing key can be made at {path}: {error.strerror or error}.",
            f"Make that folder writable, or set {KEY_VARIABLE} to a key of yours.",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _write_public(path: Path, public_pem: bytes) -> None:
    # Only a convenience: a read-only folder is not a failure.
    with contextlib.suppress(OSError):
        write_atomic(path, public_pem, 0o644)


def _unreadable(path: Path, error: OSError) -> SigningKeyError:
    return SigningKeyError(
        f"The key {path} cannot be read: {error.strerror or error}.",
        "Check the path and its owner.",
    )


def _wrong_type(name: str) -> SigningKeyError:
    return SigningKeyError(
        f"{name} is not an elliptic curve key on P-256, P-384 or P-521.",
        "Make one with `openssl ecparam -name prime256v1 -genkey -noout`.",
    )
