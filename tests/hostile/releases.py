"""Whole releases that were tampered with: nothing that was changed may verify."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from release_mutations import MUTATIONS, World

from hostile.cases import Case, FindingError, Verdict
from hostile.commands import Desk, desk
from hostile.sound_release import Workshop

#: Spoils the release in a folder.
Spoil = Callable[[Path, random.Random, Desk, Workshop], None]

_SPARSE = 3 << 30


@dataclass
class Releases:
    """The family of tampered releases: every case must be refused by `kiln verify`."""

    workshop: Workshop

    name = "releases"
    what = "release folders changed, replayed, signed by others; links, FIFOs, sizes, depths"
    weight = 5

    @cached_property
    def _ways(self) -> dict[str, Spoil]:
        def mutation(mutate: Callable[[World], list[str]]) -> Spoil:
            def spoil(dist: Path, dice: random.Random, place: Desk, shop: Workshop) -> None:
                mutate(
                    World(
                        dist, shop.trust, dict(shop.now), dict(shop.old), dict(shop.stranger), dice
                    )
                )

            return spoil

        unique = {mutate.__name__: mutate for mutate in MUTATIONS}
        found = {f"mutation-{name.replace('_', '-')}": mutation(m) for name, m in unique.items()}
        return {**found, **_own_ways(), "sound": lambda *_: None}

    def names(self) -> Sequence[str]:
        return tuple(self._ways)

    def run(self, case: Case, place: Path) -> Verdict:
        with desk(place, disk=case.name.startswith(("many", "deep"))) as here:
            dist = here.given / "dist"
            self.workshop.lay_out(dist)
            self._ways[case.name](dist, case.dice(), here, self.workshop)
            said = here.run("verify", dist, "--key", self.workshop.public)
            if (said.code == 0) != (case.name == "sound"):
                raise FindingError(f"{said.words}: {said.kind}\n{said.out}{said.err}")
        return Verdict(said.code != 0, said.kind)


def _own_ways() -> dict[str, Spoil]:
    found: dict[str, Spoil] = {}
    for kind in ("bundle", "sums", "signature", "artefact", "record", "key", "source"):
        for what in ("fifo", "socket", "folder", "link-canary", "link-same", "sparse", "device",
                     "empty", "zeros"):  # fmt: skip
            found[f"{kind}-{what}"] = _in_place_of(kind, what)
    for depth in (100, 6000):
        found[f"deep-{depth}"] = _deep(depth)
    found["many-files"] = _many
    for name in ("control", "bidi", "latin-1", "long", "newline", "option"):
        found[f"name-{name}"] = _named(name)
    return found


def _one_of(kind: str, dist: Path, dice: random.Random) -> Path:
    ends = {
        "bundle": ".sigstore.json", "sums": "SHA256SUMS", "signature": "model.sig",
        "artefact": ".tflite", "record": "conversion.json", "key": "kiln.pub",
        "source": "source.tar",
    }  # fmt: skip
    found = sorted(path for path in dist.rglob("*") if path.name.endswith(ends[kind]))
    return dice.choice(found)


def _in_place_of(kind: str, what: str) -> Spoil:
    def spoil(dist: Path, dice: random.Random, place: Desk, shop: Workshop) -> None:
        path = _one_of(kind, dist, dice)
        data = path.read_bytes()
        path.unlink()
        if what == "fifo":
            os.mkfifo(path)
        elif what == "socket":
            folder = os.open(path.parent, os.O_RDONLY)  # a socket's own path must be short
            socket.socket(socket.AF_UNIX).bind(f"/proc/self/fd/{folder}/{path.name}")
            os.close(folder)
        elif what == "folder":
            path.mkdir()
        elif what == "link-canary":
            path.symlink_to(place.canary.folder / "canary")
        elif what == "link-same":
            aside = place.root / "aside"
            aside.write_bytes(data)
            path.symlink_to(aside)
        elif what == "sparse":
            path.write_bytes(data)
            os.truncate(path, _SPARSE)
        elif what == "device":
            try:
                os.mknod(path, 0o020666, os.makedev(1, 5))  # /dev/zero
            except PermissionError:
                os.mkfifo(path)
        elif what == "zeros":
            path.write_bytes(b"\0" * len(data))
        else:
            path.write_bytes(b"")

    return spoil


def _deep(depth: int) -> Spoil:
    def spoil(dist: Path, dice: random.Random, place: Desk, shop: Workshop) -> None:
        start = dice.choice([dist, *(path for path in sorted(dist.iterdir()) if path.is_dir())])
        here = os.open(start, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)

    return spoil


def _many(dist: Path, dice: random.Random, place: Desk, shop: Workshop) -> None:
    folder = dist / dice.choice(["alpha", "more", "alpha/attestations"])
    folder.mkdir(exist_ok=True)
    for number in range(100_000):
        (folder / f"n{number}").touch()


def _named(kind: str) -> Spoil:
    names = {
        "control": b"\x1b[2J\x07", "bidi": "\u202egpj.x".encode(), "latin-1": b"caf\xe9",
        "long": b"n" * 255, "newline": b"a\nkiln: All good", "option": b"--key",
    }  # fmt: skip

    def spoil(dist: Path, dice: random.Random, place: Desk, shop: Workshop) -> None:
        folder = dice.choice([dist, dist / "alpha", dist / "alpha" / "attestations"])
        path = folder / os.fsdecode(names[kind])
        path.mkdir() if dice.random() < 0.3 else path.write_bytes(b"x")

    return spoil
