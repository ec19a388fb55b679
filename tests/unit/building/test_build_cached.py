"""Builds of two machines with one remote cache: the second takes what the first has made."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from patience import wait_until
from toy_container import Container, Doorman
from toy_stages import MODEL, make_builder, make_toy, run_stages

from kiln.building.build import ModelBuild
from kiln.core.errors import UsageError
from kiln.core.store import Store
from kiln.project.folders import Project
from kiln.recipes.recipe import discover
from kiln.recipes.selection import select
from kiln.running.limits import Outcome
from kiln.signing import keys


class Machine:
    """A store and a release of their own, for a project that others have, too."""

    def __init__(self, root: Path, project: Project) -> None:
        self.root, self.project = root, project
        self.store, self.dist = Store(root / "store"), root / "dist"
        self.events: list[dict[str, Any]] = []
        self.door: Doorman | None = None
        self.begun = threading.Event()

    def build(self, *variants: Any) -> ModelBuild:
        builder, self.events, self.door = make_builder(self.project, self.store, self.dist)
        self.door.play = self._play
        models = self.project.models
        (found,) = builder.build(select(models, discover(models), [MODEL]), variants)
        if found.error is not None:
            raise found.error
        return found

    def _play(self, container: Container) -> Outcome:
        self.begun.set()
        return run_stages(self.project, container)

    def ran(self) -> list[str]:
        assert self.door is not None
        return [stage["id"] for call in self.door.calls for stage in call["request"]["stages"]]

    def notes(self) -> list[str]:
        return [event["message"] for event in self.events if event["event"] == "note"]

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.dist / MODEL / "conversion.json").read_bytes())
        return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_toy(tmp_path / "project")[0]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("KILN_CACHE", f"file://{folder}")
    return folder


def test_the_second_machine_starts_no_container(tmp_path: Path, project: Project) -> None:
    first, second = Machine(tmp_path / "a", project), Machine(tmp_path / "b", project)
    made = first.build("float32")
    assert len(first.ran()) > 5
    found = second.build("float32")
    assert second.ran() == []
    assert [one.sha256 for one in found.artefacts] == [one.sha256 for one in made.artefacts]
    assert second.record() == first.record()
    told = {event["state"] for event in second.events if event["event"] == "stage"}
    assert told == {"cached"}
    assert any("results taken from the cache" in note for note in second.notes())


def test_a_build_whose_results_are_here_does_not_ask(
    tmp_path: Path, project: Project, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "a", project)
    machine.build("float32")
    # Were it asked, it would be left aside with a note.
    (cache / "results").rename(tmp_path / "elsewhere")
    (cache / "results").write_bytes(b"not a folder")
    machine.build("float32")
    assert machine.ran() == []
    assert not any("cache" in note for note in machine.notes())


def test_another_variant_begins_with_what_others_made(tmp_path: Path, project: Project) -> None:
    Machine(tmp_path / "a", project).build("float32")
    second = Machine(tmp_path / "b", project)
    second.build("int8")
    assert "export" not in second.ran()
    assert "convert-int8" in second.ran()


def test_results_of_another_key_are_made_again(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Machine(tmp_path / "a", project), Machine(tmp_path / "b", project)
    made = first.build("float32")
    path = tmp_path / "other.pem"
    keys.load_or_create_key(path)
    monkeypatch.setenv("KILN_SIGNING_KEY", str(path))
    found = second.build("float32")
    assert sorted(second.ran()) == sorted(first.ran())
    assert [one.sha256 for one in found.artefacts] == [one.sha256 for one in made.artefacts]
    assert len([note for note in second.notes() if "signed by others" in note]) == 1


def test_two_machines_at_once_run_each_stage_once(tmp_path: Path, project: Project) -> None:
    first, second = Machine(tmp_path / "a", project), Machine(tmp_path / "b", project)
    thread = threading.Thread(target=first.build, args=("float32",))
    thread.start()
    assert wait_until(first.begun.is_set)
    second.build("float32")
    thread.join()
    assert first.ran()
    assert second.ran() == []
    waiting = [note for note in second.notes() if "waiting for another kiln" in note]
    assert len(waiting) == 1
    assert " on " in waiting[0]


def test_a_cache_that_cannot_be_used_is_said_and_left_aside(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_CACHE", f"file://{tmp_path}/not-mounted")
    machine = Machine(tmp_path / "a", project)
    machine.build("float32")
    assert not (tmp_path / "not-mounted").exists()
    said = [note for note in machine.notes() if "does not exist" in note]
    assert len(said) == 1


def test_a_wrong_address_is_refused_before_anything_runs(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_CACHE", "ftp://host/x")
    machine = Machine(tmp_path / "a", project)
    with pytest.raises(UsageError, match="unknown scheme"):
        machine.build()
    assert machine.ran() == []
