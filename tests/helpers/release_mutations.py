"""What may be done to a release: each mutation says of which files one at least must be named.

What an attacker without the key can rewrite as well (``SHA256SUMS``), is rewritten. Replays take
files, signatures and folders of another release by the same key.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from small_release import MODELS, sums_of

from kiln.signing.trust import Trust

SUMS, STATEMENT, KEY = "SHA256SUMS", "release.sigstore.json", "kiln.pub"


@dataclass
class World:
    """A release to spoil, what it was, and what an attacker has at hand.

    Attributes:
        dist: the folder.
        trust: the verifier's.
        now: path -> content of the release as published.
        old: the same of another release of the same models by the same key.
        stranger: the same of this release, signed by another key.
        rng: the attacker's dice.
        stamps: path -> what stat says of the untouched file.
    """

    dist: Path
    trust: Trust
    now: dict[str, bytes]
    old: dict[str, bytes]
    stranger: dict[str, bytes]
    rng: random.Random
    stamps: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def pick(self, among: list[str] | None = None) -> str:
        return self.rng.choice(sorted(self.now) if among is None else among)

    def write(self, path: str, data: bytes) -> None:
        (self.dist / path).parent.mkdir(parents=True, exist_ok=True)
        (self.dist / path).write_bytes(data)

    def rewrite_sums(self) -> None:
        (self.dist / SUMS).write_bytes(sums_of(self.dist))

    def restore(self) -> None:
        """Undo whatever was done, by what is there and not by what was meant."""
        for folder, names, files in os.walk(self.dist, topdown=False):
            for name in [*files, *names]:
                path = Path(folder) / name
                relative = path.relative_to(self.dist).as_posix()
                if path.is_symlink() or not path.is_dir():
                    if relative not in self.now or path.is_symlink() or not path.is_file():
                        path.unlink()
                elif not any(path.iterdir()):
                    path.rmdir()
        for path, data in self.now.items():
            place = self.dist / path
            if not place.is_file() or self._stamp(place) != self.stamps.get(path):
                place.unlink(missing_ok=True)
                self.write(path, data)
                self.stamps[path] = self._stamp(place)

    @staticmethod
    def _stamp(place: Path) -> tuple[int, int, int]:
        found = place.lstat()
        return found.st_mtime_ns, found.st_size, found.st_ino


def contents(dist: Path) -> dict[str, bytes]:
    return {p.relative_to(dist).as_posix(): p.read_bytes() for p in dist.rglob("*") if p.is_file()}


def flip(w: World) -> list[str]:
    path = w.pick()
    data = bytearray(w.now[path])
    data[w.rng.randrange(len(data))] ^= 1 << w.rng.randrange(8)
    w.write(path, bytes(data))
    return [path]


def flip_small(w: World) -> list[str]:
    """Where all of the trust is: statements, bundles, sums, key."""
    path = w.pick([p for p in w.now if p.endswith((".json", ".sig", ".pub", SUMS))])
    data = bytearray(w.now[path])
    data[w.rng.randrange(len(data))] ^= 1 << w.rng.randrange(8)
    w.write(path, bytes(data))
    return [path]


def flip_and_rewrite_sums(w: World) -> list[str]:
    found = flip(w)
    while found == [SUMS]:
        w.restore()
        found = flip(w)
    w.rewrite_sums()
    return [*found, SUMS]


def drop(w: World) -> list[str]:
    path = w.pick()
    (w.dist / path).unlink()
    if path != SUMS and w.rng.random() < 0.5:
        w.rewrite_sums()
    return [path]


def drop_model(w: World) -> list[str]:
    model = w.rng.choice(MODELS)
    shutil.rmtree(w.dist / model)
    if w.rng.random() < 0.5:
        w.rewrite_sums()
    return [p for p in w.now if p.startswith(f"{model}/")]


def add(w: World) -> list[str]:
    where = w.rng.choice(["", *(f"{m}/" for m in MODELS), f"{MODELS[0]}/attestations/", "new/"])
    name = w.rng.choice(
        ["new", "x.tflite", ".hidden", "a b", "é", "model.sig.bak", "._a", "a.json"]
    )
    w.write(where + name, w.rng.choice([b"", b"x", w.now[w.pick()]]))
    if w.rng.random() < 0.5:
        w.rewrite_sums()
    return [where + name]


def add_odd(w: World) -> list[str]:
    path = w.rng.choice(["", *(f"{m}/" for m in MODELS), f"{MODELS[0]}/attestations/"]) + "odd"
    place = w.dist / path
    w.rng.choice(
        [
            place.mkdir,
            lambda: place.symlink_to("nowhere"),
            lambda: place.symlink_to(w.dist / MODELS[0]),
            lambda: place.symlink_to(KEY),
            lambda: os.mkfifo(place),
        ]
    )()
    return [path]


def link(w: World) -> list[str]:
    path = w.pick()
    outside = w.dist.parent / "outside"
    outside.write_bytes(w.now[path])
    (w.dist / path).unlink()
    (w.dist / path).symlink_to(outside)
    return [path]


def swap(w: World) -> list[str]:
    one, two = w.rng.sample(sorted(w.now), 2)
    while w.now[one] == w.now[two]:
        one, two = w.rng.sample(sorted(w.now), 2)
    w.write(one, w.now[two])
    w.write(two, w.now[one])
    if SUMS not in (one, two) and w.rng.random() < 0.5:
        w.rewrite_sums()
    return [one, two]


def swap_alike(w: World) -> list[str]:
    """Files of one kind: two artefacts, two provenances, two model signatures."""
    ends = w.rng.choice([".tflite", ".provenance.sigstore.json", ".test-result.sigstore.json",
                         "model.sig", "conversion.json", "labelmap.txt"])  # fmt: skip
    one, two = w.rng.sample(sorted(p for p in w.now if p.endswith(ends)), 2)
    if w.now[one] == w.now[two]:
        return flip(w)
    w.write(one, w.now[two])
    w.write(two, w.now[one])
    w.rewrite_sums()
    return [one, two]


def swap_models(w: World) -> list[str]:
    one, two = w.rng.sample(list(MODELS), 2)
    (w.dist / one).rename(w.dist / "aside")
    (w.dist / two).rename(w.dist / one)
    (w.dist / "aside").rename(w.dist / two)
    w.rewrite_sums()
    return [p for p in w.now if p.startswith((f"{one}/", f"{two}/"))]


def rename(w: World) -> list[str]:
    path = w.pick()
    new = path + w.rng.choice(["x", ".bak", "~"])
    (w.dist / path).rename(w.dist / new)
    if path != SUMS and w.rng.random() < 0.5:
        w.rewrite_sums()
    return [path, new]


def rename_model(w: World) -> list[str]:
    model = w.rng.choice(MODELS)
    (w.dist / model).rename(w.dist / f"{model}2")
    w.rewrite_sums()
    return [f"{model}2/model.sig", f"{model}/model.sig", SUMS]


def truncate(w: World) -> list[str]:
    path = w.pick()
    data = w.now[path]
    w.write(path, data[: w.rng.choice([0, len(data) // 2, len(data) - 1])])
    if path != SUMS and w.rng.random() < 0.5:
        w.rewrite_sums()
    return [path]


def append(w: World) -> list[str]:
    path = w.pick()
    w.write(path, w.now[path] + w.rng.choice([b"\n", b" ", b"\0", b"x", w.now[path]]))
    if path != SUMS and w.rng.random() < 0.5:
        w.rewrite_sums()
    return [path]


def replay_file(w: World) -> list[str]:
    """One file of the other release, validly signed there where it is a signature."""
    path = w.pick([p for p in w.now if w.old[p] != w.now[p]])
    w.write(path, w.old[path])
    if path != SUMS and w.rng.random() < 0.7:
        w.rewrite_sums()
    return [path, SUMS, STATEMENT]


def replay_artefact(w: World) -> list[str]:
    """An older artefact with its own provenance and test result."""
    path = w.pick([p for p in w.now if p.endswith(".tflite")])
    folder, _, name = path.partition("/")
    taken = [p for p in w.now if p == path or p.startswith(f"{folder}/attestations/{name}.")]
    for one in taken:
        w.write(one, w.old[one])
    w.rewrite_sums()
    return taken


def replay_model(w: World) -> list[str]:
    """A whole older model, with all of its signatures."""
    chosen = w.rng.sample(list(MODELS), w.rng.randint(1, len(MODELS)))
    taken = [p for p in w.now if p.split("/")[0] in chosen]
    for path in taken:
        w.write(path, w.old[path])
    w.rewrite_sums()
    return [*taken, SUMS]


def replay_statement(w: World) -> list[str]:
    """The older release's statement over the newer files, with or without its sums."""
    w.write(STATEMENT, w.old[STATEMENT])
    if w.rng.random() < 0.5:
        w.write(SUMS, w.old[SUMS])
    return [STATEMENT, SUMS]


