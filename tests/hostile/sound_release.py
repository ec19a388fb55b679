"""Small releases, really signed: sound ones to spoil, and ones that a stranger signed spoilt."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from places import FIXTURES
from small_release import make_release
from toy_release import toy_model

from kiln.release import publish
from kiln.release.layout import LATENCY_FILE, PAGE_FILE
from kiln.signing import keys
from kiln.signing.keys import SigningKey
from kiln.signing.signer import KeySigner
from kiln.signing.trust import Trust, trust_in_key

MODEL = "toy"

#: Called with the files and the statements of a model's folder; changes them.
Change = Callable[[dict[str, bytes], dict[str, dict[str, Any]]], None]


@dataclass(frozen=True)
class Workshop:
    """Keys and releases that many cases begin with; nobody changes them.

    Attributes:
        now, old: two releases of the same models by the same key.
        stranger: the first one's files, signed by another key.
    """

    folder: Path
    key: SigningKey
    other_key: SigningKey
    now: Mapping[str, bytes]
    old: Mapping[str, bytes]
    stranger: Mapping[str, bytes]

    @classmethod
    def open(cls, folder: Path) -> Workshop:
        """Make all of it in the new folder ``folder``."""
        folder.mkdir()
        key = keys.load_or_create_key(folder / "mine.pem")
        other = keys.load_or_create_key(folder / "stranger.pem")
        made = []
        for name, signer, seed in (("now", key, 1), ("old", key, 0), ("stranger", other, 1)):
            make_release(folder / name, signer, seed)
            made.append(contents(folder / name))
        (folder / "mine.pub").write_bytes(key.public_pem)
        return cls(folder, key, other, *made)

    @property
    def public(self) -> Path:
        """The file of the trusted public key."""
        return self.folder / "mine.pub"

    @property
    def trust(self) -> Trust:
        """In that key."""
        return trust_in_key(self.key.public_pem)

    def lay_out(self, dist: Path) -> None:
        """A copy of the sound release."""
        for path, data in self.now.items():
            (dist / path).parent.mkdir(parents=True, exist_ok=True)
            (dist / path).write_bytes(data)

    def signed(self, dist: Path, change: Change) -> None:
        """Publish a model of two variants of which ``change`` changed something before it was
        signed: all signatures hold, whatever is in it."""
        artefacts = {
            "float32": (FIXTURES / "toy_ssd_annotated.tflite").read_bytes(),
            "dynamic": (FIXTURES / "toy_ssd_uint8_annotated.tflite").read_bytes(),
        }
        with tempfile.TemporaryDirectory() as project:
            made = toy_model(Path(project), MODEL, artefacts, {"labelmap.txt": b"person\n"})
        files, statements = dict(made.files), dict(made.statements)
        change(files, statements)
        signer = KeySigner(self.key)
        publish.publish(dist, MODEL, files, signer, statements)
        page = b"<!doctype html><title>Release</title>"
        publish.publish_page(dist, {PAGE_FILE: page, LATENCY_FILE: b"{}\n"}, signer)


def contents(dist: Path) -> dict[str, bytes]:
    """Path to content of every file."""
    return {p.relative_to(dist).as_posix(): p.read_bytes() for p in dist.rglob("*") if p.is_file()}
