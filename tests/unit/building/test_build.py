from __future__ import annotations

import json
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from feeding_files import LETTERBOX
from patience import PATIENCE
from toy_engine import serve
from toy_project import SEALED, add_recipe, make_project, small_archive

from kiln.building.build import Builder, ModelBuild, failure_of
from kiln.building.record import conversion_record, differences_of, stated_feeding
from kiln.core.errors import (
    ArchiveError,
    CancelledError,
    EngineUnavailableError,
    PartialBuildError,
    SourceUnavailableError,
    UntrainedModelError,
    UsageError,
)
from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import Store
from kiln.project.closures import StageCode
from kiln.recipes.contents import Contents
from kiln.recipes.plan import make_plan
from kiln.recipes.recipe import discover, load
from kiln.recipes.selection import read_all
from kiln.signing.keys import SigningKey
from kiln.sources.model import Acquired, acquire

FAILED = ModelBuild("bad", error=ArchiveError("Broken.", "Mend it."))
GOOD = ModelBuild("good")


def test_all_well_is_no_error() -> None:
    assert failure_of([]) is None
    assert failure_of([GOOD, GOOD]) is None


def test_the_only_model_s_failure_is_the_build_s() -> None:
    assert failure_of([FAILED]) is FAILED.error


@pytest.mark.parametrize(
    ("builds", "words"),
    [
        ([GOOD, FAILED], "1 of 2 models could not be built: bad."),
        ([FAILED, ModelBuild("worse", error=UsageError("No."))], "2 of 2 models could not be"),
    ],
)
def test_several_models_end_in_a_partial_build(builds: list[ModelBuild], words: str) -> None:
    error = failure_of(builds)
    assert isinstance(error, PartialBuildError)
    assert error.exit_code == 50
    assert words in error.message


# --- a builder without an engine ---------------------------------------------------------------


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No engine, and a signing key of the test's own."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("KILN_SIGNING_KEY", raising=False)
    return tmp_path


def make_builder(root: Path) -> tuple[Builder, list[dict[str, Any]]]:
    project = make_project(root / "project")
    events: list[dict[str, Any]] = []
    builder = Builder(
        project,
        Store(root / "store"),
        root / "dist",
        lambda event, **fields: events.append({"event": event, **fields}),
    )
    return builder, events