def replay_all_but(w: World) -> list[str]:
    """The older release, but for one file."""
    kept = w.pick([p for p in w.now if w.old[p] != w.now[p]])
    for path, data in w.old.items():
        if path != kept:
            w.write(path, data)
    if kept not in (SUMS, STATEMENT) and w.rng.random() < 0.5:
        w.rewrite_sums()
    return [kept, STATEMENT, SUMS]


def replay_under_another_name(w: World) -> list[str]:
    """An older model's folder under the name of another model."""
    one, two = w.rng.sample(list(MODELS), 2)
    shutil.rmtree(w.dist / two)
    for path, data in w.old.items():
        if path.startswith(f"{one}/"):
            w.write(f"{two}/{path.removeprefix(f'{one}/')}", data)
    w.rewrite_sums()
    return [f"{two}/model.sig", *(p for p in w.now if p.startswith(f"{two}/"))]


def resigned_file(w: World) -> list[str]:
    """A signature by somebody else over the very same content."""
    path = w.pick([p for p in w.now if p.endswith((".sig", "sigstore.json"))])
    w.write(path, w.stranger[path])
    w.rewrite_sums()
    return [path]


def resigned_model(w: World) -> list[str]:
    model = w.rng.choice(MODELS)
    for path in w.now:
        if path.startswith(f"{model}/"):
            w.write(path, w.stranger[path])
    w.rewrite_sums()
    return [p for p in w.now if p.startswith(f"{model}/") and w.stranger[p] != w.now[p]]


