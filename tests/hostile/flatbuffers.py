"""``.tflite`` files that are spoilt, for the commands that read any."""

from __future__ import annotations

import io
import os
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from places import FIXTURES

from hostile.cases import Case, FindingError, Verdict
from hostile.commands import desk
from hostile.odd_values import flipped
from hostile.texts import odd_file

_WAYS = (
    *("bits", "offsets", "small-integers", "cut", "header", "noise", "copied", "zeros", "archive"),
    *("archive-bomb", "archive-odd-names", "long", "sparse", "odd-file", "sound"),
)


@dataclass
class Flatbuffers:
    """The family of ``.tflite`` files."""

    name = "tflite-files"
    what = "spoilt .tflite files: offsets, sizes, packed archives; inspected, compared, annotated"
    weight = 3

    def names(self) -> Sequence[str]:
        return _WAYS

    def run(self, case: Case, place: Path) -> Verdict:
        dice = case.dice()
        sound = dice.choice(sorted(FIXTURES.glob("*.tflite")))
        with desk(place, disk=case.name in {"sparse", "odd-file"}) as here:
            path = here.given / "spoilt.tflite"
            if case.name == "odd-file":
                odd_file(path, dice)
            else:
                path.write_bytes(spoilt(sound.read_bytes(), case.name, dice))
            if case.name == "sparse":
                os.truncate(path, 3 << 30)
            more = dice.choice([(), ("--json",)])
            said = here.run("inspect", path, *more)
            whole = dice.choice([(), ("--all",), ("--json",), ("--all", "--json")])
            pair = [sound, path] if dice.random() < 0.5 else [path, sound]
            here.run("diff", *pair, *whole, may=(1,))
            # As far as the container: there is no engine.
            labels = ("--label-map", FIXTURES / "toy_labels.pbtxt")
            made = ("--mean", "0", "--std", "1", "--force", "-o", here.root / "made.tflite")
            here.run("annotate", path, *labels, *made)
            if case.name == "sound" and said.code:
                raise FindingError(f"{said.words}: {said.err}")
        return Verdict(said.code != 0, said.kind)


def spoilt(data: bytes, way: str, dice: random.Random) -> bytes:
    """A file that is spoilt in this way."""
    made = bytearray(data)

    def words(values: Sequence[int], count: int) -> bytes:
        for _ in range(count):
            at = dice.randrange(0, len(made) - 8) & ~3
            struct.pack_into("<I", made, at, dice.choice(values))
        return bytes(made)

    ways: dict[str, Callable[[], bytes]] = {
        "bits": lambda: flipped(data, dice, 30),
        "offsets": lambda: words(
            [0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, len(data), len(data) - 4, 0], dice.randint(1, 20)
        ),
        "small-integers": lambda: words([0, 1, 2, 4, 8, 16, 255, 65535], dice.randint(1, 20)),
        "cut": lambda: data[: dice.randrange(len(data))],
        "header": lambda: flipped(data[:64], dice) + data[64:],
        "noise": lambda: data[:8] + dice.randbytes(dice.choice([0, 4, 5000])),
        "copied": lambda: bytes(made[:100]) + bytes(made) + bytes(made[100:]),
        "zeros": lambda: data[:8] + b"\0" * (len(data) - 8),
        "archive": lambda: data + flipped(_archive({"labels.txt": b"a\nb\n"}), dice),
        "archive-bomb": lambda: data + _archive({"labels.txt": b"\n" * (200 << 20)}),
        "archive-odd-names": lambda: data + _archive(
            {"../../x": b"x", "/etc/passwd": b"x", "\x1b[2J": b"\x1b[2J", "\u202ex": b"x" * 100_000}
        ),
        "long": lambda: data + b"\0" * (60 << 20),
    }  # fmt: skip
    return ways.get(way, lambda: data)()


def _archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()
