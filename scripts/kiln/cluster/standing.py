"""What a driver and a worker must have in common, and how a worker declares it to the scheduler.

A worker declares *resources*, and a task asks for some; a scheduler places no task on a worker that
lacks one. So a worker of another kiln, without the plan's image, or with a store of its own gets no
order, also when it joins later. The same facts in full tell people why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kiln.cluster.order import FORM, Order
from kiln.core.digest import key_of, tree_digest
from kiln.core.version import __version__
from kiln.recipes.steps import PROTOCOL
from kiln.running.limits import Limits

#: Bytes of memory of a worker for each model at a time, as ``kiln build`` counts on one machine.
MEMORY = 4 << 30

#: The field of a worker's description that holds its facts.
FIELD = "kiln"

#: What is either there or not, and is not used up.
_PLENTY = 1_000_000.0


@dataclass(frozen=True)
class Standing:
    """What decides whether a worker can run a driver's plans.

    Args:
        kiln: version.
        protocol: of requests to stages.
        form: of orders and answers.
        code: digest of the stage code.
        images: name -> identity; of a driver those that its plans may need, of a worker those that
            its engine holds.
        ways: names of the ways for contents that it can use.
        slots: models at a time; of a worker.
    """

    kiln: str
    protocol: int
    form: int
    code: str
    images: Mapping[str, str] = field(default_factory=dict)
    ways: tuple[str, ...] = ()
    slots: int = 0

    @classmethod
    def here(
        cls, stages: Path, images: Mapping[str, str], ways: Iterable[str], slots: int = 0
    ) -> Standing:
        """Describe this kiln."""
        code = tree_digest(stages)
        return cls(__version__, PROTOCOL, FORM, code, images, tuple(ways), slots)

    @property
    def same(self) -> str:
        """The resource of workers that have the same kiln and stage code."""
        return f"kiln-{key_of([self.kiln, self.protocol, self.form, self.code])[:16]}"

    def resources(self) -> dict[str, float]:
        """Return what a worker declares."""
        return {
            self.same: float(self.slots),
            **{_image(identity): _PLENTY for identity in self.images.values()},
            **{_way(name): _PLENTY for name in self.ways},
        }

    def needs(self, order: Order) -> dict[str, float]:
        """Return what the task of a driver's order asks for."""
        return {
            self.same: float(slots_of(order.limits)),
            **{_image(identity): 1.0 for identity in order.images},
            _way(order.way): 1.0,
        }

    def as_data(self) -> dict[str, Any]:
        """Return it in JSON's own types."""
        return {
            "kiln": self.kiln,
            "protocol": self.protocol,
            "form": self.form,
            "code": self.code,
            "images": dict(self.images),
            "ways": list(self.ways),
            "slots": self.slots,
        }

    @classmethod
    def parse(cls, data: Any) -> Standing | None:
        """Read what :meth:`as_data` gives; None if it is something else."""
        try:
            return cls(
                kiln=str(data["kiln"])[:100],
                protocol=int(data["protocol"]),
                form=int(data["form"]),
                code=str(data["code"])[:64],
                images={str(name)[:100]: str(what)[:80] for name, what in data["images"].items()},
                ways=tuple(str(way)[:100] for way in data["ways"]),
                slots=int(data["slots"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def why_not(self, worker: Standing | None) -> str:
        """Say why a worker gets no orders of this driver, in words; "" if it does."""
        if worker is None:
            return "it is not one of `kiln worker`"
        if worker.kiln != self.kiln:
            return f"it runs kiln {worker.kiln}, the driver {self.kiln}"
        if (worker.protocol, worker.form) != (self.protocol, self.form):
            return "its kiln speaks another protocol than the driver's"
        if worker.code != self.code:
            return f"its stage code is {worker.code[:16]}, the driver's {self.code[:16]}"
        for name, identity in worker.images.items():
            if self.images.get(name, identity) != identity:
                return f"its image {name} is {identity[7:23]}, the driver's is locked as " + (
                    f"{self.images[name][7:23]}"
                )
        if not set(worker.ways) & set(self.ways):
            return "it has another store than the driver, and no cache in common with it"
        return ""

    def lacks(self, worker: Standing, order: Order) -> str:
        """Say what a suitable worker lacks for one order, in words; "" if nothing."""
        held = set(worker.images.values())
        for identity in sorted(order.images - held):
            name = next((n for n, what in self.images.items() if what == identity), identity)
            return f"it does not have the image {name}"
        wanted = slots_of(order.limits)
        if wanted > worker.slots:
            return (
                f"it has memory for {worker.slots} models, and this one takes the place of {wanted}"
            )
        return "" if order.way in worker.ways else "it does not see the same contents"


def slots_of(limits: Limits) -> int:
    """Return how many models' memory one takes: 1, or more where its recipe raises the limit."""
    return 1 if limits.memory <= Limits().memory else math.ceil(limits.memory / MEMORY)


def _image(identity: str) -> str:
    return f"kiln-image-{identity.removeprefix('sha256:')[:16]}"


def _way(name: str) -> str:
    return f"kiln-way-{name}"
