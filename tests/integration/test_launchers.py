"""Launchers in the sealed image: which processor do the interpreters see?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kiln.core.errors import SourceUnavailableError
from kiln.core.store import Store
from kiln.images.lock import Locked
from kiln.running.engine import Engine
from kiln.running.limits import Limits
from kiln.running.stage_user import stage_user
from proofs.variations.emulation import emulated, find_emulator, one_core

#: Prints what this interpreter sees, then what the other environment's does (which runs as a
#: child, started as the runner starts it).
PROBE = """
import json, os, subprocess, sys
from numpy.core._multiarray_umath import __cpu_features__ as known
print(json.dumps([len(os.sched_getaffinity(0)), [k for k in known if known[k]]]), flush=True)
python = os.environ.get("KILN_METADATA_PYTHON", "/opt/metadata/bin/python")
if sys.argv[1:] != ["child"]:
    subprocess.run([python, "-B", "-c", os.environ["PROBE"], "child"], check=True)
"""


def seen(engine: Engine, image: str) -> list[tuple[int, set[str]]]:
    """(cores, features) as both environments' interpreters see them."""
    said = bytearray()
    outcome = engine.run(
        image,
        ("python", "-B", "-c", PROBE),
        mounts={},
        environment={"PROBE": PROBE},
        limits=Limits(timeout=60),
        on_stdout=said.extend,
        user=":".join(map(str, stage_user(rootless=engine.rootless))),
    )
    assert outcome.exit_code == 0, outcome.log
    told: list[Any] = [json.loads(line) for line in said.splitlines()]
    return [(cores, set(features)) for cores, features in told]


def test_one_core(engine: Engine, odapi: Locked, area: Path) -> None:
    both = seen(one_core(engine, area / "one-core"), odapi.tag)
    assert [cores for cores, _ in both] == [1, 1]


@pytest.mark.parametrize(
    ("cpu", "has", "lacks"),
    [
        ("Haswell", {"AVX", "FMA3", "AVX2"}, {"AVX512F"}),
        ("SandyBridge", {"AVX"}, {"FMA3", "AVX2", "F16C", "AVX512F"}),
    ],
)
def test_an_emulated_processor_is_seen_by_both_environments(
    engine: Engine, odapi: Locked, area: Path, cpu: str, has: set[str], lacks: set[str]
) -> None:
    try:
        emulator = find_emulator(Store(area / "emulator"))
    except SourceUnavailableError as error:
        pytest.skip(str(error))
    both = seen(emulated(engine, emulator, cpu, area / f"launcher-{cpu}"), odapi.tag)
    assert len(both) == 2
    for _, features in both:
        assert has <= features
        assert not lacks & features


def test_an_emulated_process_still_finds_itself(
    engine: Engine, modelmaker: Locked, area: Path
) -> None:
    """Model Maker's image has one environment; a stage for the other runs in the same process."""
    try:
        emulator = find_emulator(Store(area / "emulator"))
    except SourceUnavailableError as error:
        pytest.skip(str(error))
    said = bytearray()
    launched = emulated(engine, emulator, "Haswell", area / "launcher-itself")
    asked = "import os, sys; print(os.environ['KILN_METADATA_PYTHON'] == sys.executable)"
    outcome = launched.run(
        modelmaker.tag,
        ("python", "-B", "-c", asked),
        mounts={},
        environment={},
        limits=Limits(timeout=60),
        on_stdout=said.extend,
        user=":".join(map(str, stage_user(rootless=engine.rootless))),
    )
    assert outcome.exit_code == 0, outcome.log
    assert said.strip() == b"True"
