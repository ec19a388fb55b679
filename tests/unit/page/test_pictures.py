"""The pictures of a release's page."""

from __future__ import annotations

import base64
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import page_dist
import pytest
from parsed_page import Parsed, checks_of, parsed

from kiln.page.document import render

pytest.importorskip("ai_edge_litert")


def test_each_picture_once_with_all_files_on_it(made: Path) -> None:
    page = parsed(made)
    uris = [image["href"] for image in page.all("image")]
    assert len(uris) == len(set(uris)) == 3
    previews = {path.read_bytes() for path in (made / "toy" / "previews").iterdir()}
    assert {base64.b64decode(uri.partition(",")[2]) for uri in uris} == previews
    shots = [svg["aria-label"] for svg in page.all("svg") if svg.get("class") == "shot"]
    assert len(shots) == 3 * 3
    assert sum("red 0.98" in shot for shot in shots) == 6  # in two pictures, three times each
    assert "Nothing found, as in the source." in page.words


def test_two_models_share_their_pictures(dist: Path) -> None:
    shutil.copytree(dist / "toy", dist / "twin")
    assert len(parsed(dist).all("image")) == 3


def test_differences_are_marked_and_said(dist: Path) -> None:
    checks = checks_of(dist)
    found = checks["variants"]["int8"]["detections"]["quarters.png"]
    found[0]["score"] -= 0.5
    gone = found.pop(1)
    page_dist.write(dist / "toy" / "checks.json", checks)
    page = parsed(dist)
    assert re.search(rf"2 of \d differ: .*{gone['label']} \(0\.98\) is missing", page.words)
    kinds = Counter(rect.get("class", "") for rect in page.all("rect"))
    assert kinds["box changed"] == kinds["box missed"] == 1
    assert f"− {gone['label']} 0.98" in page.words


@pytest.mark.parametrize(
    "preview",
    ["../secret.jpg", "previews/../../secret.jpg", "/etc/hostname", "previews/link.jpg",
     "previews/text.jpg", "previews/none.jpg", "previews", "", None, 7],
)  # fmt: skip
def test_only_pictures_of_the_folder_are_shown(dist: Path, preview: Any) -> None:
    secret = b"\xff\xd8\xff secret"
    (dist / "secret.jpg").write_bytes(secret)
    (dist / "toy" / "previews" / "link.jpg").symlink_to(dist / "secret.jpg")
    (dist / "toy" / "previews" / "text.jpg").write_text("no picture")
    checks = checks_of(dist)
    checks["images"]["wide.png"]["preview"] = preview
    page_dist.write(dist / "toy" / "checks.json", checks)
    page = render(dist)
    assert base64.b64encode(secret).decode() not in page
    assert "wide.png: its preview is not" in Parsed(page).words
