"""A store that has lost something, between two builds with the real engine."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import SAMPLE, Kiln, forget

from kiln.core.store import Store


@pytest.fixture
def lossy(sample: Any, fresh: Kiln) -> Iterator[Kiln]:
    """The command with a store of its own that has the sample's results; the test may spoil it."""
    store: Path = fresh.store
    # Names of the same files: they are taken away here, never written to.
    shutil.copytree(sample.kiln.store, store, copy_function=os.link, ignore=_without_scratch)
    store.chmod(0o700)
    yield fresh


def _without_scratch(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("tmp", "locks", "kept", "logs")]


def test_another_variant_after_a_lost_export(sample: Any, lossy: Kiln) -> None:
    """Record and provenance named different plans, and what was signed did not verify."""
    stages = sample.record["stages"]
    lossy("build", SAMPLE, "--variant", "int8", "--json").ok()
    store = Store(lossy.store)
    export = [store.path(digest) for digest in stages["export"]["files"].values()]
    max(export, key=lambda path: path.stat().st_size).unlink()
    for step, made in stages.items():
        if step.endswith("-float16"):
            forget(lossy.store, made["key"])
    # Nothing but the record asks for it: it says what the model was made from.
    forget(lossy.store, stages["checkpoint"]["key"])
    ended = lossy("build", SAMPLE, "--variant", "float16", "--json").ok()
    finished = {e["id"] for e in ended.events if e.get("state") == "finished"}
    assert {"checkpoint", "export", "convert-float16"} <= finished
    assert not [step for step in finished if step.endswith("-int8")]
    lossy("verify", lossy.dist).ok()
    folder = lossy.dist / SAMPLE
    record = json.loads((folder / "conversion.json").read_bytes())
    assert set(record["artefacts"]) == {"int8", "float16"}
    missing = stages.keys() - record["stages"].keys()
    assert {step.rpartition("-")[2] for step in missing} == {"dynamic", "float32"}
    for step, made in record["stages"].items():
        assert made["files"] == stages[step]["files"]
    for variant in record["artefacts"]:
        name = f"{SAMPLE}_{variant}.tflite"
        assert (folder / name).read_bytes() == sample.artefact(variant).read_bytes()
    assert "(0 stages run" in lossy("build", SAMPLE, "--variant", "int8").ok().out


def test_folders_of_ours_are_closed_and_stages_read_them(fresh: Kiln, tmp_path: Path) -> None:
    """The engine mounts what stages see: they need no way through the folders above."""
    kiln = fresh.but(umask=0, home=tmp_path / "home", store=tmp_path / "cache" / "store")
    kiln.home.mkdir(mode=0o700)
    kiln.home.chmod(0o700)
    kiln("build", SAMPLE, "--variant", "dynamic").ok()
    kiln("verify", kiln.dist).ok()

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(kiln.store) == mode(kiln.store.parent) == 0o700
    config = kiln.home / ".config"
    assert mode(config) == mode(config / "tflite-kiln") == 0o700
    assert mode(kiln.dist) == 0o777  # as the umask says
