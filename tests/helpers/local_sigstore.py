"""A certificate authority, two logs and an issuer of identities on 127.0.0.1.

What Fulcio, Rekor and their certificate log do, as far as signing and verifying need it, with
keys made on the spot: real certificates with a signed certificate timestamp inside, a real Merkle
tree with inclusion proofs, signed checkpoints and entry timestamps. Only who the keys belong to
is different, so that the sigstore library runs all of its own code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kiln.signing import keyless

ISSUER = "https://token.example.invalid"
WORKFLOW = "https://git.example.invalid/me/models/.github/workflows/release.yml@refs/tags/v1"

_SHA256 = hashes.SHA256()
_ECDSA = ec.ECDSA(_SHA256)
_ORIGIN = "log.example.invalid"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _key_id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(_der(key)).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _root(leaves: list[bytes]) -> bytes:
    """RFC 6962's tree hash."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return _node(_root(leaves[:half]), _root(leaves[half:]))


def _path(at: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962's audit path, lowest level first."""
    if len(leaves) == 1:
        return []
    half = 1 << (len(leaves) - 1).bit_length() - 1
    if at < half:
        return [*_path(at, leaves[:half]), _root(leaves[half:])]
    return [*_path(at - half, leaves[half:]), _root(leaves[:half])]


class LocalSigstore:
    """The keys and the log; :meth:`serve` puts them behind an address."""

    def __init__(self) -> None:
        self.ca, self.ct, self.rekor = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self.leaves: list[bytes] = [hashlib.sha256(b"\x00first").digest()]
        self.url = ""
        self.started = datetime.now(timezone.utc) - timedelta(days=1)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A local authority")])
        self.root = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.ca.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.started)
            .not_valid_after(self.started + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(_usage(cert_sign=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.ca.public_key()), critical=False
            )
            .sign(self.ca, _SHA256)
        )

    def token(self, subject: str = WORKFLOW, issuer: str = ISSUER) -> str:
        """An identity token; who signed it does not matter to anyone here."""
        now = datetime.now(timezone.utc)
        claims = {
            "iss": issuer,
            "sub": subject,
            "aud": "sigstore",
            "iat": now,
            "exp": now + timedelta(minutes=10),
        }
        return jwt.encode(claims, "no secret, and long enough for its algorithm", "HS256")

    # --- Fulcio ------------------------------------------------------------------------------

    def certificate(self, csr_pem: bytes, token: str) -> x509.Certificate:
        """A short-lived certificate with the certificate log's timestamp inside."""
        claims = jwt.decode(token, options={"verify_signature": False})
        request = x509.load_pem_x509_csr(csr_pem)
        now = datetime.now(timezone.utc).replace(microsecond=0)
        issuer = claims["iss"].encode()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=5))
            .not_valid_after(now + timedelta(minutes=10))
            .add_extension(_usage(cert_sign=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca.public_key()), False
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(claims["sub"])]),
                critical=True,
            )
            .add_extension(_extension("1.3.6.1.4.1.57264.1.1", issuer), critical=False)
            .add_extension(
                _extension("1.3.6.1.4.1.57264.1.8", bytes([12, len(issuer)]) + issuer), False
            )
        )
        tbs = builder.sign(self.ca, _SHA256).tbs_certificate_bytes
        return builder.add_extension(
            _extension("1.3.6.1.4.1.11129.2.4.2", self._timestamp(tbs, now)), critical=False
        ).sign(self.ca, _SHA256)

    def _timestamp(self, tbs: bytes, now: datetime) -> bytes:
        """RFC 6962's list of one signed certificate timestamp, in an OCTET STRING."""
        millis = int(now.timestamp() * 1000)
        entry = _key_id(self.ca) + len(tbs).to_bytes(3, "big") + tbs
        signed = struct.pack("!BBQH", 0, 0, millis, 1) + entry + b"\0\0"
        signature = self.ct.sign(signed, _ECDSA)
        sct = struct.pack("!B32sQH", 0, _key_id(self.ct), millis, 0)
        sct += struct.pack("!BBH", 4, 3, len(signature)) + signature
        listed = struct.pack("!HH", len(sct) + 2, len(sct)) + sct
        return (
            b"\x04"
            + (bytes([len(listed)]) if len(listed) < 128 else b"\x81" + bytes([len(listed)]))
            + listed
        )

    # --- Rekor -------------------------------------------------------------------------------

    def log(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """Take a DSSE envelope into the log; what Rekor's first version answers."""
        content = proposed["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        payload = base64.b64decode(envelope["payload"])
        body = rfc8785.dumps(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": _hash(content["envelope"].encode()),
                    "payloadHash": _hash(payload),
                    "signatures": [
                        {"signature": one["sig"], "verifier": content["verifiers"][0]}
                        for one in envelope["signatures"]
                    ],
                },
            }
        )
        at = len(self.leaves)
        self.leaves.append(hashlib.sha256(b"\x00" + body).digest())
        root = _root(self.leaves)
        note = f"{_ORIGIN} - 1\n{len(self.leaves)}\n{_b64(root)}\n"
        signature = _key_id(self.rekor)[:4] + self.rekor.sign(note.encode(), _ECDSA)
        entry: dict[str, Any] = {
            "body": _b64(body),
            "integratedTime": int(datetime.now(timezone.utc).timestamp()),
            "logID": _key_id(self.rekor).hex(),
            "logIndex": at + 1000,  # as in a log of several shards
        }
        promise = self.rekor.sign(rfc8785.dumps(entry), _ECDSA)
        entry["verification"] = {
            "inclusionProof": {
                "checkpoint": f"{note}\n\u2014 {_ORIGIN} {_b64(signature)}\n",
                "hashes": [one.hex() for one in _path(at, self.leaves)],
                "logIndex": at,
                "rootHash": root.hex(),
                "treeSize": len(self.leaves),
            },
            "signedEntryTimestamp": _b64(promise),
        }
        return {f"{at:080x}": entry}

    # --- what clients are told ---------------------------------------------------------------

    def trusted_root(self) -> dict[str, Any]:
        """``trusted_root.json``."""
        since = {"start": self.started.strftime("%Y-%m-%dT%H:%M:%SZ")}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            return {
                "baseUrl": self.url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": _b64(_der(key)),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": since,
                },
                "logId": {"keyId": _b64(_key_id(key))},
            }

        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.rekor)],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "local", "commonName": "A local authority"},
                    "uri": self.url,
                    "certChain": {
                        "certificates": [{"rawBytes": _b64(self.root.public_bytes(Encoding.DER))}]
                    },
                    "validFor": since,
                }
            ],
            "ctlogs": [log(self.ct)],
            "timestampAuthorities": [],
        }

    def announce(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        """Name all this in the environment, with ``config.json`` and ``root.json`` in ``folder``.

        No CI says who it is from then on: the token that is named does.
        """
        (folder / "config.json").write_text(json.dumps(self.client_config()))
        (folder / "root.json").write_text(json.dumps(self.trusted_root()))
        patch.setenv(keyless.CONFIG_VARIABLE, str(folder / "config.json"))
        patch.setenv(keyless.TOKEN_VARIABLE, self.token())
        for name in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"):
            patch.delenv(name, raising=False)

    def client_config(self) -> dict[str, Any]:
        """The client trust configuration that ``KILN_SIGSTORE_CONFIG`` names."""
        since = {"start": self.started.strftime("%Y-%m-%dT%H:%M:%SZ")}
        service = {
            "url": self.url, "majorApiVersion": 1, "validFor": since, "operator": "local"
        }  # fmt: skip
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": self.trusted_root(),
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service],
                "oidcUrls": [service],
                "rekorTlogUrls": [service],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": [],
                "tsaConfig": {"selector": "ANY"},
            },
        }

    @contextmanager
    def serve(self) -> Iterator[LocalSigstore]:
        """Answer at :attr:`url` while this lasts."""
        sigstore = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, code: int, content: dict[str, Any]) -> None:
                data = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self._answer(
                    200,
                    {
                        "issuer": sigstore.url,
                        "authorization_endpoint": f"{sigstore.url}/auth",
                        "token_endpoint": f"{sigstore.url}/token",
                    },
                )

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/api/v1/log/entries":
                    self._answer(201, sigstore.log(asked))
                    return
                csr = base64.b64decode(asked["certificateSigningRequest"])
                token = self.headers["Authorization"].removeprefix("Bearer ")
                made = [sigstore.certificate(csr, token), sigstore.root]
                pems = [one.public_bytes(Encoding.PEM).decode() for one in made]
                self._answer(
                    200, {"signedCertificateEmbeddedSct": {"chain": {"certificates": pems}}}
                )

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _hash(data: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}


def _extension(oid: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)


def _usage(*, cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=cert_sign,
        encipher_only=False,
        decipher_only=False,
    )
