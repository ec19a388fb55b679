"""Small releases, really published and signed: three models, of four variants if not fewer."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toy_release import toy_model

from kiln.core.digest import sha256_bytes
from kiln.release import publish
from kiln.release.layout import KEY_FILE, LATENCY_FILE, PAGE_FILE, SUMS_FILE, sums
from kiln.signing.keys import SigningKey
from kiln.signing.signer import KeySigner, Signer
from kiln.signing.statement_names import STATEMENT_TYPE

MODELS = ("alpha", "beta", "gamma_v2")
VARIANTS = ("float32", "float16", "dynamic", "int8")


def make_release(
    dist: Path, signer: Signer | SigningKey, seed: int, variants: Sequence[str] = VARIANTS
) -> None:
    """Publish all models into ``dist``; another seed gives other contents, but the same names."""
    rng = random.Random(seed)
    if isinstance(signer, SigningKey):
        signer = KeySigner(signer)
    for model in MODELS:
        artefacts = {one: b"\x1c\0\0\0TFL3" + rng.randbytes(300) for one in variants}
        more = {"labelmap.txt": f"person\n{model} {seed}\n".encode()}
        with tempfile.TemporaryDirectory() as project:
            made = toy_model(Path(project), model, artefacts, more, sbom=b'{"seed": %d}' % seed)
        publish.publish(dist, model, made.files, signer, made.statements)
    page = f"<!doctype html><title>Release {seed}</title>".encode()
    latency = b'{"seed": %d}\n' % seed
    publish.publish_page(dist, {PAGE_FILE: page, LATENCY_FILE: latency}, signer)


def statement(kind: str, name: str, content: bytes, predicate: dict[str, Any]) -> dict[str, Any]:
    """An in-toto statement about one file."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256_bytes(content)}}],
        "predicateType": kind,
        "predicate": predicate,
    }


def sums_of(dist: Path) -> bytes:
    """What ``SHA256SUMS`` would say of what is there; anybody can write that."""
    found = {}
    for path in dist.rglob("*"):
        name = path.relative_to(dist).as_posix()
        if path.is_file() and not path.is_symlink() and name not in APART:
            found[name] = sha256_bytes(path.read_bytes())
    return sums(found)


APART = (SUMS_FILE, "release.sigstore.json")
__all__ = ["APART", "KEY_FILE", "MODELS", "VARIANTS", "make_release", "statement", "sums_of"]
