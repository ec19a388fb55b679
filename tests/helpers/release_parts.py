"""Parts of a release, as the jobs of a matrix leave them; and what is read of a release."""

from __future__ import annotations

from pathlib import Path

import page_dist
from places import FIXTURES
from toy_release import toy_model

from kiln.core.listing import list_tree
from kiln.release import publish
from kiln.release.index_page import refresh
from kiln.signing.signer import Signer


def make_part(root: Path, model: str, signer: Signer) -> Path:
    """A signed dist folder of one model, as `kiln build` leaves it."""
    artefacts = {
        variant: (FIXTURES / f"{name}.tflite").read_bytes()
        for variant, name in page_dist.TOY_VARIANTS.items()
    }
    toy = toy_model(root / "project", model, artefacts, {"labelmap.txt": b"red\ngreen\nblue\n"})
    part = root / "dist"
    publish.publish(part, model, toy.files, signer, toy.statements)
    refresh(part, signer)
    return part


def content(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of everything in a release."""
    return {path: file.read_bytes() for path, file in list_tree(folder).files.items()}


def rows(text: str) -> list[list[str]]:
    """The cells of the first table in Markdown, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
