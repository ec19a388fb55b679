"""A build whose stages run on workers of this machine: stopped, and carried on."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from support import SAMPLE, Kiln, running

from kiln.core.lease import is_abandoned
from kiln.running.engine import OWNER_LABEL, Engine

BUILD = ("build", SAMPLE, "--variant", "float32", "--cluster", "local:1")


def abandoned(engine: Engine) -> list[str]:
    """Containers whose owner has gone."""
    found = engine.client.containers.list(
        all=True, filters={"label": OWNER_LABEL}, ignore_removed=True
    )
    return [item.name for item in found if is_abandoned(Path(item.labels[OWNER_LABEL]))]


def test_stopped_and_carried_on(sample: Any, fresh: Kiln, engine: Engine) -> None:
    engine.sweep()
    with running(fresh, *BUILD) as build:
        build.wait_for(event="stage", id="export", state="started")
        time.sleep(0.5)
        start = time.monotonic()
        build.process.send_signal(signal.SIGINT)
        assert build.process.wait() == 130
        assert time.monotonic() - start < 5
    assert abandoned(engine) == []
    assert fresh.leftovers() == []
    assert not fresh.dist.exists()

    done = fresh(*BUILD, "--json").ok()
    ran = {
        item["id"]: item["worker"]
        for item in done.events
        if item["event"] == "stage" and item["state"] == "finished"
    }
    assert "checkpoint" not in ran  # what had finished is kept
    assert set(ran.values()) == {"local-1"} and "export" in ran
    path = sample.artefact("float32")
    assert (fresh.dist / SAMPLE / path.name).read_bytes() == path.read_bytes()
    assert fresh("verify", fresh.dist).code == 0
    assert fresh.leftovers() == []
