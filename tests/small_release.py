"""Small releases, really published and signed: three models of four variants each."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from kiln import release
from kiln.attest import dsse
from kiln.attest.names import (
    PROVENANCE_TYPE,
    STATEMENT_TYPE,
    TEST_RESULT_TYPE,
    provenance_path,
    result_path,
)
from kiln.digest import canonical_json, sha256_bytes
from kiln.keys import SigningKey

MODELS = ("alpha", "beta", "gamma_v2")
VARIANTS = ("float32", "float16", "dynamic", "int8")


def statement(kind: str, name: str, content: bytes, predicate: dict[str, Any]) -> dict[str, Any]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256_bytes(content)}}],
        "predicateType": kind,
        "predicate": predicate,
    }


def make_release(dist: Path, key: SigningKey, seed: int) -> None:
    """Publish all models into ``dist``; another seed gives other contents, but the same names."""
    rng = random.Random(seed)
    for model in MODELS:
        files: dict[str, bytes] = {
            "labelmap.txt": f"person\n{model} {seed}\n".encode(),
            "conversion.json": canonical_json({"model": model, "seed": seed}) + b"\n",
            "checks.json": canonical_json({"passed": True, "seed": seed}) + b"\n",
        }
        for variant in VARIANTS:
            name = f"{model}_{variant}.tflite"
            content = b"\x1c\0\0\0TFL3" + rng.randbytes(300)
            files[name] = content
            provenance = {
                "buildDefinition": {"externalParameters": {"model": model, "variant": variant}},
            }
            files[provenance_path(name)] = dsse.seal(
                statement(PROVENANCE_TYPE, name, content, provenance), key
            )
            files[result_path(name)] = dsse.seal(
                statement(TEST_RESULT_TYPE, name, content, {"result": "PASSED"}), key
            )
        release.publish(dist, model, files, key)
    page = f"<!doctype html><title>Release {seed}</title>".encode()
    release.publish_page(dist, {"index.html": page, "latency.json": b"{}\n"}, key)


def sums_of(dist: Path) -> bytes:
    """What ``SHA256SUMS`` would say; anybody can write that."""
    lines = []
    for path in sorted(p for p in dist.rglob("*") if p.is_file() and not p.is_symlink()):
        name = path.relative_to(dist).as_posix()
        if name not in ("SHA256SUMS", "release.sigstore.json"):
            lines.append((name.encode(), sha256_bytes(path.read_bytes()).encode()))
    return b"".join(b"%s  %s\n" % (digest, name) for name, digest in sorted(lines))
