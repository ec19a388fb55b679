"""Hostile stages in the real container, through kiln's real runner."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from places import ROOT

from hostile.canary import Canary
from hostile.cases import Case, FindingError, LeftOutError, Verdict, busy
from hostile.disks import may_mount, mounted
from hostile.stage_cases import Attack, attacks

GUEST = Path(__file__).parent / "guest"
#: Refusals that are right whatever the stage did: stage-failed and stage-output.
ALWAYS = frozenset({24, 27})
#: Seconds beyond a stage's limit until its run must have ended.
GRACE = 10.0
#: Seconds that starting Python, and a busy machine, may take besides.
PATIENCE = 45.0
#: Bytes of memory that the driver may use; an honest run takes 60 MB.
MEMORY = 600 << 20
#: Of the file system that the store is on: larger than an honest run needs, small enough to fill.
DISK = "size=600m,nr_inodes=300k,mode=755"

_MARK = b"guest:"
_UNSAID = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@dataclass
class StageOutput:
    """The family of hostile stages.

    Args:
        tag: of the sealed image they run in.
        address: of the engine.
        driver: ``kiln``, or ``naive`` to prove that this would find faults.
    """

    tag: str
    address: str
    driver: str = "kiln"

    name = "stage-output"
    what = "crafted stages in the real container: links, races, sizes, events, ends"
    weight = 10

    @cached_property
    def _attacks(self) -> dict[str, Attack]:
        return attacks()

    def names(self) -> Sequence[str]:
        return tuple(self._attacks)

    def run(self, case: Case, place: Path) -> Verdict:
        attack = self._attacks[case.name]
        with _yard(place, attack) as yard:
            canary = Canary.plant(place / "secret")
            outcome = self._drive(case, attack, canary, yard, place)
            word = _judge(attack, outcome, canary, yard)
            self._check_usable(case, canary, yard, place)
            canary.check_untouched()
        return Verdict("error" in outcome, word, attack.count)

    def _drive(
        self, case: Case, attack: Attack, canary: Canary, yard: Path, place: Path
    ) -> dict[str, Any]:
        """Run the attack; what came of it."""
        stages = yard / "stages"
        arguments = {**attack.arguments, "seed": case.dice().randrange(1 << 32)}
        for key, value in arguments.items():
            for mark, path in canary.places().items() if isinstance(value, str) else ():
                value = arguments[key] = value.replace(mark, path)
        _lay_out(stages, attack.module, attack.function, arguments)
        patience = attack.timeout + GRACE + PATIENCE * busy()
        outcome = self._child(
            str(case), stages, canary, yard, place, attack.timeout, patience, "end"
        )
        if outcome["seconds"] > attack.timeout + GRACE * busy():
            raise FindingError(
                f"ended after {outcome['seconds']:.0f} s; {attack.timeout:.0f} s allowed"
            )
        if outcome["peak"] > MEMORY:
            raise FindingError(f"the driver took {outcome['peak'] >> 20} MiB of memory")
        return outcome

    def _check_usable(self, case: Case, canary: Canary, yard: Path, place: Path) -> None:
        """The store afterwards: swept, verified, used by an honest stage, and emptied."""
        left = os.listdir(yard / "store" / "tmp")  # noqa: PTH208
        if left:
            raise FindingError(f"left in the store: {left[:5]}")
        stages = yard / "honest"
        _lay_out(stages, "plain", "well_behaved", {"seed": case.seed})
        name = f"{case}/after"
        outcome = self._child(name, stages, canary, yard, place, 60, 60 + PATIENCE * busy(), "use")
        if "error" in outcome or len(outcome.get("files", ())) != 3:
            raise FindingError(f"the store is of no use afterwards: {outcome}")
        if outcome["left"] and any("/locks/" not in path for path in outcome["left"]):
            raise FindingError(f"`kiln clean --store` left {outcome['left'][:5]}")

    def _child(
        self, name: str, stages: Path, canary: Canary, yard: Path, place: Path,
        timeout: float, patience: float, then: str,
    ) -> dict[str, Any]:  # fmt: skip
        asked = place / f"request-{then}.json"
        outcome = place / f"outcome-{then}.json"
        driver = self.driver if then == "end" else "kiln"
        request = {
            "name": name, "store": str(yard / "store"), "stages": str(stages), "tag": self.tag,
            "timeout": timeout, "driver": driver, "outcome": str(outcome), "then": then,
        }  # fmt: skip
        asked.write_text(json.dumps(request), "utf-8")
        log = place / f"said-{then}"
        with log.open("wb") as said, _own_containers(self.address) as left:
            process = subprocess.Popen(
                [sys.executable, "-m", "hostile.driver", str(asked)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=yard,
                env=self._environment(canary, yard),
            )
            left.append(process.pid)
            try:
                code = process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise FindingError(
                    f"still at it after {patience:.0f} s, with {timeout:.0f} s allowed"
                ) from None
        text = log.read_text("utf-8", "replace")
        canary.check_unsaid(text)
        if code or not outcome.exists():
            raise FindingError(f"the driver ended with code {code}:\n{text[-3000:]}")
        found: dict[str, Any] = json.loads(outcome.read_text("utf-8"))
        canary.check_unsaid(outcome.read_text("utf-8"))
        return found

    def _environment(self, canary: Canary, yard: Path) -> dict[str, str]:
        paths = [str(ROOT / place) for place in ("tests", "tests/helpers", "scripts")]
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(yard),
            "PYTHONPATH": os.pathsep.join(paths),
            "DOCKER_HOST": self.address,
            **canary.environment,
        }


@contextlib.contextmanager
def _yard(place: Path, attack: Attack) -> Iterator[Path]:
    """Where the store is: a small disk of its own where we may have one."""
    yard = place / "yard"
    yard.mkdir()
    place.chmod(0o755)
    if may_mount():
        with mounted(yard, DISK):
            yield yard
        return
    if attack.disk:
        raise LeftOutError("it may fill the disk, and a small one needs root")
    yield yard
    shutil.rmtree(yard, ignore_errors=True)


def _lay_out(stages: Path, module: str, function: str, arguments: Mapping[str, Any]) -> None:
    stages.mkdir()
    for path in GUEST.glob("*.py"):
        shutil.copy(path, stages)
    about = {"module": module, "function": function, "arguments": arguments}
    (stages / "case.json").write_text(json.dumps(about), "utf-8")


@contextlib.contextmanager
def _own_containers(address: str) -> Iterator[list[int]]:
    """Collects processes; when they have ended, none of their containers may be left."""
    from hostile.engines import containers_of, remove

    pids: list[int] = []
    yield pids
    left = [name for pid in pids for name in containers_of(address, pid)]
    if left:
        remove(address, left)
        raise FindingError(f"a container was left: {left}")


def _judge(attack: Attack, outcome: dict[str, Any], canary: Canary, yard: Path) -> str:
    """Whether a run ended as it may; the word for it."""
    canary.check_unseen(yard / "store")
    store = yard / "store"
    for text in _texts(outcome["events"]):
        _check_text(text)
    for log in (store / "logs").glob("*"):
        _check_text(log.read_text("utf-8", "replace").replace("\n", " "))
    error = outcome.get("error")
    if error is not None:
        for part in ("message", "remedy"):
            _check_text(error[part])
            if len(error[part]) > 20_000:
                raise FindingError(f"a {part} of {len(error[part]):,} characters")
        if error["code"] not in ALWAYS | attack.codes:
            raise FindingError(
                f"refused with {error['code']} ({error['kind']}): {error['message'][:500]}"
            )
        if attack.refused is False:
            logs = "".join(p.read_text("utf-8", "replace") for p in (store / "logs").glob("*"))
            said = f"{error['message'][:500]}\n{logs[-2000:]}"
            raise FindingError(f"refused, which it should not be: {said}")
        return str(error["kind"])
    if attack.refused:
        raise FindingError(f"accepted: {json.dumps(outcome)[:500]}")
    if outcome["facts"].get("canary"):
        raise FindingError(f"facts of the host: {outcome['facts']}")
    for name, (digest, size) in outcome["files"].items():
        path = store / "blobs" / "sha256" / digest[:2] / digest
        _check_own(name, path, size)
    if attack.function == "reach":
        _check_reach(store, outcome)
    return "result"


def _check_own(name: str, path: Path, size: int) -> None:
    """A content that is in the store is one that a guest wrote."""
    if path.stat().st_size != size:
        raise FindingError(f"{name!r} is said to have {size} bytes and has {path.stat().st_size}")
    if path.stat().st_nlink != 1 or path.stat().st_mode & 0o7222:
        raise FindingError(f"the content of {name!r} can still be changed: {path.stat()}")
    with path.open("rb") as file:
        start = file.read(len(_MARK))
    if start and not _MARK.startswith(start.rstrip(b"\0")[: len(_MARK)]):
        raise FindingError(f"{name!r} holds what no guest wrote: {start!r}")


def _check_reach(store: Path, outcome: dict[str, Any]) -> None:
    digest, _ = outcome["files"]["found"]
    data = (store / "blobs" / "sha256" / digest[:2] / digest).read_bytes()
    told = json.loads(data.removeprefix(_MARK))
    if told["found"] or [p for p in told["wrote"] if not p.startswith("/proc/sys")]:
        raise FindingError(f"the container reaches out: {str(told)[:500]}")


def _texts(value: Any) -> Iterator[str]:
    """Every text in plain data, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _texts(item)


def _check_text(text: str) -> None:
    """What is shown to people has no characters that do something to a terminal or to a reader."""
    found = _UNSAID.search(text)
    if found:
        name = unicodedata.name(found[0], f"U+{ord(found[0]):04X}")
        raise FindingError(f"shows {name}: {text[max(0, found.start() - 60) : found.end() + 60]!r}")
