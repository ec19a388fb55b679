"""Archives of releases and of checkpoints: what archives can say that folders cannot."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training_folder import CONFIG

from hostile.cases import Case, FindingError, Verdict
from hostile.commands import Desk, Said, desk
from hostile.odd_values import flipped
from hostile.sound_release import Workshop

_RECIPE = """\
schema = 1
name = "toy"
title = "A toy"
description = "Nothing."
licence = "Apache-2.0"
author = "Nobody"
version = "1"
architecture = "ssd"
image = "odapi"
variants = ["float32"]
[source]
kind = "archive"
url = "{url}"
root = "toy"
checkpoint = "checkpoint"
pipeline_config = "pipeline.config"
[labels]
file = "labels.pbtxt"
"""


@dataclass
class Archives:
    """The family of archives."""

    workshop: Workshop

    name = "archives"
    what = "archives of releases and checkpoints: links, ways out, lies about sizes, bombs"
    weight = 4

    def names(self) -> Sequence[str]:
        kinds = [f"release-{kind}-{way}" for kind in ("tar", "zip") for way in _ways(kind)]
        return [*kinds, *(f"checkpoint-tar-{way}" for way in _ways("tar"))]

    def run(self, case: Case, place: Path) -> Verdict:
        what, kind, way = case.name.split("-", 2)
        dice = case.dice()
        sound = way == "sound"
        with desk(place, disk=way in {"bomb", "many", "sparse"}) as here:
            canary = str(here.canary.folder / "canary")
            if what == "release":
                end = {"tar": dice.choice([".tar", ".tar.gz", ".tgz"]), "zip": ".zip"}[kind]
                if way == "bomb" and end == ".tar":
                    end = ".tgz"  # else it would be no bomb
                path = here.given / f"release{end}"
                files = {f"dist/{name}": data for name, data in self.workshop.now.items()}
                _pack(path, files, way, kind, dice, canary)
                said = here.run("verify", path, "--key", self.workshop.public)
                if (said.code == 0) != sound and way not in _HARMLESS:
                    raise FindingError(f"{said.words}: {said.kind}\n{said.out[-500:]}{said.err}")
            else:
                path = here.given / "model.tar.gz"
                inside = ("pipeline.config", "checkpoint/ckpt-0.index", "checkpoint/ckpt-0.data")
                files = {f"toy/{n}": n.encode() for n in inside}
                files["toy/pipeline.config"] = CONFIG.encode()
                _pack(path, files, way, kind, dice, canary)
                said = self._build(here, path)
                # The engine of these is out of reach: what is sound gets as far as asking for it.
                if said.code == 0 or (sound and said.code != 20):
                    raise FindingError(f"{said.words}: {said.kind}\n{said.err}")
        return Verdict(not sound, said.kind)

    def _build(self, here: Desk, path: Path) -> Said:
        folder = here.given / "models" / "toy"
        folder.mkdir(parents=True)
        (folder / "recipe.toml").write_text(_RECIPE.format(url=path.as_uri()))
        (folder / "labels.pbtxt").write_text("item { id: 1 name: 'cat' }\n")
        arguments = ("build", "toy", "--models-dir", here.given / "models")
        return here.run(*arguments, "--dist", here.root / "dist")


#: Oddities that change nothing of what is unpacked.
_HARMLESS = {"doubled", "trailing", "flipped", "two-gzips"}


_RESERVED = ("aux", "NUL.txt", "a:b", "ends.", "ends ", "what?")


def _ways(kind: str) -> tuple[str, ...]:
    both = (
        *("sound", "empty", "cut", "flipped", "noise", "doubled", "trailing", "outside"),
        *("absolute", "symlink", "symlink-through", "many", "bomb", "deep", "long-name"),
        *("control-name", "latin-1", "file-and-folder", "extra", "case", "reserved-name"),
    )
    if kind == "zip":
        return (
            *both,
            "offsets",
            "sizes",
            "crc",
            "encrypted",
            "bzip2",
            "lzma",
            "backslash",
            "comment",
        )
    return (
        *both, "hardlink", "fifo", "device", "sparse", "size-field", "negative-size", "pax-path",
        "pax-size", "pax-many", "pax-global", "pax-slow", "gnu-long", "bad-gzip", "two-gzips",
        "setuid",
    )  # fmt: skip


def _pack(
    path: Path, files: Mapping[str, bytes], way: str, kind: str, dice: random.Random, canary: str
) -> None:
    if kind == "zip":
        data = _zip(files, way, dice, canary)
    else:
        plain = _tar(files, way, dice, canary)
        data = plain if path.suffix == ".tar" else gzip.compress(plain, 1)
        if way == "bad-gzip":
            data = flipped(gzip.compress(plain, 1)[:-8], dice) + b"\0" * 8
        elif way == "two-gzips":
            data = gzip.compress(plain, 1) + gzip.compress(plain, 1)
    if way == "empty":
        data = b""
    elif way == "cut":
        data = data[: dice.randrange(1, len(data) * 9 // 10)]
    elif way == "noise":
        data = dice.randbytes(dice.choice([1, 512, 100_000]))
    elif way == "flipped":
        data = flipped(data, dice)
    elif way == "trailing":
        data += dice.randbytes(3000)
    path.write_bytes(data)


#: Name, content, and what else its header says.
_Entry = tuple[str, bytes, dict[str, object]]


def _tar(files: Mapping[str, bytes], way: str, dice: random.Random, canary: str) -> bytes:
    out = io.BytesIO()
    top = next(iter(files)).partition("/")[0]
    plain: list[_Entry] = [(name, data, {}) for name, data in files.items()]
    parts = [plain, list(_odd_entries(way, top, dice, canary, plain))]
    dice.shuffle(parts)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data, about in (entry for part in parts for entry in part):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in about.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    made = bytearray(out.getvalue())
    if way in {"size-field", "negative-size"}:
        at = made.index(b"ustar") - 257
        size = {"size-field": b"77777777777\0", "negative-size": b"\xff" * 12}[way]
        made[at + 124 : at + 136] = size
        made[at + 148 : at + 156] = b" " * 8
        made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
    return bytes(made)


def _odd_entries(
    way: str, top: str, dice: random.Random, canary: str, plain: list[_Entry]
) -> Iterator[_Entry]:
    """What is in the archive besides."""
    out = str(Path(canary).parent)
    aside = f"{top}/../../{'../' * 9}tmp/hostile-{dice.random()}"
    special: dict[str, list[_Entry]] = {
        "outside": [(aside, b"x", {})],
        "absolute": [(canary, b"x", {})],
        "symlink": [(f"{top}/link", b"", {"type": tarfile.SYMTYPE, "linkname": canary})],
        "symlink-through": [
            (f"{top}/through", b"", {"type": tarfile.SYMTYPE, "linkname": out}),
            (f"{top}/through/canary", b"overwritten", {}),
        ],
        "hardlink": [(f"{top}/hard", b"", {"type": tarfile.LNKTYPE, "linkname": canary})],
        "fifo": [(f"{top}/fifo", b"", {"type": tarfile.FIFOTYPE})],
        "device": [(f"{top}/z", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5})],
        "deep": [(f"{top}/" + "d/" * dice.choice([200, 3000]) + "x", b"x", {})],
        "long-name": [(f"{top}/" + "n" * dice.choice([256, 5000, 100_000]), b"x", {})],
        "control-name": [(f"{top}/\x1b[2J\n\u202ex", b"x", {})],
        "latin-1": [(f"{top}/caf\udce9", b"x", {})],
        "doubled": plain,
        "file-and-folder": [(f"{top}/both", b"x", {}), (f"{top}/both/inside", b"x", {})],
        "case": [(f"{top.upper()}/x", b"x", {})],
        "reserved-name": [(f"{top}/{dice.choice(_RESERVED)}", b"x", {})],
        "pax-slow": [(f"{top}/p", b"1" * 1_000_000, {"type": tarfile.XHDTYPE})],
        "extra": [(f"{top}/extra", b"x", {})],
        "setuid": [(f"{top}/setuid", b"x", {"mode": 0o6777})],
        "pax-path": [(f"{top}/p", b"x", {"pax_headers": {"path": f"../../../../..{canary}"}})],
        "pax-size": [(f"{top}/p", b"x", {"pax_headers": {"size": str(1 << 60)}})],
        "gnu-long": [(f"{top}/p", b"n" * 5_000_000, {"type": tarfile.GNUTYPE_LONGNAME})],
        "sparse": [
            (
                f"{top}/s",
                b"1\n0\n1\n" + b"\0" * 506 + b"x",
                {
                    "pax_headers": {
                        "GNU.sparse.major": "1",
                        "GNU.sparse.minor": "0",
                        "GNU.sparse.name": f"{top}/s",
                        "GNU.sparse.realsize": str(1 << 50),
                    }
                },
            )
        ],
    }
    yield from special.get(way, [])
    if way == "many":
        yield from ((f"{top}/n{number}", b"", {}) for number in range(150_000))
    elif way == "bomb":
        yield from ((f"{top}/b{number}", b"\0" * (64 << 20), {}) for number in range(15))
    elif way == "pax-many":
        headers = {f"k{number}": "v" * 100 for number in range(50_000)}
        yield f"{top}/p", b"x", {"pax_headers": headers}
    elif way == "pax-global":
        for start in range(0, 50_000, 5_000):
            records = b"".join(b"13 g%06d=x\n" % n for n in range(start, start + 5_000))
            yield "global", records, {"type": tarfile.XGLTYPE}
            yield f"{top}/p{start}", b"x", {}


def _zip(files: Mapping[str, bytes], way: str, dice: random.Random, canary: str) -> bytes:
    out = io.BytesIO()
    top = next(iter(files)).partition("/")[0]
    ways = {"bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}
    how = ways.get(way, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        if way == "outside":
            archive.writestr(f"{top}/../../{'../' * 9}tmp/hostile-{dice.random()}", b"x")
        elif way == "absolute":
            archive.writestr(canary, b"x")
        elif way in {"symlink", "symlink-through"}:
            info = zipfile.ZipInfo(f"{top}/through")
            info.external_attr = 0o120777 << 16
            archive.writestr(info, str(Path(canary).parent))
            if way == "symlink-through":
                archive.writestr(f"{top}/through/canary", b"overwritten")
        elif way == "many":
            for number in range(150_000):
                archive.writestr(f"{top}/n{number}", b"")
        elif way == "bomb":
            for number in range(15):
                archive.writestr(f"{top}/b{number}", b"\0" * (64 << 20))
        elif way == "deep":
            archive.writestr(f"{top}/" + "d/" * dice.choice([200, 3000]) + "x", b"x")
        elif way == "long-name":
            archive.writestr(f"{top}/" + "n" * dice.choice([256, 5000, 60_000]), b"x")
        elif way == "control-name":
            archive.writestr(f"{top}/\x1b[2J\n\u202ex", b"x")
        elif way == "latin-1":
            archive.writestr(f"{top}/caf\u00e9", b"x")
        elif way == "case":
            archive.writestr(f"{top.upper()}/x", b"x")
        elif way == "reserved-name":
            archive.writestr(f"{top}/{dice.choice(_RESERVED)}", b"x")
        elif way == "file-and-folder":
            archive.writestr(f"{top}/both", b"x")
            archive.writestr(f"{top}/both/inside", b"x")
        elif way == "extra":
            archive.writestr(f"{top}/extra", b"x")
        elif way == "backslash":
            archive.writestr(f"{top}\\..\\..\\x", b"x")
        elif way == "doubled":
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for name, data in files.items():
                    archive.writestr(name, data)
        elif way == "comment":
            archive.comment = b"PK\x05\x06" * 5000
            archive.writestr(f"{top}/extra", b"x")
    made = bytearray(out.getvalue())
    at = bytes(made).rindex(b"PK\x05\x06")
    central = struct.unpack_from("<I", made, at + 16)[0]
    if way == "offsets":
        struct.pack_into("<I", made, dice.choice([at + 16, central + 42]), 0xFFFFFFF0)
    elif way == "sizes":
        struct.pack_into("<I", made, central + dice.choice([20, 24]), 0xFFFFFFF0)
    elif way == "crc":
        struct.pack_into("<I", made, central + 16, zlib.crc32(os.urandom(8)))
    elif way == "encrypted":
        made[central + 8] |= 1
    return bytes(made)
