"""What the page says of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import page_dist
import pytest

from kiln.page.contents import read_release
from kiln.page.model_view import Difference, Fact, ModelView, model_view

pytest.importorskip("ai_edge_litert")


def viewed(folder: Path) -> ModelView:
    (model,) = read_release(folder.parent).models
    return model_view(model)


@pytest.mark.parametrize(
    ("export", "annotated", "said"),
    [
        ({"num_classes": 5}, {"labels": 4}, "4"),  # five ids, one of them without a name
        ({"num_classes": 90}, {}, "90"),  # Model Maker's seed is not annotated
        ({}, {}, ""),
    ],
)
def test_classes_are_those_with_a_name(
    tmp_path: Path, export: dict[str, Any], annotated: dict[str, Any], said: str
) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    stages = {"export": {"facts": export}, "annotate-int8": {"facts": annotated}}
    page_dist.change(folder / "conversion.json", stages=stages)
    assert viewed(folder).classes == said


def test_the_first_picture_is_one_that_differs(tmp_path: Path) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    checks = page_dist.add_checks(folder, page_dist.toy_images(tmp_path / "images"))
    most = max(checks["images"], key=lambda name: len(checks["source"]["detections"][name]))
    view = viewed(folder)
    assert view.panels[view.first_panel].name == most
    other = next(name for name, found in checks["source"]["detections"].items()
                 if found and name != most)  # fmt: skip
    checks["variants"]["int8"]["detections"][other] = []
    page_dist.write(folder / "checks.json", checks)
    view = viewed(folder)
    assert view.panels[view.first_panel].name == other


def test_lists_of_files_are_folded_away(tmp_path: Path) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    images = {f"{number}.png": f"{number}" * 64 for number in range(4)}
    source = {"kind": "stage", "calibration_images": images, "path": "/a/b", "urls": ["x", "y"]}
    page_dist.change(folder / "conversion.json", source=source)
    found = {fact.name: fact for fact in viewed(folder).origin}
    assert found["Source, calibration images"].files == tuple(
        Fact(name, digest) for name, digest in images.items()
    )
    assert found["Source, calibration images"].files[0].is_digest
    assert not found["Source, path"].is_digest
    assert found["Source, urls"].value == "x, y"


def test_what_is_built_otherwise_than_configured(tmp_path: Path) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    told = {"what": "input size", "config": "300x300", "built": "480x640", "effect": "Worse."}
    page_dist.change(
        folder / "conversion.json", differences=[told, {"what": 3}, "no", {}, *[told] * 99]
    )
    found = viewed(folder).differences
    assert found[0] == Difference("input size", "300x300", "480x640", "Worse.")
    assert set(found) == {found[0]}
    assert len(found) < 60
    page_dist.change(folder / "conversion.json", differences="none")
    assert viewed(folder).differences == ()
