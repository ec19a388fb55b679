"""Engines that are stopped, killed or hang in the middle of a build."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hostile.cases import Case, FindingError, LeftOutError, Verdict, busy
from hostile.engines import OwnEngine
from hostile.forge import Bench, Ended, Forge, finishing

#: What a build may end with whose engine goes away: not there, failed, or a stage that was killed.
_REFUSALS = frozenset({20, 21, 24, 26})


@dataclass
class BadEngines:
    """The family of engines that fail; on an engine of our own, never on the user's."""

    forge: Forge
    engine: OwnEngine

    name = "engines"
    what = "an engine of its own stopped, killed, or hung in the middle of a build"
    weight = 2

    def names(self) -> Sequence[str]:
        return ["killed", "stopped", "hung-for-a-while", "hung-and-interrupted", "killed-and-back"]

    def run(self, case: Case, place: Path) -> Verdict:
        if self.engine.process is None or self.engine.process.poll() is not None:
            self.engine.start()
        dice = case.dice()
        bench = self.forge.bench(place).but(engine=self.engine.address)
        try:
            ended = self._disturb(case.name, bench, dice)
        finally:
            self._repair()
        self.forge.check_healed(bench, ended)
        return Verdict(ended.code != 0, f"exit {ended.code}")

    def _disturb(self, how: str, bench: Bench, dice: random.Random) -> Ended:
        with finishing(bench.start_build()) as build:
            build.wait_for(60, id="checkpoint", state="started")
            time.sleep(dice.uniform(0, 1.5))
            begin = time.monotonic()
            if how in {"killed", "killed-and-back"}:
                self.engine.signal(signal.SIGKILL)
                if how == "killed-and-back":
                    self._repair()
            elif how == "stopped":
                self.engine.signal(signal.SIGTERM)
            else:
                self.engine.signal(signal.SIGSTOP)
            if how == "hung-for-a-while":
                time.sleep(dice.uniform(1, 8))
                self.engine.signal(signal.SIGCONT)
            elif how == "hung-and-interrupted":
                time.sleep(dice.uniform(1, 4))
                build.signal(signal.SIGINT)
                begin = time.monotonic()
            ended = build.end(60)
        right = {0, 130} if how == "hung-and-interrupted" else {0} | _REFUSALS
        if ended.code not in right:
            raise FindingError(f"engine {how}: {ended.told}")
        took = time.monotonic() - begin
        if how == "hung-and-interrupted" and took > 15 * busy():
            raise FindingError(f"ended {took:.0f} s after Ctrl-C")
        return ended

    def _repair(self) -> None:
        """Have an engine again."""
        process = self.engine.process
        if process is None:
            raise LeftOutError("the engine is gone")
        try:
            self.engine.signal(signal.SIGCONT)
            time.sleep(0.2)
            gone = process.poll() is not None
        except ProcessLookupError:
            gone = True
        if not gone and not self.engine.answers(20):
            self.engine.signal(signal.SIGKILL)
            gone = True
        if gone:
            self.engine.dead()
            self.engine.start()
