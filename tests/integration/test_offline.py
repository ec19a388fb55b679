"""From a bundle and nothing else, without a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from support import SAMPLE, Kiln, Sample

from kiln.bundle.needs import needs_of
from kiln.bundle.reading import read_index
from kiln.core.digest import sha256_file
from kiln.core.store import Store
from kiln.images.lock import read_lock

#: Starts the rest of its arguments with every socket but local ones cut off, for good.
CUT_OFF = (
    f"import os, sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); "
    "from shared import no_network; assert not no_network.refuse_network(); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture
def isolated(fresh: Kiln) -> Kiln:
    """The command with an empty store, and no network."""
    if not fresh.engine.startswith("unix:"):
        pytest.skip("the engine is reached over the network")
    prefix = (sys.executable, "-c", CUT_OFF)
    asked = "import socket; socket.create_connection(('127.0.0.1', 9))"
    ended = subprocess.run(
        [*prefix, sys.executable, "-c", asked], capture_output=True, text=True, check=False
    )
    assert "PermissionError" in ended.stderr
    return fresh.but(prefix=prefix)


def test_a_bundle_is_all_it_takes(isolated: Kiln, sample: Sample, tmp_path: Path) -> None:
    # What the sample's image is built from is in the user's own store, where it was built from.
    home = sample.kiln.but(store=Store.default_root())
    bundle = tmp_path / "bundle.tar"
    release = ("--release", sample.kiln.dist)
    home("bundle", "create", SAMPLE, "-o", bundle, "--without-images", *release).ok()
    assert {use.role for blob in read_index(bundle).blobs for use in blob.uses} == {
        "debian", "input", "python", "recipe",
    }  # fmt: skip

    isolated("images", "build", "--force", "base").refused(11)
    isolated("bundle", "import", bundle).ok()
    (needs,) = needs_of(sample.kiln.dist)
    store = Store(isolated.store)
    assert needs.contents and all(store.has(digest) for digest in needs.contents)
    assert needs.source_archive is not None and store.has(sha256_file(needs.source_archive))
    built = isolated("images", "build", "--force", "base", "--json").ok()
    (done,) = [event for event in built.events if event.get("phase") == "done"]
    assert done["detail"] == read_lock(ROOT / "docker")["base"].identity

    isolated("build", SAMPLE, "--variant", "dynamic").ok()
    name = f"{SAMPLE}_dynamic.tflite"
    again = isolated.dist / SAMPLE / name
    assert again.read_bytes() == sample.artefact("dynamic").read_bytes()
    assert isolated.leftovers() == []
