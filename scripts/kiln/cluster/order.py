"""What a driver sends to a worker, and what comes back: plain JSON.

An order is a plan with the limits of its containers, and what the driver's own code and images are.
Nothing in it depends on who asks, so the same work has the same text, and its digest is the task's
name: a scheduler runs it once, however many ask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, cast

from kiln.core.digest import canonical_json, key_of
from kiln.core.errors import ClusterError, KilnError, VerificationError, error_for_kind
from kiln.core.plain_text import plain, shortened
from kiln.core.untrusted import MalformedError, parse_json_object
from kiln.recipes.steps import Plan
from kiln.running.limits import Limits
from kiln.statements.plan_data import whole_plan_as_data, whole_plan_from_data

#: Raised when the meaning of orders or answers changes.
FORM = 1

#: The tasks' prefix: Dask estimates durations by it.
PREFIX = "kiln"

_MAX_ORDER = 64 << 20
_MAX_ANSWER = 16 << 20
_MAX_TEXT = 32 << 10


@dataclass(frozen=True)
class Order:
    """One plan to run.

    Args:
        files: ids of the steps whose files are needed.
        facts: ids of those whose facts and digests are needed, too.
        way: how contents travel (:mod:`kiln.cluster.transfer`).
        attempt: 1, and more where it is asked for again after a worker's machine failed.
    """

    plan: Plan
    limits: Limits
    files: tuple[str, ...]
    facts: tuple[str, ...]
    way: str
    attempt: int = 1

    @cached_property
    def text(self) -> str:
        """The order as JSON."""
        plan = self.plan
        data = {
            "form": FORM,
            "model": plan.model,
            "plan": whole_plan_as_data(plan),
            "images": {plan.identity: plan.image, **plan.others},
            "limits": asdict(self.limits),
            "files": sorted(self.files),
            "facts": sorted(self.facts),
            "way": self.way,
            "attempt": self.attempt,
        }
        return canonical_json(data).decode()

    @property
    def key(self) -> str:
        """The task's name in the scheduler."""
        return key_of_text(self.text)

    @property
    def images(self) -> set[str]:
        """Identities of the images that its steps run in."""
        return {step.image or self.plan.identity for step in self.plan.steps}

    @classmethod
    def parse(cls, text: str) -> Order:
        """Read what :attr:`text` gives.

        Raises:
            ClusterError: it is something else, or of another version.
        """
        try:
            data = parse_json_object(text, size=_MAX_ORDER)
            if data["form"] != FORM:
                raise _bad(f"is of form {str(data['form'])[:20]}, this kiln knows {FORM}")
            plan = whole_plan_from_data(data["plan"], model=data["model"], images=data["images"])
            known = set(plan.ids())
            wanted = {*data["files"], *data["facts"]}
            if not wanted <= known:
                raise _bad("asks for steps that its plan does not have")
            names = {item.name for item in fields(Limits)}
            if set(data["limits"]) != names:
                raise _bad("has other limits than this kiln knows")
            limits = Limits(**{name: _number(data["limits"][name]) for name in names})
            return cls(
                plan,
                limits,
                tuple(data["files"]),
                tuple(data["facts"]),
                str(data["way"]),
                int(data["attempt"]),
            )
        except (MalformedError, VerificationError, KeyError, TypeError, ValueError) as error:
            raise _bad(f"cannot be read ({shortened(plain(str(error)), 200)})") from None


def key_of_text(text: str) -> str:
    """Return the name of the task whose order is ``text``."""
    return f"{PREFIX}-{key_of({'order': text})}"


def _number(value: Any) -> Any:
    if type(value) not in (int, float) or value <= 0:
        raise ValueError("a limit is not a number")
    return value


def _bad(what: str) -> ClusterError:
    return ClusterError(
        f"An order from the driver {what}.",
        "Install the same version of kiln on the driver and on its workers.",
    )


@dataclass(frozen=True)
class Answer:
    """What a worker says of an order.

    Args:
        worker: its name.
        files: step id -> path -> SHA-256, of every step with a result.
        ran: ids of the steps that were not in its store, with their seconds and peak memory.
        error: why there are no results.
        here: whether the error is one of the worker's machine, so that another may do better.
    """

    worker: str
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ran: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    error: KilnError | None = None
    here: bool = False

    def as_text(self) -> str:
        """Return it as JSON."""
        error = self.error
        data = {
            "form": FORM,
            "worker": self.worker,
            "files": {step: dict(files) for step, files in self.files.items()},
            "ran": {step: list(numbers) for step, numbers in self.ran.items()},
            "error": None
            if error is None
            else {"kind": error.kind, "message": error.message, "remedy": error.remedy},
            "here": self.here,
        }
        return json.dumps(data, sort_keys=True)

    @classmethod
    def parse(cls, text: Any) -> Answer:
        """Read what :meth:`as_text` gives; texts are made safe to show.

        Raises:
            ClusterError: it is something else.
        """
        try:
            if not isinstance(text, str):
                raise TypeError("it is no text")
            data = parse_json_object(text, size=_MAX_ANSWER)
            if data["form"] != FORM:
                raise ValueError("it is of another form")
            files = {str(step): _texts(named) for step, named in data["files"].items()}
            ran = {
                str(step): (float(seconds), int(peak))
                for step, (seconds, peak) in data["ran"].items()
            }
            failure = None if data["error"] is None else _failure(_texts(data["error"]))
            return cls(_shown(data["worker"]), files, ran, failure, data["here"] is True)
        except (MalformedError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ClusterError(
                f"A worker's answer cannot be read ({shortened(plain(str(error)), 200)}).",
                "Install the same version of kiln on the driver and on its workers.",
            ) from None


def _failure(said: Mapping[str, str]) -> KilnError:
    return error_for_kind(said["kind"])(_shown(said["message"]), _shown(said["remedy"]))


def _texts(data: Any) -> dict[str, str]:
    if not isinstance(data, dict) or not all(isinstance(item, str) for item in data.values()):
        raise TypeError("it is damaged")
    return cast("dict[str, str]", data)


def _shown(text: Any) -> str:
    return shortened(plain(str(text), keep="\n"), _MAX_TEXT)