def test_limits_without_effect_are_told_once(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, events = make_builder(private)
    with serve() as toy:
        toy.info = {"MemoryLimit": False, "PidsLimit": False}
        monkeypatch.setenv("DOCKER_HOST", toy.address)
        assert builder.engine() is builder.engine()
    [note] = [event["message"] for event in events if event["event"] == "note"]
    assert note.startswith("The engine does not limit memory and processes of stages")


def test_each_model_fails_by_itself(private: Path) -> None:
    builder, events = make_builder(private)
    add_recipe(builder.project, "needs_engine", small_archive(private / "toy.tar.gz"))
    add_recipe(builder.project, "no_source", (private / "nothing.tar.gz").as_uri())
    broken = add_recipe(builder.project, "broken")
    broken.write_text("schema = ")
    models = builder.project.models
    builds = builder.build(read_all(models, discover(models)), jobs=3)
    assert [item.model for item in builds] == ["broken", "needs_engine", "no_source"]
    kinds = {item.model: item.error.kind for item in builds if item.error}
    assert kinds == {
        "broken": "recipe",
        "needs_engine": EngineUnavailableError.kind,
        "no_source": SourceUnavailableError.kind,
    }
    told = {event["model"]: event["kind"] for event in events if event["event"] == "failed"}
    assert told == kinds
    assert list((builder.store.tmp).iterdir()) == []
    assert not (private / "dist").exists() or not any((private / "dist").iterdir())


def test_another_image_is_provided_once_while_models_convert(private: Path) -> None:
    """Whoever needs it waits for it; nobody else does, and no second one is built."""
    asked: list[str] = []
    ready = threading.Event()

    class Slow(Builder):
        def _image(self, name: str) -> str:
            asked.append(name)
            if name == "device":
                assert ready.wait(PATIENCE)
            return f"{name}:1"

    builder = Slow(
        make_project(private / "p"), Store(private / "s"), private, lambda *_, **__: None
    )
    assert [builder._image_with("odapi", ["device"]) for _ in range(2)] == ["odapi:1"] * 2
    with ThreadPoolExecutor(2) as models:
        waiting = [models.submit(builder._image_aside, "device") for _ in range(2)]
        assert not any(item.done() for item in waiting)
        ready.set()
        assert [item.result(PATIENCE) for item in waiting] == ["device:1"] * 2
    assert asked.count("device") == 1


def test_an_image_that_cannot_be_had_fails_who_needs_it(private: Path) -> None:
    class Without(Builder):
        def _image(self, name: str) -> str:
            raise SourceUnavailableError("No mirror has it.")

    builder = Without(
        make_project(private / "p"), Store(private / "s"), private, lambda *_, **__: None
    )
    for _ in range(2):
        with pytest.raises(SourceUnavailableError, match="No mirror"):
            builder._image_aside("device")


def test_after_a_stop_busy_threads_find_out(private: Path) -> None:
    builder, events = make_builder(private)
    builder._tell("note", message="before")
    builder._stop.set()
    with pytest.raises(CancelledError):
        builder._tell("note", message="after")
    assert [event["message"] for event in events] == ["before"]


def test_whoever_waits_for_another_kiln_can_be_stopped(private: Path) -> None:
    """Two kilns build one model: the second waits for the first, but not for ever."""
    builder, _ = make_builder(private)
    recipe = load(add_recipe(builder.project, "toy", small_archive(private / "toy.tar.gz")))
    builder._key = SigningKey(private, b"", "", None)  # not reached
    raised: list[BaseException] = []

    def second() -> None:
        try:
            builder._one(recipe, (), None)
        except BaseException as error:
            raised.append(error)

    with Store(builder.store.root).lock("model-toy"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        builder._stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert [type(error) for error in raised] == [CancelledError]


def test_what_is_built_otherwise_than_configured_is_told(private: Path) -> None:
    builder, events = make_builder(private)
    recipe = load(add_recipe(builder.project, "toy"))
    told = {"what": "input size", "config": "300x300", "built": "480x640", "effect": "Worse."}
    usual = {**told, "what": "suppression of overlaps"}
    facts = {"differences": [told, usual]}
    results = {
        "convert-int8": StageResult("1" * 64, "convert", {}, {}),
        "export": StageResult("2" * 64, "export", {}, facts),
    }
    builder._tell_differences(recipe, results)
    assert [event["message"] for event in events] == [
        "toy: input size: pipeline.config says 300x300, built is 480x640. Worse."
    ]
    assert differences_of(results) == [told, usual]
    assert differences_of({}) == []


def test_the_conversion_record_says_what_went_in(private: Path) -> None:
    builder, _ = make_builder(private)
    path = add_recipe(builder.project, "toy")
    recipe = load(path, builder.project.models)
    sources = Contents(checkpoint={"pipeline.config": "1" * 64}, label_map="2" * 64)
    plan = make_plan(recipe, sources, ["float32"], image=SEALED.identity, code=StageCode("3" * 64))
    results = {
        step.id: StageResult(step.key, step.stage, {"f": Blob("4" * 64, 5)}, {"fact": 6}, 7.5, 8)
        for step in plan.steps
    }
    acquired = Acquired(sources, {"kind": "archive"})
    record = conversion_record(recipe, "4" * 64, acquired, plan, results, [], builder.project)
    assert json.loads(json.dumps(record)) == record  # plain data
    assert record["image"] == {
        "name": "odapi",
        "identity": SEALED.identity,
        "layer": SEALED.layer,
    }
    assert record["stage_code"] == "3" * 64, "what the keys were made with"
    assert record["default_variant"] == recipe.default_variant
    assert record["source"] == {"kind": "archive"}
    export = record["stages"]["export"]
    assert export["key"] == plan.step("export").key
    assert (export["facts"], export["seconds"], export["peak_rss"]) == ({"fact": 6}, 7.5, 8)
    assert export["files"] == {"f": "4" * 64}
    assert record["feeding"] is None, "this export does not say it"
    # Nothing of the machine it was made on.
    assert str(private) not in json.dumps(record)
    again = conversion_record(recipe, "4" * 64, acquired, plan, results, [], builder.project)
    assert again == record


@pytest.mark.parametrize("step", ["export", "adopt"])
def test_the_record_says_how_to_feed_the_model(step: str) -> None:
    facts = {"feeding": LETTERBOX}
    assert stated_feeding({step: StageResult("1" * 64, step, {}, facts)}) == LETTERBOX
    assert stated_feeding({}) is None


# --- models that were never trained -----------------------------------------------------------


def untrained(reasons: list[str]) -> dict[str, StageResult]:
    return {
        "export": StageResult("1" * 64, "modelmaker_export", {}, {"untrained": reasons}),
        "convert-int8": StageResult("2" * 64, "convert", {}, {"ops": {}}),
    }


def test_an_untrained_model_is_not_published(private: Path) -> None:
    builder, events = make_builder(private)
    recipe = load(add_recipe(builder.project, "toy"), builder.project.models)
    builder._check_trained(recipe, untrained([]))
    with pytest.raises(UntrainedModelError) as caught:
        builder._check_trained(recipe, untrained(["flat scores", "box bias is zero"]))
    assert "box bias is zero; flat scores" in caught.value.message
    assert 'allow = ["untrained-heads"]' in caught.value.remedy
    assert events == []


def test_an_untrained_model_that_is_allowed_by_name_is_told_of(private: Path) -> None:
    builder, events = make_builder(private)
    path = add_recipe(builder.project, "toy")
    path.write_text(path.read_text().replace("sample", 'allow = ["untrained-heads"]\nsample'))
    builder._check_trained(load(path, builder.project.models), untrained(["flat scores"]))
    (event,) = events
    assert "flat scores" in event["message"]


@pytest.mark.parametrize("root", ['root = "toy"\n', ""])
def test_the_only_top_folder_needs_no_name(private: Path, root: str) -> None:
    builder, _ = make_builder(private)
    path = add_recipe(builder.project, "toy", small_archive(private / "toy.tar.gz"))
    path.write_text(path.read_text().replace('root = "toy"\n', root))
    found = acquire(load(path, builder.project.models), builder.store)
    assert set(found.contents.checkpoint) == {
        "pipeline.config",
        "checkpoint/ckpt-0.index",
        "checkpoint/ckpt-0.data",
    }


def test_several_top_folders_need_a_name(private: Path) -> None:
    builder, _ = make_builder(private)
    with zipfile.ZipFile(private / "two.zip", "w") as file:
        for name in ("a/pipeline.config", "b/checkpoint/ckpt-0.index"):
            file.writestr(name, b"abc")
    path = add_recipe(builder.project, "toy", (private / "two.zip").as_uri())
    path.write_text(path.read_text().replace('root = "toy"\n', ""))
    with pytest.raises(ArchiveError, match="'a', 'b'") as caught:
        acquire(load(path, builder.project.models), builder.store)
    assert "source.root" in caught.value.remedy
