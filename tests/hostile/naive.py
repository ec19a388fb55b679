"""A driver that takes a stage's output the way one should not: the harness must find it out.

Files are taken by name while the container lives, links are followed, nothing is bounded, and
reports are believed. It shares nothing with ``kiln.running.executor``.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from kiln.core.lease import tagged_name
from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import Store
from kiln.recipes.plan import Plan
from kiln.running.engine import OWNER_LABEL, Engine
from kiln.running.limits import Limits


def run(
    engine: Engine, store: Store, stages: Path, plan: Plan, limits: Limits, tag: str
) -> dict[str, StageResult]:
    """Run the plan's only step and believe all of it."""
    (step,) = plan.steps
    out = store.tmp / f"naive-{secrets.token_hex(4)}"
    out.mkdir()
    out.chmod(0o777)
    container = engine.client.containers.create(
        tag,
        ["python", "-B", "-m", "stages"],
        labels={OWNER_LABEL: tagged_name()},
        network_mode="none",
        user="1000:1000",
        working_dir="/kiln",
        volumes={
            str(stages): {"bind": "/kiln/stages", "mode": "ro"},
            str(out): {"bind": "/out", "mode": "rw"},
        },
        mem_limit=limits.memory,
        pids_limit=limits.pids,
    )
    found: dict[str, StageResult] = {}
    try:
        stream = container.attach(stream=True, logs=True)
        container.start()
        rest = b""
        for chunk in stream:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if event["event"] == "finished":
                    found[step.id] = _take(store, step.key, out / event["stage"])
        return found
    finally:
        container.remove(force=True)


def _take(store: Store, key: str, folder: Path) -> StageResult:
    report = json.loads((folder / "result.json").read_text("utf-8"))
    files = {}
    for place, _, names in os.walk(folder / "files", followlinks=True):
        for name in sorted(names):
            path = Path(place) / name
            try:
                data = path.read_bytes()
            except OSError:
                continue
            relative = str(path.relative_to(folder / "files"))
            files[relative] = Blob(store.add_bytes(data), len(data))
    result = StageResult(key, "hostile", files, report["facts"], report["seconds"])
    store.put_result(result)
    return result
