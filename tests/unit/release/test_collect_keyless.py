"""A release that no key signed: every job signs with a certificate of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_sigstore import ISSUER, WORKFLOW, LocalSigstore
from release_parts import content, make_part

from kiln.core.errors import VerificationError
from kiln.release import verify
from kiln.release.assets import write_assets
from kiln.release.collect import collect
from kiln.release.notes import notes
from kiln.signing import keyless
from kiln.signing.signer import IdentitySigner
from kiln.signing.trust import trust_in_identity


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSigstore]:
    """An authority and logs on 127.0.0.1, which the environment names."""
    with LocalSigstore().serve() as served:
        served.announce(tmp_path, monkeypatch)
        yield served


def test_jobs_without_a_key(
    world: LocalSigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root.json"
    trust = trust_in_identity(WORKFLOW, ISSUER, root)
    parts = [make_part(tmp_path / name, name, IdentitySigner()) for name in ("alpha", "beta")]
    dist = tmp_path / "all"
    done = collect(parts, dist, IdentitySigner(), trust)
    assert done.models == ("alpha", "beta")
    for part, model in zip(parts, done.models, strict=True):
        assert content(dist / model) == content(part / model)
    assert not (dist / "kiln.pub").exists()
    verify.verify_by(dist, trust)
    names = {path.name for path in write_assets(dist, "v1", tmp_path / "assets")}
    assert "kiln.pub" not in names
    assert {"release.sigstore.json", "alpha_int8.tflite.provenance.sigstore.json"} <= names
    assert f"--identity {WORKFLOW}" in notes(dist, "v1", WORKFLOW)

    # Another workflow, however valid its certificate, is somebody else.
    monkeypatch.setenv(keyless.TOKEN_VARIABLE, world.token("https://github.com/them/x@main"))
    foreign = make_part(tmp_path / "foreign", "gamma", IdentitySigner())
    with pytest.raises(VerificationError, match="gamma"):
        collect([*parts, foreign], tmp_path / "more", IdentitySigner(), trust)
    assert not (tmp_path / "more").exists()
