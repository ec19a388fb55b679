"""``kiln cache``, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cached_toys import run_all, toy_plan
from places import ROOT
from toy_project import add_recipe, make_project, small_archive

from kiln.building.dry_run import plan_of
from kiln.cli.main import cli
from kiln.core.errors import KilnError
from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import Store
from kiln.images.lock import locked_image
from kiln.project.folders import Project
from kiln.recipes.plan import Plan
from kiln.recipes.recipe import load


class Kiln:
    """Runs ``kiln cache`` in a small project, with one of several stores."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project: Project = make_project(root / "project")
        (root / "cache").mkdir()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "scripts"),
            "KILN_PROJECT": str(self.project.root),
            "KILN_CACHE": f"file://{root}/cache",
            "DOCKER_HOST": "unix:///nonexistent",
        }

    def store(self, name: str) -> Store:
        return Store(self.root / name)

    def __call__(
        self, store: str, *args: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kiln.cli", "cache", *args],
            env={**self.environment, "KILN_STORE": str(self.root / store), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def said(self, store: str, *args: str) -> dict[str, object]:
        """The one event of a command that succeeds."""
        ended = self(store, *args, "--json")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        events = [json.loads(line) for line in ended.stdout.splitlines()]
        [found] = [event for event in events if event["event"] == "cache"]
        return {name: value for name, value in found.items() if name != "event"}

    def plan(self, store: Store) -> Plan:
        place = self.project.models / "toy" / "recipe.toml"
        if not place.exists():
            add_recipe(self.project, "toy", small_archive(self.root / "toy.tar.gz"))
        identity = locked_image(self.project.docker, "odapi").identity
        return plan_of(self.project, store, load(place), ("float32",), identity)


@pytest.fixture
def kiln(tmp_path: Path) -> Kiln:
    return Kiln(tmp_path)


def test_from_one_machine_to_another(kiln: Kiln) -> None:
    """Push all, count, pull a model, and remove everything."""
    first = kiln.store("a")
    plan = kiln.plan(first)
    for step in plan.steps:
        blob = Blob(first.add_bytes(step.id.encode()), len(step.id))
        first.put_result(StageResult(step.key, step.stage, {"file": blob}))
    others = run_all(toy_plan(), first)
    number = len(plan.steps) + len(others)
    pushed = kiln.said("a", "push")
    assert (pushed["what"], pushed["results"], pushed["already"]) == ("pushed", number, 0)
    again = kiln.said("a", "push", "toy")
    assert (again["results"], again["already"]) == (0, len(plan.steps))
    stat = kiln.said("a", "stat")
    assert isinstance(stat["results"], dict)
    assert stat["results"]["number"] == number
    pulled = kiln.said("b", "pull", "toy")
    assert (pulled["results"], pulled["missing"]) == (len(plan.steps), 0)
    second = kiln.store("b")
    assert all(second.remembered(step.key) for step in plan.steps)
    shown = kiln("b", "stat")
    assert shown.returncode == 0
    assert "of the own key" in shown.stdout
    gone = kiln("b", "gc", "--keep", "0", "--grace", "0h")
    assert gone.returncode == 0, gone.stderr
    assert f"{number} results" in gone.stdout
    assert "0 objects remain" in gone.stdout


@pytest.mark.parametrize(
    ("args", "environment", "code", "words"),
    [
        (("stat",), {"KILN_CACHE": ""}, 2, "KILN_CACHE is not set"),
        (("stat",), {"KILN_CACHE": "s3://me:hunter2@x"}, 2, "holds credentials"),
        (("push",), {"KILN_SIGN": "keyless", "KILN_CACHE_TRUST": "/none"}, 2, "/none"),
        (("gc",), {"KILN_CACHE": "file:///nonexistent/x"}, 33, "does not exist"),
        (("stat",), {"KILN_CACHE": "file:///nonexistent/x"}, 33, "does not exist"),
        (("gc", "--keep", "much"), {}, 2, "not a size"),
        (("gc", "--older-than", "-1d"), {}, 2, "not an age"),
        (("pull", "nothing"), {}, 2, "nothing"),
    ],
)
def test_what_is_refused(
    kiln: Kiln,
    args: tuple[str, ...],
    environment: dict[str, str],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = {"KILN_STORE": str(kiln.root / "a")}
    for name, value in {**kiln.environment, **store, **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((KilnError, click.UsageError)) as caught:
        cli.main(["cache", *args], standalone_mode=False)
    assert caught.value.exit_code == code
    assert words in caught.value.message
    assert "hunter2" not in str(caught.value)
