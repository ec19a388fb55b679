"""One hostile case: who tries what, with which dice, and how it ended."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class FindingError(AssertionError):
    """Something that must never happen did: says what, with all that is needed to look for it."""


class LeftOutError(Exception):
    """This machine cannot bring the case about; says why."""


@dataclass(frozen=True)
class Case:
    """One case; everything random in it follows from ``seed``.

    >>> Case.parse("stage-output/swap-folder/7")
    Case(family='stage-output', name='swap-folder', seed=7)
    """

    family: str
    name: str
    seed: int

    def __str__(self) -> str:
        return f"{self.family}/{self.name}/{self.seed}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case that ``str()`` wrote.

        Raises:
            ValueError: it is none.
        """
        family, name, seed = text.split("/")
        return cls(family, name, int(seed))

    @property
    def again(self) -> str:
        """How a person runs this case alone."""
        return f"make storm CASE={self}"

    def dice(self) -> random.Random:
        """Dice of this case alone, the same at every run and on every Python."""
        digest = hashlib.sha256(str(self).encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))


@dataclass(frozen=True)
class Verdict:
    """A case that ended as it should.

    Attributes:
        refused: kiln refused, with a code of its own; otherwise it survived and what it made or
            said was right.
        word: the refusal's kind, or what was made.
        count: how many times the thing was tried, where one case tries it many times.
    """

    refused: bool
    word: str = ""
    count: int = 1


def busy() -> float:
    """How many times longer things may take, because others want this machine's processors."""
    return min(6.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


class Family(Protocol):
    """Cases of one kind."""

    @property
    def name(self) -> str:
        """As in :attr:`Case.family`."""

    @property
    def what(self) -> str:
        """What is done, in a few words for the table."""

    @property
    def weight(self) -> int:
        """How often it is picked, compared with the others."""

    def names(self) -> Sequence[str]:
        """All that it can do."""

    def run(self, case: Case, place: Path) -> Verdict:
        """Try one, in the empty folder ``place``.

        Raises:
            FindingError: it did not end as it should.
            LeftOutError: this machine cannot do it.
        """
