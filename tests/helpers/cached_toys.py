"""Plans and results for tests of remote caches, without containers; and storage that fails."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from toy_plan import CODE, IMAGE

from kiln.cache.address import parse_address
from kiln.cache.leases import Times
from kiln.cache.objects import FsspecObjects, Listed, Objects
from kiln.cache.remote import ObjectCache
from kiln.cache.shared import Party, SharedResults
from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import Store
from kiln.recipes.steps import Fact, Files, Output, Plan, StepList
from kiln.signing import keys
from kiln.signing.trust import ROLES, Signer, Trust

MODEL = "toy"
QUICK = Times(beat=0.1, look=0.1, abandoned=1.0, longest=20.0)

#: What each step of the toy plan makes.
MADE = {
    "export": {"saved_model/a.pb": b"graph" * 5000, "saved_model/b.data": bytes(range(256)) * 50},
    "convert": {"model.tflite": b"converted" * 3000},
    "annotate": {"model.tflite": b"annotated" * 3000, "labelmap.txt": b"cat\n"},
    "check": {"report.json": b"{}"},
}


def toy_plan(seed: str = "") -> Plan:
    """Export, convert, annotate and check; ``seed`` makes other keys."""
    steps = StepList(IMAGE, CODE)
    steps.add("export", "export", {"seed": seed}, {"checkpoint": Files({"": "a" * 64})})
    model = {"saved_model": Output("export", "saved_model")}
    steps.add("convert", "convert", {}, model, {"mean": Fact("export", "mean")})
    steps.add("annotate", "annotate", {}, {"model": Output("convert", "model.tflite")})
    steps.add("check", "check", {}, {"model": Output("annotate", "model.tflite")})
    ordered = tuple(steps.steps.values())
    return Plan(MODEL, "odapi", ordered, {"float32": "annotate"}, ("check",))


def run_all(plan: Plan, store: Store, of: Collection[str] = tuple(MADE)) -> list[StageResult]:
    """Put what these steps make into a store, as if they had run there."""
    made = []
    for step in plan.steps:
        if step.id in of:
            files = {n: Blob(store.add_bytes(d), len(d)) for n, d in MADE[step.id].items()}
            result = StageResult(step.key, step.stage, files, {"mean": 127.5, "n": 1}, 3.5, 1000)
            store.put_result(result)
            made.append(result)
    return made


def party(folder: Path, name: str = "own", *others: Signer) -> Party:
    """Someone with a key of their own, who trusts others, too."""
    key = keys.load_or_create_key(folder / f"{name}.pem")
    return Party(key, Trust((Signer(name, key.public_pem, key.key_id), *others)))


def signer_of(someone: Party, models: tuple[str, ...] = ("*",), may: Any = ROLES) -> Signer:
    """How someone else's trust file names this party."""
    assert someone.key is not None
    return Signer("them", someone.key.public_pem, someone.key.key_id, models=models, may=may)


def file_objects(folder: Path) -> FsspecObjects:
    """A cache in a folder, which is created."""
    folder.mkdir(exist_ok=True)
    return FsspecObjects(parse_address(f"file://{folder}"))


class Machine:
    """A store, and results shared through ``objects``."""

    def __init__(
        self, folder: Path, objects: Objects, who: Party | None = None, deadline: float = 10.0
    ) -> None:
        self.store = Store(folder / "store")
        self.notes: list[str] = []
        self.shared = SharedResults(
            ObjectCache(objects),
            self.store,
            who or party(folder.parent),
            "the test's",
            self.notes.append,
            times=QUICK,
            deadline=deadline,
        )

    def push(self, plan: Plan) -> None:
        for result in run_all(plan, self.store):
            self.shared.offer(result)
        self.shared.finish()

    def pull(self, plan: Plan) -> list[str]:
        """Fetch what a build wants; return the ids of the steps that it would have to run."""
        self.shared.fetch(plan, plan.published(), plan.ids())
        return [step.id for step in self.shared.lacking(plan)]


class Faulty:
    """Storage with a fault; calls that have none go to the real one.

    Args:
        fault: called with the name of the method and of the object before each call; it may wait or
            raise. What it returns, unless None, is returned in place of the real answer.
    """

    def __init__(self, real: Objects, fault: Callable[[str, str], bytes | None]) -> None:
        self.real, self.fault = real, fault
        self.calls: list[tuple[str, str]] = []

    def _before(self, what: str, name: str) -> bytes | None:
        self.calls.append((what, name))
        return self.fault(what, name)

    def read(self, name: str, start: int, end: int) -> bytes:
        other = self._before("read", name)
        return self.real.read(name, start, end) if other is None else other[start:end]

    def write(self, name: str, data: bytes) -> None:
        self._before("write", name)
        self.real.write(name, data)

    def create(self, name: str, data: bytes) -> None:
        self._before("create", name)
        self.real.create(name, data)

    def upload(self, name: str, path: Path) -> None:
        self._before("upload", name)
        self.real.upload(name, path)

    def remove(self, name: str) -> None:
        self._before("remove", name)
        self.real.remove(name)

    def listed(self, prefix: str) -> list[Listed]:
        self._before("listed", prefix)
        return self.real.listed(prefix)


def full(what: str, name: str) -> None:
    if what in {"write", "create", "upload"}:
        raise OSError(errno.ENOSPC, "No space left on device")


def read_only(what: str, name: str) -> None:
    if what in {"write", "create", "upload", "remove"}:
        raise PermissionError(errno.EACCES, "secret-key-id may not")


def slow(seconds: float) -> Callable[[str, str], None]:
    def fault(what: str, name: str) -> None:
        time.sleep(seconds)

    return fault
