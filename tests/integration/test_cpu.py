"""Bytes under other processors: a small network, exported and converted there, all variants.

A whole sample takes a quarter of an hour on an emulated processor: ``make cpu-check``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support import Stages, Wanted

from kiln.core.errors import SourceUnavailableError
from kiln.core.store import Store
from proofs.variations.emulation import emulated, find_emulator
from stages.steps import convert


def converted(stages: Stages, machine: str) -> dict[str, dict[str, str]]:
    """Digests by export (``plain``, ``exact``) and variant, made on ``machine``."""
    ran = stages.run(Wanted("small", "small_conversions", {"machine": machine}, {}))
    found: dict[str, dict[str, str]] = ran["small"].facts["digests"]
    return found


@pytest.mark.nightly
@pytest.mark.parametrize("cpu", ["Haswell", "SandyBridge"])
def test_bytes_do_not_depend_on_the_processor(
    stages: Stages, store: Store, area: Path, cpu: str
) -> None:
    """And those of Keras's own export do, in every variant: the comparison can fail."""
    try:
        emulator = find_emulator(store)
    except SourceUnavailableError as error:
        pytest.skip(str(error))
    native = converted(stages, "native")
    other = converted(
        replace(stages, engine=emulated(stages.engine, emulator, cpu, area / f"cpu-{cpu}")), cpu
    )
    assert set(native["exact"]) == set(convert.VARIANTS)
    assert other["exact"] == native["exact"]
    for variant in convert.VARIANTS:
        assert other["plain"][variant] != native["plain"][variant], variant
