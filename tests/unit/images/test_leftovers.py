from __future__ import annotations

from collections.abc import Iterator

import pytest
from dead_owner import dead_tag
from toy_engine import ToyEngine, serve

from kiln.core.lease import tagged_name
from kiln.images import leftovers
from kiln.running.engine import OWNER_LABEL, Engine


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyEngine]:
    with serve() as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        yield engine


def test_a_failed_builds_images_go_and_those_of_another_build_stay(toy: ToyEngine) -> None:
    failed, other = tagged_name(), tagged_name()
    toy.image("first-step", {OWNER_LABEL: failed})
    toy.image("second-step", {OWNER_LABEL: failed})
    toy.image("other", {OWNER_LABEL: other})  # of this process, too
    toy.image("base", {})
    leftovers.remove_failed(Engine.find(), failed)
    assert set(toy.images) == {"other", "base"}


def test_before_a_build_those_of_dead_processes_go(toy: ToyEngine) -> None:
    toy.image("dead", {OWNER_LABEL: dead_tag()})
    toy.image("ours", {OWNER_LABEL: tagged_name()})
    toy.image("in another container", {OWNER_LABEL: "12-34-ffffffff.0123abcd"})
    engine = Engine.find()
    assert leftovers.remove_unfinished(engine) == 1
    assert set(toy.images) == {"ours", "in another container"}
    assert leftovers.remove_unfinished(engine, foreign=True) == 1
    assert set(toy.images) == {"ours"}
