"""``python -m hostile.driver REQUEST``: one run of a stage, in a process that may be lost.

The request is JSON: the store, the folder of stage code, the image, the bounds, and which driver:
``kiln``'s own, or the ``naive`` one that the harness is proved with. What came of it is written to
the file ``outcome`` names. A traceback ends this process: that is a finding.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from peak_memory import peak_memory

from hostile import naive
from kiln.building.clean import clean
from kiln.core.digest import key_of
from kiln.core.errors import KilnError
from kiln.core.store import Store
from kiln.recipes.plan import Plan, Step
from kiln.running.engine import Engine
from kiln.running.executor import Runner
from kiln.running.limits import Limits

MODEL, STEP = "hostile", "work"


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the request says."""
    start = time.monotonic()
    events: list[dict[str, Any]] = []

    def tell(event: str, **fields: Any) -> None:
        if len(events) < 1000:
            events.append({"event": event, **fields})

    outcome: dict[str, Any] = {}
    try:
        store = Store(Path(request["store"]))
        if request["then"] == "use":
            _check_usable(store, request)
        engine = Engine.find()
        start = time.monotonic()  # from here on the limit counts
        step = Step(STEP, "hostile", {}, {}, {}, key_of({"hostile": request["name"]}))
        plan = Plan(MODEL, "odapi", (step,), {"float32": STEP})
        limits = Limits(memory=512 << 20, pids=64, timeout=request["timeout"], tmp=64 << 20)
        if request["driver"] == "naive":
            results = naive.run(
                engine, store, Path(request["stages"]), plan, limits, request["tag"]
            )
        else:
            runner = Runner(lambda: engine, store, Path(request["stages"]), tell)
            results = runner.run(plan, limits, lambda: request["tag"])
        result = results[STEP]
        assert store.get_result(step.key) is not None, "the result is not in the store"
        outcome["files"] = {name: [b.sha256, b.size] for name, b in result.files.items()}
        outcome["facts"] = result.facts
        if request["then"] == "use":
            clean(store, empty_store=True, drop_images=False)
            outcome["left"] = [str(p) for p in store.root.rglob("*") if p.is_file()]
    except KilnError as error:
        outcome["error"] = {
            "code": error.exit_code,
            "kind": error.kind,
            "message": error.message,
            "remedy": error.remedy,
        }
    outcome["seconds"] = time.monotonic() - start
    outcome["events"] = events
    outcome["peak"] = peak_memory()
    return outcome


def _check_usable(store: Store, request: dict[str, Any]) -> None:
    """What every command does with a store first."""
    store.sweep()
    store.usage()
    damaged = store.verify()
    assert not damaged, f"damaged blobs: {damaged}"
    for path in (store.root / "results").glob("*.json"):
        assert store.get_result(path.stem) is not None, f"half a result: {path}"


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    found = main(asked)
    Path(asked["outcome"]).write_text(json.dumps(found), "utf-8")
