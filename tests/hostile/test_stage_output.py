"""Some of each kind of hostile stage; `make storm` runs all of them, and with other seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile.cases import Case, LeftOutError
from hostile.stage_cases import attacks
from hostile.stage_output import StageOutput

SEED = 12
CHOSEN = (
    "honest", "reaching", "link-step-canary-folder", "link-files-canary-folder",
    "link-report-report", "link-file-environment", "link-folder-root", "hard-link-file-ours",
    "fifo-as-report", "socket-as-file", "fifo-as-files", "swap-folder-m-canary-folder",
    "swap-files-key", "swap-report-fifo", "changing-grow", "linked-after-canary",
    "deep-6000-work-files", "million-files-work-files", "sparse-file", "endless-endless",
    "names-latin-1-file", "names-control-file", "report-deep-list", "report-million-digits",
    "report-facts-surrogate", "event-finished-without-seconds", "event-extra-self",
    "event-stage-list", "event-deep-only", "event-failed-escapes", "flood-line", "order-half-line",
    "code-3", "never-closed", "never-daemon-own-session",
)  # fmt: skip


@pytest.mark.parametrize("name", CHOSEN)
def test_hostile_stage(name: str, sealed: tuple[str, str], place: Path) -> None:
    tag, address = sealed
    try:
        StageOutput(tag, address).run(Case("stage-output", name, SEED), place)
    except LeftOutError as reason:
        pytest.skip(str(reason))


def test_there_are_enough() -> None:
    found = attacks()
    assert len(found) >= 200
    assert sum(one.module == "races" for one in found.values()) >= 20
    assert set(CHOSEN) <= found.keys()
    assert all(one.count >= 1000 for name, one in found.items() if name.startswith("swap"))
