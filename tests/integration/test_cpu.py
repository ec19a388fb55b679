"""A sample's bytes under another processor: the short form of ``make cpu-check``.

Emulated are the two things whose arithmetic reaches the bytes: the fold of batch norms, which an
export does, and the converter. A whole export takes minutes there, of importing TensorFlow and of
tracing; ``make cpu-check`` has that time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE
from places import ROOT
from support import SAMPLE, Stages

from kiln.core.errors import SourceUnavailableError
from kiln.core.store import Store
from kiln.images.lock import Locked
from kiln.running.engine import Engine
from kiln.running.limits import Limits
from kiln.running.stage_user import stage_user
from proofs.variations.emulation import emulated, find_emulator


def test_bytes_do_not_depend_on_the_processor(store: Store, odapi: Locked, project: Path) -> None:
    """And the control, the conversion of a plain export, does: the check can fail."""
    try:
        find_emulator(store)
    except SourceUnavailableError as error:
        pytest.skip(str(error))
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "proofs.cpu_check",
            SAMPLE,
            "--variant",
            "float32",
            "--cpu",
            "SandyBridge",
            "--control",
            "--short",
        ],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "KILN_STORE": str(store.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "identical" in ended.stdout
    assert "DIFFERS" in ended.stdout  # the control


#: Prints the digest of what a fold makes of numbers that are the same on every processor.
FOLD = """
import hashlib, sys
import numpy as np
sys.path.insert(0, "/kiln")
from stages.odapi.exact_batch_norm import fold
random = np.random.default_rng(7)
gamma, beta, mean = ((random.integers(-1 << 20, 1 << 20, 100_000) / (1 << 18)).astype(np.float32)
                     for _ in range(3))
variance = (random.integers(1, 1 << 22, 100_000) / (1 << 19)).astype(np.float32)
made = fold(gamma, beta, mean, variance, 0.001)
print(hashlib.sha256(b"".join(part.tobytes() for part in made)).hexdigest())
"""


def folded(engine: Engine, stages: Stages) -> bytes:
    """The digest, from the sealed image's own interpreter."""
    said = bytearray()
    outcome = engine.run(
        stages.image.tag,
        ("python", "-B", "-c", FOLD),
        mounts={stages.code: ("/kiln/stages", "ro")},
        environment={},
        limits=Limits(timeout=PATIENCE),
        on_stdout=said.extend,
        user=":".join(map(str, stage_user(rootless=engine.rootless))),
    )
    assert outcome.exit_code == 0, outcome.log
    return bytes(said)


@pytest.mark.parametrize("cpu", ["Haswell", "SandyBridge"])
def test_batch_norms_are_folded_alike(
    engine: Engine, stages: Stages, store: Store, area: Path, cpu: str
) -> None:
    try:
        emulator = find_emulator(store)
    except SourceUnavailableError as error:
        pytest.skip(str(error))
    other = emulated(engine, emulator, cpu, area / f"fold-{cpu}")
    found = folded(engine, stages)
    assert len(found) == 65
    assert folded(other, stages) == found
