"""What a source model finds does not depend on whether an export ran in the same process."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from support import SAMPLE, SAMPLES, forget

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "name",
    [
        SAMPLE,
        *(pytest.param(name, marks=pytest.mark.nightly) for name in SAMPLES if name != SAMPLE),
    ],
)
def test_the_reference_alone_finds_the_same(samples: Any, name: str, area: Path) -> None:
    sample = samples[name]
    before = json.loads((sample.folder / "conversion.json").read_text("utf-8"))["stages"]
    folder = Path(tempfile.mkdtemp(dir=area))
    store = folder / "store"
    shutil.copytree(Path(sample.kiln.store) / "results", store / "results")
    (store / "blobs").symlink_to(Path(sample.kiln.store) / "blobs")
    for step, made in before.items():
        if step.startswith(("reference", "check-")):  # checks want the reference
            forget(store, made["key"])
    kiln = sample.kiln.but(dist=folder / "dist", store=store)
    # (one variant: each has a check of its own)
    events = kiln("build", name, "--variant", "float32", "--json").ok().events
    ran = {event["id"] for event in events if event.get("state") == "finished"}
    assert "reference" in ran and "export" not in ran
    record = json.loads((folder / "dist" / name / "conversion.json").read_text("utf-8"))
    assert record["stages"]["reference"]["files"] == before["reference"]["files"]
    assert record["stages"]["reference"]["facts"] == before["reference"]["facts"]
    shutil.rmtree(folder)
