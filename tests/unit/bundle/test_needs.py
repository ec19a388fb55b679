"""What a bundle for a release has to hold."""

from __future__ import annotations

import io
import tarfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from toy_bundle import silent
from toy_offline import Offline, make_offline

from kiln.bundle.contents import Contents
from kiln.bundle.needs import needs_of
from kiln.core.digest import canonical_json, sha256_bytes
from kiln.core.errors import (
    ImageMismatchError,
    SourceUnavailableError,
    UsageError,
    VerificationError,
)
from kiln.project.closures import StageCode
from kiln.recipes.steps import Files, Output, Plan, StepList
from kiln.signing.dsse import bundle_bytes
from kiln.signing.statement_names import STATEMENT_TYPE, provenance_path
from kiln.statements.plan_data import plan_as_data


def release(offline: Offline, dist: Path, contents: dict[str, bytes], identity: str) -> Path:
    """A release of the model ``toy`` whose one stage read ``contents``."""
    files = {name: sha256_bytes(data) for name, data in contents.items()}
    steps = StepList(identity, StageCode("c" * 64))
    steps.add("export", "export", {}, {})
    read = {"images": Files(files), "model": Output("export", "saved_model")}
    steps.add("convert", "convert", {}, read)
    plan = Plan("toy", "odapi", tuple(steps.steps.values()), {}, (), identity, StageCode("c" * 64))
    build = {
        "internalParameters": {"plan": plan_as_data(plan, "convert")},
        "resolvedDependencies": [
            {"name": "image/odapi", "digest": {"sha256": identity.removeprefix("sha256:")}}
        ],
    }
    statement = {"_type": STATEMENT_TYPE, "predicate": {"buildDefinition": build}}
    path = dist / "toy" / provenance_path("toy_float32.tflite")
    path.parent.mkdir(parents=True)
    # (Nobody looks at the signature here.)
    path.write_bytes(bundle_bytes(canonical_json(statement), b"x", {"publicKey": {"hint": "x"}}))
    return path


def test_what_a_release_was_made_from(tmp_path: Path) -> None:
    offline = make_offline(tmp_path / "project", tmp_path / "store")
    identity = offline.locked("odapi").identity
    path = release(offline, tmp_path / "dist", {"a.png": b"one", "b.png": b"two"}, identity)
    (needs,) = needs_of(tmp_path / "dist")
    assert (needs.model, needs.images) == ("toy", {identity})
    with ExitStack() as stack:
        contents = Contents(offline.project, offline.store, silent, stack)
        with pytest.raises(SourceUnavailableError, match=r"2 contents .* convert/images/a\.png"):
            contents.add_needs(needs)
        offline.store.add_bytes(b"one")
        offline.store.add_bytes(b"two")
        contents.add_needs(needs)
        assert contents.docker_of(needs) == offline.project.docker
        uses = {use.name for blob in contents.index().blobs for use in blob.uses}
        assert uses == {"toy/convert/images/a.png", "toy/convert/images/b.png"}
    other = canonical_json({"_type": STATEMENT_TYPE, "predicate": {}})
    for data in (b"{}", b"[1]", b"\xff", bundle_bytes(other, b"x", {})):
        path.write_bytes(data)
        with pytest.raises(VerificationError, match=r"provenance\.sigstore\.json"):
            needs_of(tmp_path / "dist")


def test_a_release_of_other_images_brings_their_definitions(tmp_path: Path) -> None:
    offline = make_offline(tmp_path / "project", tmp_path / "store")
    identity = f"sha256:{'e' * 64}"
    release(offline, tmp_path / "dist", {}, identity)
    with ExitStack() as stack:
        contents = Contents(offline.project, offline.store, silent, stack)
        (needs,) = needs_of(tmp_path / "dist")
        with pytest.raises(ImageMismatchError, match="other images"):
            contents.docker_of(needs)
        lock = (offline.project.docker / "images.lock").read_bytes()
        old = lock.replace(offline.locked("odapi").identity.encode(), identity.encode())
        with tarfile.open(tmp_path / "dist" / "toy" / "source.tar", "w") as tar:
            info = tarfile.TarInfo("docker/images.lock")
            info.size = len(old)
            tar.addfile(info, io.BytesIO(old))
        (needs,) = needs_of(tmp_path / "dist")
        assert (contents.docker_of(needs) / "images.lock").read_bytes() == old


def test_no_release(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no release with provenance"):
        needs_of(tmp_path)
