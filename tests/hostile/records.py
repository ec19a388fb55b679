"""Records that say odd things, validly signed by whoever is trusted; and the same unsigned.

Whoever signs can lie, so a signature is no reason to believe a record's shape. All commands that
read a release are tried on each.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile.cases import Case, FindingError, Verdict
from hostile.commands import Desk, Said, desk
from hostile.odd_values import changed, flipped, json_text, odd_value, spoilt_json
from hostile.sound_release import MODEL, Workshop
from kiln.core.errors import KilnError

_JSON = ("conversion.json", "checks.json", "sbom.cdx.json")
_READERS = ("verify", "reproduce", "page", "notes", "collect")


@dataclass
class Records:
    """The family of odd records."""

    workshop: Workshop

    name = "records"
    what = "records and statements of odd shape, validly signed; sums, keys and bundles as text"
    weight = 5

    def names(self) -> Sequence[str]:
        signed = [f"signed-{what}-{how}" for what in ("conversion", "checks", "provenance",
                  "test-result") for how in ("value", "text") if (what, how) not in
                  {("provenance", "text"), ("test-result", "text")}]  # fmt: skip
        labels = ["signed-labels", "signed-source", "signed-artefact"]
        return [*signed, *labels, "unsigned-bundle", "unsigned-sums", "unsigned-key", "sound"]

    def run(self, case: Case, place: Path) -> Verdict:
        dice = case.dice()
        with desk(place) as here:
            dist = here.given / "dist"
            if case.name.startswith("unsigned"):
                self._unsigned(case.name, dist, dice)
                said = here.run("verify", dist, "--key", self.workshop.public)
                if said.code == 0:
                    raise FindingError(f"accepted, though changed: {said.out}")
                return Verdict(True, said.kind)
            try:
                self._signed(case.name, dist, dice, str(here.canary.folder / "canary"))
            except (KilnError, ValueError, TypeError, RecursionError, OverflowError) as error:
                # Our own writer would not sign that; a stranger's would, but we have none.
                return Verdict(True, f"not signed: {type(error).__name__}")
            return self._read(here, dist, case)

    def _read(self, here: Desk, dist: Path, case: Case) -> Verdict:
        key = self.workshop.public
        said: dict[str, Said] = {"verify": here.run("verify", dist, "--key", key)}
        if case.name == "sound" and said["verify"].code:
            raise FindingError(f"refused, though sound: {said['verify'].err}")
        dice = case.dice()
        reader = _READERS[dice.randrange(1, len(_READERS))]
        if reader == "reproduce":
            one = dice.choice(["--key", "--unverified"])
            more = [key] if one == "--key" else []
            here.run("reproduce", dist, one, *more)
        elif reader == "page":
            here.run("page", "--dist", dist, "--out", here.root / "page.html", changes=True)
        elif reader == "notes":
            here.run("notes", dist)
        else:
            here.run("collect", dist, "--dist", here.root / "all", changes=True)
        for name in ("float32", "dynamic"):
            here.run("verify", dist / MODEL / f"{MODEL}_{name}.tflite", "--key", key)
        return Verdict(said["verify"].code != 0, said["verify"].kind)

    def _unsigned(self, name: str, dist: Path, dice: random.Random) -> None:
        self.workshop.lay_out(dist)
        ends = {"bundle": ".sigstore.json", "sums": "SHA256SUMS", "key": "kiln.pub"}
        end = ends[name.partition("-")[2]]
        path = dice.choice(sorted(p for p in dist.rglob("*") if p.name.endswith(end)))
        data = path.read_bytes()
        made = data
        while made == data:
            if end == ".sigstore.json" and dice.random() < 0.6:
                document = json.loads(data)
                made = json_text(changed(document, dice, "/canary"))
            elif end == ".sigstore.json":
                made = spoilt_json(data, dice)
            else:
                made = dice.choice(
                    [flipped(data, dice), data * 50_000, data[: len(data) // 2], data + b"\0" * 100,
                     data.replace(b"  ", b"  ../../"), b"x" * 3_000_000, b"\n" * 1_000_000]
                )  # fmt: skip
        path.write_bytes(made)

    def _signed(self, name: str, dist: Path, dice: random.Random, canary: str) -> None:
        def change(files: dict[str, bytes], statements: dict[str, dict[str, Any]]) -> None:
            if name.startswith("signed-labels"):
                files["labelmap.txt"] = dice.choice(
                    [b"", b"\n" * 100_000, b"x" * 2_000_000, b"\xff\xfe", b"\x1b[2J\n", b"\0",
                     "\u202e\n".encode(), b"<script>\n"]
                )  # fmt: skip
            elif name == "signed-source":
                files["source.tar"] = dice.choice(
                    [b"", flipped(files["source.tar"], dice), b"\0" * 10_240,
                     files["source.tar"][:1000], files["source.tar"] * 3]
                )  # fmt: skip
            elif name == "signed-artefact":
                path = f"{MODEL}_float32.tflite"
                files[path] = flipped(files[path], dice, 40)
            elif name.startswith(("signed-conversion", "signed-checks")):
                path = f"{name.split('-')[1]}.json"
                document = json.loads(files[path])
                spoilt = name.endswith("text")
                files[path] = (
                    spoilt_json(files[path], dice)
                    if spoilt
                    else json_text(changed(document, dice, canary))
                )
            elif name != "sound":
                kind = "provenance" if "provenance" in name else "test-result"
                path = dice.choice(sorted(p for p in statements if f".{kind}." in p))
                made = changed(statements[path], dice, canary)
                statements[path] = made if isinstance(made, dict) else {"_type": odd_value(dice)}

        self.workshop.signed(dist, change)
