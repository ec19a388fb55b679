from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from toy_engine import serve

from kiln.core.errors import EngineUnavailableError
from kiln.running.addresses import candidates
from kiln.running.engine import Engine

FAR = "tcp://127.0.0.1:9"


@pytest.fixture
def docker_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """``.docker`` of an empty home; no variable names an engine."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    return tmp_path / ".docker"


def identity(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def add_context(folder: Path, name: str, host: str, **more: Any) -> Path:
    """Write a context as Docker's command does; return its file."""
    path = folder / "contexts" / "meta" / identity(name) / "meta.json"
    path.parent.mkdir(parents=True)
    endpoint = {"Host": host, "SkipTLSVerify": False, **more}
    path.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    return path


def choose(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"auths": {}, "currentContext": name}))


def urls() -> list[str]:
    return [address.url for address in candidates()]


def test_docker_comes_before_podman(docker_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [
        "unix:///var/run/docker.sock",
        "unix:///run/user/7/docker.sock",
        f"unix://{docker_folder}/run/docker.sock",
        "unix:///run/user/7/podman/podman.sock",
        "unix:///run/podman/podman.sock",
    ]
    assert urls() == expected
    monkeypatch.setenv("DOCKER_HOST", "")
    assert urls() == expected


def test_what_names_an_engine_in_the_order_of_docker_s_command(
    docker_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_context(docker_folder, "chosen", FAR)
    add_context(docker_folder, "héro", "unix:///another.sock")
    choose(docker_folder, "chosen")
    [address] = candidates()
    assert (address.url, address.context, address.tls) == (FAR, "chosen", None)
    assert str(address) == f"{FAR} of Docker's context 'chosen'"
    monkeypatch.setenv("DOCKER_CONTEXT", "héro")
    assert urls() == ["unix:///another.sock"]
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    assert len(urls()) == 5
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("DOCKER_CONTEXT", "unknown, and not asked for")
    assert urls() == ["tcp://127.0.0.1:1"]


def test_another_folder_of_configuration(
    docker_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    add_context(elsewhere, "there", FAR)
    choose(elsewhere, "there")
    assert len(urls()) == 5
    monkeypatch.setenv("DOCKER_CONFIG", str(elsewhere))
    assert urls() == [FAR]


def test_an_unknown_context_is_named(docker_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(docker_folder, "gone")
    with pytest.raises(EngineUnavailableError, match="context 'gone' does not exist") as caught:
        Engine.find()
    assert f"{docker_folder}/config.json names it" in caught.value.message
    assert "docker context ls" in caught.value.remedy
    monkeypatch.setenv("DOCKER_CONTEXT", "odd\x1b[31m")
    with pytest.raises(EngineUnavailableError, match="DOCKER_CONTEXT names it") as caught:
        candidates()
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "\udcff", "{}", '{"Endpoints": []}', '{"Endpoints": {"docker": 1}}',
     '{"Endpoints": {"docker": {"Host": ""}}}', '{"Endpoints": {"docker": {"Host": 7}}}'],
)  # fmt: skip
def test_a_damaged_context_is_named(docker_folder: Path, text: str) -> None:
    path = add_context(docker_folder, "broken", FAR)
    path.write_text(text, errors="surrogateescape")
    choose(docker_folder, "broken")
    with pytest.raises(EngineUnavailableError, match="context 'broken' is damaged") as caught:
        candidates()
    assert str(path) in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", '{"currentContext": 7}', '{"currentContext": ""}'])
def test_a_damaged_configuration_chooses_none(docker_folder: Path, text: str) -> None:
    docker_folder.mkdir()
    (docker_folder / "config.json").write_text(text)
    assert len(urls()) == 5


def test_an_engine_of_a_context_that_does_not_answer(docker_folder: Path) -> None:
    add_context(docker_folder, "far", FAR)
    choose(docker_folder, "far")
    with pytest.raises(EngineUnavailableError) as caught:
        Engine.find()
    assert f"Tried: {FAR} of Docker's context 'far' (no answer)." in caught.value.message


# --- TLS ---------------------------------------------------------------------------------------


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A toy engine behind TLS that wants a client's certificate; its address and the files."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    authority = _certificate(folder, "ca", None)
    _certificate(folder, "cert", authority)
    (folder / "key.pem").write_bytes((folder / "cert-key.pem").read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with serve() as toy, socket.create_server(("127.0.0.1", 0)) as listener:
        behind = ("127.0.0.1", int(toy.address.rpartition(":")[2]))
        threading.Thread(target=_unwrap, args=(listener, context, behind), daemon=True).start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}", folder
        listener.shutdown(socket.SHUT_RDWR)


def _certificate(folder: Path, name: str, issuer: Any) -> Any:
    """Write ``NAME.pem`` and ``NAME-key.pem``, signed by the issuer or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, parent = issuer or (key, subject)
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}-key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return key, subject


def _unwrap(listener: socket.socket, context: ssl.SSLContext, behind: tuple[str, int]) -> None:
    """Take one connection after the other, a request and its answer each."""
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_pass_on, args=(near, context, behind), daemon=True).start()


def _pass_on(near: socket.socket, context: ssl.SSLContext, behind: tuple[str, int]) -> None:
    try:
        with context.wrap_socket(near, server_side=True) as plain:
            while request := plain.recv(1 << 16):
                with socket.create_connection(behind) as far:
                    far.sendall(request.replace(b"keep-alive", b"close"))
                    while answer := far.recv(1 << 16):
                        plain.sendall(answer)
    except OSError:  # refused, or closed by the other side
        near.close()


@pytest.fixture
def with_tls(docker_folder: Path, secured: tuple[str, Path]) -> Callable[..., None]:
    """Choose a context of the engine behind TLS, with some of its files."""
    address, certificates = secured

    def add(*names: str, skip: bool = False) -> None:
        add_context(docker_folder, "safe", address, SkipTLSVerify=skip)
        choose(docker_folder, "safe")
        folder = docker_folder / "contexts" / "tls" / identity("safe") / "docker"
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes((certificates / name).read_bytes())

    return add


def test_tls_of_a_context(with_tls: Callable[..., None], secured: tuple[str, Path]) -> None:
    with_tls("ca.pem", "cert.pem", "key.pem")
    assert Engine.find().address == secured[0]


def test_an_engine_of_another_authority_is_refused(with_tls: Callable[..., None]) -> None:
    with_tls("cert.pem", "key.pem")  # so the public authorities count
    with pytest.raises(EngineUnavailableError, match="context 'safe'"):
        Engine.find()


def test_an_engine_is_not_verified_where_a_context_says_so(
    with_tls: Callable[..., None], secured: tuple[str, Path]
) -> None:
    with_tls("cert.pem", "key.pem", skip=True)
    assert Engine.find().address == secured[0]


def test_the_client_s_certificate_is_used(with_tls: Callable[..., None]) -> None:
    with_tls("ca.pem")
    with pytest.raises(EngineUnavailableError, match="context 'safe'"):
        Engine.find()