def resigned_release(w: World) -> list[str]:
    """All of it by another key, with or without that key's public half."""
    for path, data in w.stranger.items():
        w.write(path, data)
    if w.rng.random() < 0.5:
        w.write(KEY, w.now[KEY])
        w.rewrite_sums()
    return [KEY, STATEMENT]


def foreign_key(w: World) -> list[str]:
    w.write(KEY, w.stranger[KEY])
    w.rewrite_sums()
    return [KEY]


def respell_sums(w: World) -> list[str]:
    data = w.now[SUMS]
    lines = data.splitlines(keepends=True)
    shuffled = lines[:]
    while shuffled == lines:
        w.rng.shuffle(shuffled)
    spelt = [data.replace(b"\n", b"\r\n"), data.replace(b"  ", b" *"), data + lines[0],
             b"# sums\n" + data, data.upper(), b"".join(shuffled), b"".join(lines[1:])]  # fmt: skip
    w.write(SUMS, w.rng.choice(spelt))
    return [SUMS]


def respell_bundle(w: World) -> list[str]:
    """The same JSON, written otherwise: the same statement, but not the same bytes."""
    path = w.pick([p for p in w.now if p.endswith("sigstore.json")])
    data = w.now[path]
    w.write(
        path,
        w.rng.choice(
            [
                data.replace(b'":', b'": ', 1),
                data.replace(b"{", b'{"extra":1,', 1),
                b" " + data,
                data.rstrip(b"\n"),
                data.replace(b"application", b"\\u0061pplication", 1),
            ]
        ),
    )
    w.rewrite_sums()
    return [path]


def other_form(w: World) -> list[str]:
    """(r, n - s) in the place of (r, s): anybody can make the one of the other, and it verifies."""
    path = w.pick([p for p in w.now if p.endswith((".sig", "sigstore.json"))])
    w.write(path, twin(w.now[path]))
    w.rewrite_sums()
    return [path]


def twin(data: bytes) -> bytes:
    """A bundle, not a bit of it other than its P-256 signature's other form."""
    (signature,) = json.loads(data)["dsseEnvelope"]["signatures"]
    r, s = decode_dss_signature(base64.b64decode(signature["sig"]))
    other = base64.b64encode(encode_dss_signature(r, SECP256R1().group_order - s))
    return data.replace(signature["sig"].encode(), other)


MUTATIONS: list[Callable[[World], list[str]]] = [
    *(flip, flip, flip, flip_small, flip_small, flip_and_rewrite_sums, drop, drop_model),
    *(add, add_odd, link, swap, swap_alike, swap_models, rename, rename_model),
    *(truncate, append, replay_file, replay_artefact, replay_model, replay_statement),
    *(replay_all_but, replay_under_another_name, resigned_file, resigned_model),
    *(resigned_release, foreign_key, respell_sums, respell_bundle, other_form),
]
