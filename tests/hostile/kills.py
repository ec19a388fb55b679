"""Builds that are killed at random moments, in every phase; and several at once on one store."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile.cases import Case, FindingError, Verdict
from hostile.forge import Bench, Ended, Forge, finishing

#: A phase -> the event that it begins with, and about how many seconds it lasts. None: the start.
PHASES: Mapping[str, tuple[dict[str, Any] | None, float]] = {
    "fetching": (None, 1.5),
    "starting-container": (None, 3.5),
    "stage": ({"id": "checkpoint", "state": "started"}, 0.4),
    "taking": ({"id": "export", "state": "finished"}, 0.3),
    "checking": ({"id": "task-library-dynamic", "state": "finished"}, 2.5),
    "last-stage": ({"id": "mediapipe-dynamic", "state": "started"}, 1.2),
    "publishing": ({"id": "mediapipe-dynamic", "state": "finished"}, 1.2),
    "signing": ({"event": "model", "state": "done"}, 0.8),
    "whenever": (None, 0.0),
}
#: Kills in one case, each of a new build on what the last one left.
KILLS = 4
_GENTLE = {signal.SIGTERM: 130, signal.SIGINT: 130}


@dataclass
class Kills:
    """The family of killed builds."""

    forge: Forge

    name = "kills"
    what = "`kill -9` at random moments of every phase of a build, then a build"
    weight = 12

    def names(self) -> Sequence[str]:
        return [*PHASES, "stopped-by-signal"]

    def run(self, case: Case, place: Path) -> Verdict:
        dice = case.dice()
        bench = self.forge.bench(place)
        killed: list[Ended] = []
        for number in range(KILLS):
            if case.name == "stopped-by-signal":
                killed.append(self._one(bench, dice, "whenever", dice.choice(list(_GENTLE))))
            else:
                killed.append(self._one(bench, dice, case.name, signal.SIGKILL))
            self.forge.check_visible(bench)
            if number + 1 < KILLS and case.name not in {"checking", "publishing", "signing"}:
                _forget(bench)  # or there would be nothing left to do
        self.forge.check_healed(bench, *killed)
        count = sum(one.code < 0 or one.code == 130 for one in killed)
        return Verdict(False, "healed", max(1, count))

    def _one(self, bench: Bench, dice: random.Random, phase: str, number: signal.Signals) -> Ended:
        event, span = PHASES[phase]
        if phase in {"publishing", "signing", "checking"}:
            shutil.rmtree(bench.dist, ignore_errors=True)
        with finishing(bench.start_build()) as build:
            if event is not None:
                build.wait_for(60, **event)
            if number != signal.SIGKILL:
                _wait_for_kiln(build.process.pid)
            time.sleep(dice.uniform(0, span or self.forge.seconds))
            build.signal(number)
            ended = build.end(30)
        wanted = {-signal.SIGKILL, 0} if number == signal.SIGKILL else {0, 130, -number}
        if ended.code not in wanted:
            raise FindingError(f"after signal {number}: {ended.told}")
        return ended


@dataclass
class Crowds:
    """The family of several kilns at once."""

    forge: Forge

    name = "crowds"
    what = "three builds at once on one store, some of them killed; results lost between builds"
    weight = 3

    def names(self) -> Sequence[str]:
        return ["one-dist", "own-dists", "some-killed", "cleaned-meanwhile", "results-lost",
                "blobs-lost", "results-cut"]  # fmt: skip

    def run(self, case: Case, place: Path) -> Verdict:
        dice = case.dice()
        bench = self.forge.bench(place)
        if case.name in {"results-lost", "blobs-lost", "results-cut"}:
            return self._lost(case.name, bench, dice)
        dists = [bench.dist if case.name == "one-dist" else place / f"dist-{n}" for n in range(3)]
        benches = [bench.but(dist=dist) for dist in dists]
        running = []
        for one in benches:
            running.append(one.start_build())
            time.sleep(dice.choice([0, 0, dice.uniform(0, 2)]))
        victims = set(dice.sample(range(3), 2)) if case.name == "some-killed" else set[int]()
        for number in victims:
            time.sleep(dice.uniform(0, self.forge.seconds / 2))
            running[number].signal(signal.SIGKILL)
        while case.name == "cleaned-meanwhile" and any(r.process.poll() is None for r in running):
            cleaned = bench.start("clean").end()
            if cleaned.code:
                raise FindingError(f"`kiln clean` fails meanwhile: {cleaned.told}")
        ended = [one.end() for one in running]
        for number, end in enumerate(ended):
            if end.code and number not in victims:
                raise FindingError(f"one of three at once: {end.told}")
        for one in benches:
            self.forge.check_healed(one, *ended)
        return Verdict(False, "healed", 3)

    def _lost(self, how: str, bench: Bench, dice: random.Random) -> Verdict:
        """The store loses things between builds; nothing that is signed may suffer from it."""
        first = bench.build()
        for _ in range(2):
            found = sorted((bench.store / "results").glob("*.json"))
            if how == "results-lost":
                for path in dice.sample(found, dice.randint(1, len(found))):
                    path.unlink()
            elif how == "results-cut":
                for path in dice.sample(found, dice.randint(1, 3)):
                    path.write_bytes(path.read_bytes()[: dice.randrange(200)])
            else:
                blobs = sorted((bench.store / "blobs" / "sha256").glob("??/*"))
                for path in dice.sample(blobs, dice.randint(1, len(blobs) // 2)):
                    path.unlink()
            if dice.random() < 0.5:
                shutil.rmtree(bench.dist)
            self.forge.check_healed(bench, first)
        return Verdict(False, "healed", 2)


def _wait_for_kiln(pid: int) -> None:
    """Wait until a process catches SIGTERM. Before that it is Python that starts, and that answers
    Ctrl-C with a traceback of its own."""
    until = time.monotonic() + 60
    bit = 1 << (signal.SIGTERM - 1)
    while time.monotonic() < until:
        status = Path(f"/proc/{pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) & bit:
            return
        time.sleep(0.01)
    raise FindingError("kiln has not begun after 60 s")


def _forget(bench: Bench) -> None:
    """Take results out of the store, so that the next build has work to do."""
    for path in sorted((bench.store / "results").glob("*.json")):
        path.unlink()
