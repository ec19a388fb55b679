"""Builds after an edit of stage code: which stages run, in how many containers, and what comes out.

The stages are toys, run by the real stage runner.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from toy_container import Doorman
from toy_stages import MODEL, make_builder, make_toy

from kiln.core.store import Store
from kiln.project.folders import Project
from kiln.recipes.recipe import discover
from kiln.recipes.selection import select
from kiln.release.verify import verify
from kiln.signing.keys import load_or_create_key

VARIANTS = ("float32", "int8")
CHECKS = {f"check-{variant}" for variant in VARIANTS}
LIBRARIES = {f"task-library-{variant}" for variant in VARIANTS}
RUNTIMES = {f"{name}-{variant}" for name in ("litert", "mediapipe") for variant in VARIANTS}
CONVERTED = {f"{name}-{variant}" for name in ("convert", "annotate") for variant in VARIANTS}


@dataclass
class Desk:
    """A project that is built, edited and built again."""

    root: Path

    def __post_init__(self) -> None:
        self.project = Project(self.root / "project")
        self.store, self.dist = Store(self.root / "store"), self.root / "dist"
        self.door: Doorman | None = None

    def build(self) -> list[set[str]]:
        """Build; return the steps of each container, in order. The release verifies."""
        builder, self.events, door = make_builder(self.project, self.store, self.dist)
        models = self.project.models
        (found,) = builder.build(select(models, discover(models), [MODEL]), VARIANTS)
        if found.error is not None:
            raise found.error
        verify(self.dist, load_or_create_key().public_pem)
        self.calls = door.calls
        ran = [{stage["id"] for stage in call["request"]["stages"]} for call in door.calls]
        assert found.stages_run == sum(map(len, ran))
        states = {e["id"]: e["state"] for e in self.events if e["event"] == "stage"}
        assert states.keys() == self.record()["stages"].keys()
        for step_id, state in states.items():
            assert state == ("finished" if any(step_id in ids for ids in ran) else "cached")
        return ran

    def edit(self, stage: str, old: str = "import json\n", new: str = "import json  # !\n") -> None:
        """Edit a stage's code, by default a comment."""
        place = self.project.stages / "steps" / f"{stage}.py"
        text = place.read_text()
        assert old in text
        place.write_text(text.replace(old, new))

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.dist / MODEL / "conversion.json").read_bytes())
        return found

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.dist / MODEL).glob("*.tflite")}


def private(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(root / "config"))
    for name in ("KILN_SIGNING_KEY", "KILN_SIGNING_KEY_PEM", "KILN_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        private(patch, root)
        make_toy(root / "project")
        first, second = Desk(root).build()
        assert first >= CHECKS | LIBRARIES | CONVERTED and second == RUNTIMES
    return root


@pytest.fixture
def desk(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """All is built."""
    root = tmp_path / "again"
    shutil.copytree(once, root)
    private(monkeypatch, root)
    return Desk(root)


def test_nothing_runs_twice(desk: Desk) -> None:
    assert desk.build() == []


COMMENTS: list[tuple[str, Collection[str]]] = [
    ("export", {"export"}),
    ("reference", {"reference"}),
    ("convert", {"convert-float32", "convert-int8"}),
    ("annotate", {"annotate-float32", "annotate-int8"}),
    ("check", CHECKS),
    ("task_library", LIBRARIES),
    ("litert", {"litert-float32", "litert-int8"}),
    ("compile", ()),
]


@pytest.mark.parametrize(("stage", "steps"), COMMENTS)
def test_a_comment_runs_its_stage_and_nothing_after_it(
    desk: Desk, stage: str, steps: Collection[str]
) -> None:
    before, files = desk.record(), desk.files()
    desk.edit(stage)
    ran = desk.build()
    assert ran == ([set(steps)] if steps else [])
    assert desk.files() == files
    after = desk.record()
    assert after["stage_code"] != before["stage_code"]
    for step_id, said in after["stages"].items():
        if step_id not in steps:  # the same record, but for the key
            assert {**said, "key": ""} == {**before["stages"][step_id], "key": ""}
    assert desk.build() == []  # everything is known by its new key, too


def test_the_container_has_the_code_of_its_stages_and_no_other(desk: Desk) -> None:
    desk.edit("check")
    desk.build()
    (call,) = desk.calls
    inside = {name for name in call["code"] if name.startswith("steps/")}
    assert inside == {"steps/__init__.py", "steps/check.py"}
    assert {"__main__.py", "protocol/runner.py"} < call["code"].keys()


def test_code_that_makes_other_bytes_costs_one_container_more(desk: Desk) -> None:
    before = desk.files()
    desk.edit("export", "as a graph", "as another graph")
    first, second, third = desk.build()
    assert first == {"export"}
    assert second == CONVERTED | CHECKS | LIBRARIES  # and not one container after the other
    assert third == RUNTIMES
    assert not set(before.values()) & set(desk.files().values())


def test_a_stage_whose_code_is_new_does_not_wait(desk: Desk) -> None:
    """The export and what converts it share a container; what follows is found by content."""
    desk.edit("export")
    desk.edit("convert")
    assert desk.build() == [{"export", "convert-float32", "convert-int8"}]


def test_a_check_that_finds_something_else(desk: Desk) -> None:
    desk.edit("check", '"rounded": seen', '"rounded": {}')
    assert desk.build() == [CHECKS, LIBRARIES, RUNTIMES]


def test_other_options_make_other_bytes_and_nobody_waits(desk: Desk) -> None:
    recipe = desk.project.models / MODEL / "recipe.toml"
    recipe.write_text(f"{recipe.read_text()}\n[export]\nmax_detections = 7\n")
    (ran,) = desk.build()
    assert ran >= {"export"} | CONVERTED | CHECKS | LIBRARIES
    # The toy makes the same bytes after all: what runs in another image is found by them.
    assert not ran & RUNTIMES


def test_an_edit_that_is_undone(desk: Desk) -> None:
    desk.edit("export", "as a graph", "as another graph")
    desk.build()
    desk.edit("export", "as another graph", "as a graph")
    assert desk.build() == []


def test_what_is_found_and_damaged_is_made_again(desk: Desk) -> None:
    files = desk.files()
    digest = desk.record()["stages"]["convert-int8"]["files"]["model.tflite"]
    blob = desk.store.path(digest)
    data = bytearray(blob.read_bytes())
    data[3] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    desk.edit("export")
    # Those after it did not wait for the conversion: what they read seemed to be new.
    lost = {f"{name}-int8" for name in ("convert", "annotate", "check", "task-library")}
    assert desk.build() == [{"export"}, lost]
    assert desk.files() == files


def test_a_failure_after_the_edit_leaves_what_was_found(desk: Desk) -> None:
    desk.edit("check", "return {", "raise StageError('label-map', 'no', 'no')\n    return {")
    desk.edit("annotate")
    with pytest.raises(Exception, match="no"):
        desk.build()
    desk.edit("check", "raise StageError('label-map', 'no', 'no')", "pass")
    assert desk.build() == [CHECKS]
