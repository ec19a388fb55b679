"""Texts that people hand over: trust files, recipes, image definitions, label maps, pipelines."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from places import ROOT
from training_folder import save

from hostile.cases import Case, FindingError, Verdict
from hostile.commands import Desk, Said, desk
from hostile.odd_values import flipped, spoilt_toml
from hostile.sound_release import Workshop

_TRUST = """\
schema = 1

[[signer]]
name = "Release key"
key = "mine.pub"
may = ["release", "model", "provenance", "test-result"]
models = ["*"]

[[signer]]
identity = "https://example.com/workflow@refs/tags/*"
issuer = "https://example.com"
may = ["provenance"]
models = ["ssd_*"]

[require]
clean_git = false
test_result = "WARNED"
repository = "git+https://example.com/*"
"""
_KINDS = ("trust", "recipe", "images", "lock", "label-map", "pipeline")


@dataclass
class Texts:
    """The family of texts."""

    workshop: Workshop

    name = "texts"
    what = "trust files, recipes, image definitions and locks, label maps, pipeline configs"
    weight = 4

    def names(self) -> Sequence[str]:
        return [*_KINDS, *(f"{kind}-odd-file" for kind in _KINDS), *(f"{k}-sound" for k in _KINDS)]

    def run(self, case: Case, place: Path) -> Verdict:
        kind = next(one for one in _KINDS if case.name.startswith(one))
        how = case.name.removeprefix(kind).removeprefix("-")
        with desk(place, disk=True) as here:
            said = getattr(self, f"_{kind.replace('-', '_')}")(here, case.dice(), how)
            if how == "sound" and said.code not in (0, 20):
                raise FindingError(f"{said.words}: refused, though sound: {said.err}")
        return Verdict(said.code not in (0, 20), said.kind)

    def _write(self, path: Path, text: str, dice: random.Random, how: str) -> None:
        """A spoilt text at ``path``, or something there that is no text."""
        path.unlink(missing_ok=True)
        if how == "sound":
            path.write_text(text)
        elif how == "odd-file":
            odd_file(path, dice)
        elif path.suffix in {".toml", ".lock"}:
            path.write_bytes(spoilt_toml(text, dice))
        else:
            path.write_bytes(_spoilt(text, dice))

    def _trust(self, here: Desk, dice: random.Random, how: str) -> Said:
        dist = here.given / "dist"
        self.workshop.lay_out(dist)
        (here.given / "mine.pub").write_bytes(self.workshop.public.read_bytes())
        self._write(here.given / "trust.toml", _TRUST, dice, how)
        return here.run("verify", dist, "--policy", here.given / "trust.toml")

    def _recipe(self, here: Desk, dice: random.Random, how: str) -> Said:
        samples = ROOT / "models" / "samples"
        source = dice.choice(sorted(samples.glob("*/recipe.toml")))
        folder = here.given / "models" / "samples"
        shutil.copytree(source.parent, folder / source.parent.name)
        for name in ("images", "shapes"):
            if (samples / name).is_dir():
                shutil.copytree(samples / name, folder / name)
        recipe = folder / source.parent.name / "recipe.toml"
        self._write(recipe, source.read_text("utf-8"), dice, how)
        where = ("--models-dir", here.given / "models")
        said = here.run("plan", source.parent.name, *where)
        if dice.random() < 0.3:
            here.run("build", source.parent.name, *where, "--dist", here.root / "dist")
        return said

    def _images(self, here: Desk, dice: random.Random, how: str) -> Said:
        return self._docker(here, dice, how, "images.toml")

    def _lock(self, here: Desk, dice: random.Random, how: str) -> Said:
        return self._docker(here, dice, how, "images.lock")

    def _docker(self, here: Desk, dice: random.Random, how: str, name: str) -> Said:
        project = here.given / "project"
        shutil.copytree(ROOT / "docker", project / "docker")
        shutil.copytree(ROOT / "models" / "samples", project / "models" / "samples")
        path = project / "docker" / name
        self._write(path, path.read_text("utf-8"), dice, how)
        # What people are told first, and what asks for an image.
        here.run("doctor", project=project, changes=True)
        said = here.run("plan", "--samples", project=project)
        here.run("images", "context", project=project, changes=True)
        return said

    def _label_map(self, here: Desk, dice: random.Random, how: str) -> Said:
        return self._own_model(here, dice, how, "label_map.pbtxt")

    def _pipeline(self, here: Desk, dice: random.Random, how: str) -> Said:
        return self._own_model(here, dice, how, "pipeline.config")

    def _own_model(self, here: Desk, dice: random.Random, how: str, name: str) -> Said:
        folder = here.given / "training"
        folder.mkdir()
        sample = ROOT / "models" / "samples" / "centernet_mobilenet_v2_fpn_shapes"
        for one in ("pipeline.config", "label_map.pbtxt"):
            shutil.copy(sample / one, folder)
        save(folder, "ckpt-1")
        (folder / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\n')
        self._write(folder / name, (folder / name).read_text("utf-8"), dice, how)
        arguments = ("--checkpoint", folder, "--label-map", folder / "label_map.pbtxt")
        images = ("--images", ROOT / "models" / "samples" / "shapes")
        return here.run("init", *arguments, *images, "--name", "toy", "-o", here.root / "toy")


def odd_file(path: Path, dice: random.Random) -> None:
    """Something that is no text, where one was."""
    ways = ("fifo", "folder", "zero", "random", "sparse", "dangling", "itself", "large")
    way = dice.choice(ways)
    if way == "fifo":
        os.mkfifo(path)
    elif way == "folder":
        path.mkdir()
    elif way == "zero":
        path.symlink_to("/dev/zero")
    elif way == "random":
        path.symlink_to("/dev/urandom")
    elif way == "sparse":
        path.touch()
        os.truncate(path, 3 << 30)
    elif way == "dangling":
        path.symlink_to("nowhere")
    elif way == "itself":
        path.symlink_to(path.name)
    else:
        path.write_bytes(b"x = 1\n" * 3_000_000)


def _spoilt(text: str, dice: random.Random) -> bytes:
    """A protobuf text spoilt."""
    lines = text.splitlines()
    deep = dice.choice([70, 3000, 100_000])
    number = dice.randrange(len(lines))
    odd = [
        "item {" * deep + "}" * deep, "model { " * deep, "}" * 1000,
        "item { id: 99999999999999999999 }",
        "item { id: -1 name: 'x' }", "item { id: 1e9 name: 'x' }",
        f"item {{ name: '{'x' * 500_000}' }}",
        "item { id: 1 name: '\\xff\\x00\\033[2J' }", "\x00", "\u202e", "\x1b[2J", "'", '"', "\\",
        f"x: {'9' * 5000}", "x: nan", "x: inf", "x: 0x" + "f" * 3000, "# " + "y" * 1_000_000,
        *["item { id: 5 name: 'a' }"] * 2, "item { id: 32768 name: 'a' }",
        "\n".join(f"item {{ id: {one} name: 'n{one}' }}" for one in range(50_000)),
    ]  # fmt: skip
    values = [
        "-1",
        "0",
        "1e999",
        "nan",
        "99999999999",
        "'x'",
        "",
        "[1, 2",
        "{ }",
        "true",
        "2147483648",
    ]
    name = lines[number].partition(":")[0]
    ways: list[Callable[[], str]] = [
        lambda: "\n".join([*lines[:number], dice.choice(odd), *lines[number:]]),
        lambda: "\n".join([*lines[:number], dice.choice(odd), *lines[number:]]),
        lambda: "\n".join(
            [*lines[:number], f"{name}: {dice.choice(values)}", *lines[number + 1 :]]
        ),
        lambda: "\n".join(
            [*lines[:number], f"{name}: {dice.choice(values)}", *lines[number + 1 :]]
        ),
        lambda: "\n".join(lines[:number]),
        lambda: "\n".join(line for line in lines if dice.random() > 0.1),
        lambda: "\n".join(lines) * 30,
        lambda: "",
        lambda: flipped(text.encode(), dice, 20).decode("latin-1"),
    ]
    made = dice.choice(ways)().encode("utf-8", "surrogatepass")
    return made.decode().encode("utf-16") if dice.random() < 0.05 else made
