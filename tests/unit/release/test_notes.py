"""A release's notes: how to feed its models."""

from __future__ import annotations

from pathlib import Path

import page_dist
from feeding_files import LETTERBOX

from kiln.release.notes import notes


def test_how_to_feed_each_model(tmp_path: Path) -> None:
    page_dist.toy_dist(tmp_path / "dist", "silent", "A silent one")
    folder = page_dist.toy_dist(tmp_path / "dist", "boxed", "A *boxed* one")
    page_dist.state_feeding(folder, LETTERBOX)
    parts = notes(tmp_path / "dist", "1.0").split("\n\n")
    place = parts.index("How to feed them:")
    # All of its variants say the same, and so does one line.
    assert parts[place + 1] == (
        r"- A \*boxed\* one: Letterbox to 8 × 8: keep the proportions, top left, "
        "rest filled with 0,0,0; TensorFlow 1’s sampling"
    )


def test_nothing_is_said_where_no_file_says_it(tmp_path: Path) -> None:
    page_dist.toy_dist(tmp_path / "dist")
    assert "feed" not in notes(tmp_path / "dist", "1.0")
