"""The runner up to the engine's door: what a container would be given, and what is made of what
it says. `Doorman` is no engine: it writes down what it is asked to run, and plays the container's
part as the test tells it. That real containers behave so is for the integration tests."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from toy_container import FACTS, MADE, OK, Container, Doorman
from toy_plan import recipe

from kiln.core.digest import sha256_bytes
from kiln.core.errors import (
    DigestMismatchError,
    DiskFullError,
    KilnError,
    LabelMapError,
    StageFailedError,
    StageOutOfMemoryError,
    StageOutputError,
    StageTimeoutError,
)
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.project.closures import StageCode
from kiln.recipes.contents import Contents
from kiln.recipes.plan import Files, Plan, make_plan
from kiln.recipes.steps import lone_step
from kiln.running.engine import Limits, Outcome
from kiln.running.executor import Runner
from kiln.running.limits import limits_of


class Bench:
    """A store, a plan for two variants, and a runner at the doorman's."""

    def __init__(self, tmp_path: Path, play: Callable[[Container], Outcome | None]) -> None:
        self.store = Store(tmp_path / "store")
        self.stages = tmp_path / "stages"
        self.stages.mkdir(exist_ok=True)
        (self.stages / "__main__.py").write_bytes(b"print()\n")
        self.recipe = recipe(
            variants=["float32", "int8"], limits={"memory": "3GiB", "timeout": "90s"}
        )
        add = self.store.add_bytes
        sources = Contents(
            checkpoint={"pipeline.config": add(b"config"), "checkpoint/ckpt-0.index": add(b"i")},
            label_map=add(b"labels"),
            images={"cat.png": add(b"cat")},
        )
        self.plan = self.make(sources)
        self.events: list[dict[str, Any]] = []
        self.door = Doorman(lambda container: play(container) or OK)
        self.tags = 0
        self.runner = Runner(
            lambda: self.door,  # type: ignore[arg-type, return-value]
            self.store,
            self.stages,
            lambda event, **fields: self.events.append({"event": event, **fields}),
        )

    def make(self, sources: Contents) -> Plan:
        variants = self.recipe.variants
        return make_plan(
            self.recipe, sources, variants, image=f"sha256:{'1' * 64}", code=StageCode("2" * 64)
        )

    def run(self) -> dict[str, StageResult]:
        return self.runner.run(self.plan, limits_of(self.recipe), self.image)

    def image(self) -> str:
        self.tags += 1
        return "toy:1"

    def remember(self, step_id: str, files: Mapping[str, bytes], **facts: Any) -> None:
        """As if an earlier run had made this step."""
        blobs = {name: self._blob(data) for name, data in files.items()}
        step = self.plan.step(step_id)
        self.store.put_result(StageResult(step.key, step.stage, blobs, facts))

    def _blob(self, data: bytes) -> Any:
        from kiln.core.stage_result import Blob

        return Blob(self.store.add_bytes(data), len(data))

    def leftovers(self) -> list[Path]:
        return list(self.store.tmp.iterdir())


# --- what the container is given ---------------------------------------------------------------


def test_a_first_run_is_one_container_with_everything(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Container.finish_all)
    results = bench.run()
    assert set(results) == {step.id for step in bench.plan.steps}
    [call] = bench.door.calls
    assert call["tree"].keys() == {
        "request.json",
        "export/checkpoint/pipeline.config",
        "export/checkpoint/checkpoint/ckpt-0.index",
        "convert-int8/images/cat.png",
        "annotate-float32/label_map",
        "annotate-int8/label_map",
    }
    assert call["tree"]["export/checkpoint/pipeline.config"] == b"config"
    assert call["request"]["protocol"] == 1
    export, *_ = stages = call["request"]["stages"]
    assert [stage["id"] for stage in stages] == [step.id for step in bench.plan.steps]
    assert export["inputs"] == {"checkpoint": {"path": "export/checkpoint"}}
    int8 = next(stage for stage in stages if stage["id"] == "convert-int8")
    assert int8["inputs"] == {
        "saved_model": {"from": "export", "path": "saved_model"},
        "images": {"path": "convert-int8/images"},
    }
    assert int8["params"] == {"variant": "int8"}
    assert int8["params_from"] == {
        name: {"from": "export", "fact": name} for name in ("normalization", "feeding")
    }
    assert (call["image"], call["limits"]) == ("toy:1", Limits(memory=3 << 30, timeout=90))
    assert dict(call["mounts"].values()) == {
        "/kiln/stages": "ro",
        "/in": "ro",
        "/out": "rw",
    }
    assert call["code"] == {"__main__.py": b"print()\n"}
    assert bench.leftovers() == []


def test_the_stage_package_reads_the_very_request_that_the_driver_writes(tmp_path: Path) -> None:
    """Two packages that never import each other agree about one file."""
    from stages.protocol import request

    def play(container: Container) -> None:
        found = request.load(container.inputs / "request.json")
        assert [step.id for step in found.steps] == [step.id for step in bench.plan.steps]
        for step in found.steps:
            found.resolve(step, container.inputs, container.outputs)  # raises what is missing
            container.finish(step.id, *MADE[step.stage], **FACTS)
            if step.params_from:
                params = request.facts_as_params(step, container.outputs)
                assert params["normalization"] == FACTS["normalization"]

    bench = Bench(tmp_path, play)
    bench.run()


def test_a_cached_upstream_becomes_files_and_plain_parameters(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Container.finish_all)
    bench.remember("export", *MADE["export"], **FACTS)
    bench.remember("convert-float32", *MADE["convert"])
    results = bench.run()
    [call] = bench.door.calls
    stages = {stage["id"]: stage for stage in call["request"]["stages"]}
    assert list(stages) == ["convert-int8", "annotate-float32", "annotate-int8"]
    convert = stages["convert-int8"]
    assert convert["inputs"]["saved_model"] == {"path": "convert-int8/saved_model"}
    assert call["tree"]["convert-int8/saved_model/saved_model.pb"] == b"pb"
    assert call["tree"]["convert-int8/saved_model/variables/v.index"] == b"v"
    assert convert["params"]["normalization"] == FACTS["normalization"]
    assert convert["params_from"] == {}
    # One file of a cached step is a file, not a folder.
    assert stages["annotate-float32"]["inputs"]["model"] == {"path": "annotate-float32/model"}
    assert call["tree"]["annotate-float32/model"] == b"a model"
    assert stages["annotate-float32"]["params"]["num_classes"] == 23
    # And what runs in this same container stays a reference.
    assert stages["annotate-int8"]["inputs"]["model"] == {
        "from": "convert-int8",
        "path": "model.tflite",
    }
    assert results["export"].facts == FACTS
    cached = [event["id"] for event in bench.events if event["state"] == "cached"]
    assert cached == ["export", "convert-float32"]


def test_nothing_to_do_starts_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Container.finish_all)
    first = bench.run()
    second = bench.run()
    assert second == first
    assert (len(bench.door.calls), bench.tags) == (1, 1)  # nor was the image looked for


def test_a_lost_blob_is_made_again_with_what_it_needs(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Container.finish_all)
    results = bench.run()
    bench.store.discard(results["convert-int8"].files["model.tflite"].sha256)
    bench.store.discard(results["annotate-int8"].files["model.tflite"].sha256)
    # Equal contents: the two variants' files are one blob each in this test.
    assert bench.run() == results
    assert [stage["id"] for stage in bench.door.calls[1]["request"]["stages"]] == [
        "convert-float32",
        "convert-int8",
        "annotate-float32",
        "annotate-int8",
    ]


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_the_stage_s_user_can_read_what_it_is_given(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        bench = Bench(tmp_path, Container.finish_all)
        (bench.stages / "__main__.py").chmod(0o600)
        bench.run()
    finally:
        os.umask(old)
    assert bench.door.calls[0]["folder modes"] == {0o755}


def test_a_stage_is_never_root_on_the_host(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Container.finish_all)
    bench.run()
    uid = int(bench.door.calls[0]["user"].split(":")[0])
    if os.getuid() != 0:
        assert uid == os.getuid()
    else:  # nobody's: another user's process of that id could write into the stage's memory
        assert uid > 60_000
        with pytest.raises(KeyError):
            pwd.getpwuid(uid)
    rootless = Bench(tmp_path / "rootless", Container.finish_all)
    rootless.door.rootless = True  # there, container root is the user who runs the engine
    rootless.run()
    assert rootless.door.calls[0]["user"] == "0:0"


LENT = b"a photograph"


def lent_run(bench: Bench, lent: Path) -> dict[str, StageResult]:
    """A plan of two steps whose images are not in the store."""
    images = Files({"1.png": sha256_bytes(LENT), "2.png": sha256_bytes(LENT)})
    steps = tuple(
        lone_step(
            name, "detect", {}, {"images": images}, image=bench.plan.image, code=StageCode("3" * 64)
        )
        for name in ("one", "two")
    )
    runner = Runner(
        lambda: bench.door,  # type: ignore[arg-type, return-value]
        bench.store,
        bench.stages,
        lambda *_, **__: None,
        lent={sha256_bytes(LENT): lent},
    )
    plan = Plan("toy", "odapi", steps, {step.id: step.id for step in steps})
    return runner.run(plan, limits_of(bench.recipe), bench.image)


def detect(container: Container) -> None:
    for stage in container.request["stages"]:
        container.finish(stage["id"], {"detections.json": b"{}"})


def test_lent_files_are_in_the_container_and_never_in_the_store(tmp_path: Path) -> None:
    lent = tmp_path / "photo.png"
    lent.write_bytes(LENT)
    lent.chmod(0o600)
    bench = Bench(tmp_path, detect)
    assert set(lent_run(bench, lent)) == {"one", "two"}
    [call] = bench.door.calls
    names = {f"{step}/images/{number}.png" for step in ("one", "two") for number in (1, 2)}
    assert {name: call["tree"][name] for name in names} == dict.fromkeys(names, LENT)
    assert not bench.store.has(sha256_bytes(LENT))
    assert lent.stat().st_nlink == 1  # copies: what a stage sees, nobody edits
    assert bench.leftovers() == []
    # Their digests are in the keys: a second run needs neither them nor a container.
    lent.unlink()
    lent_run(bench, lent)
    assert len(bench.door.calls) == 1


@pytest.mark.parametrize("spoil", [lambda p: p.write_bytes(b"another"), Path.unlink])
def test_a_lent_file_must_be_what_its_digest_says(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    lent = tmp_path / "photo.png"
    lent.write_bytes(LENT)
    spoil(lent)
    bench = Bench(tmp_path, detect)
    with pytest.raises(DigestMismatchError, match=r"photo\.png"):
        lent_run(bench, lent)
    assert bench.door.calls == []
    assert bench.leftovers() == []


# --- what comes out ----------------------------------------------------------------------------


def test_what_a_stage_said_is_passed_on(tmp_path: Path) -> None:
    def play(container: Container) -> None:
        container.event("started", "export")
        container.event("progress", "export", done=1, total=3, message="tracing")
        container.finish_all()

    bench = Bench(tmp_path, play)
    results = bench.run()
    assert bench.events[:3] == [
        {"event": "stage", "model": "toy", "id": "export", "state": "started"},
        {
            "event": "stage",
            "model": "toy",
            "id": "export",
            "state": "progress",
            "done": 1,
            "total": 3,
            "message": "tracing",
        },
        {
            "event": "stage",
            "model": "toy",
            "id": "export",
            "state": "finished",
            "seconds": 1.5,
            "peak_rss": 1 << 20,
        },
    ]
    assert (results["export"].seconds, results["export"].peak_rss) == (1.5, 1 << 20)


def test_finished_stages_survive_the_failure_of_a_later_one(tmp_path: Path) -> None:
    def play(container: Container) -> Outcome:
        container.finish("export", *MADE["export"], **FACTS)
        container.event(
            "failed", "convert-float32", kind="label-map", message="No cat.", remedy="Add it."
        )
        return Outcome(3, False, False, "the log")

    bench = Bench(tmp_path, play)
    with pytest.raises(LabelMapError) as caught:
        bench.run()
    assert caught.value.message == "toy, stage convert-float32: No cat."
    assert caught.value.remedy == "Add it."
    assert bench.runner.known(bench.plan).keys() == {"export"}
    assert bench.leftovers() == []
    # And the next run goes on from there.
    bench.door.play = lambda container: container.finish_all() or OK  # type: ignore[func-returns-value]
    bench.run()
    assert "export" not in [stage["id"] for stage in bench.door.calls[1]["request"]["stages"]]


def failing(outcome: Outcome, **failed: str) -> Callable[[Container], Outcome]:
    def play(container: Container) -> Outcome:
        if failed:
            container.event("failed", "export", **{"remedy": "", **failed})
        return outcome

    return play


@pytest.mark.parametrize(
    ("outcome", "failed", "error", "words"),
    [
        (Outcome(137, False, True, ""), {}, StageTimeoutError, "export: not finished after 90 s"),
        (Outcome(137, True, False, ""), {}, StageOutOfMemoryError, "it may use 3072 MiB"),
        (Outcome(137, False, False, ""), {}, StageFailedError, "killed from outside"),
        (Outcome(1, False, False, ""), {}, StageFailedError, "ended with code 1 and no result"),
        (Outcome(0, False, False, ""), {}, StageFailedError, "ended with code 0 and no result"),
        (
            Outcome(3, False, False, ""),
            {"kind": "disk-full", "message": "Full."},
            DiskFullError,
            "toy, stage export: Full.",
        ),
        (
            Outcome(3, False, False, ""),
            {"kind": "of a later version", "message": "Odd."},
            StageFailedError,
            "toy, stage export: Odd.",
        ),
        (
            # The time was up, whatever else went wrong because of it.
            Outcome(3, False, True, ""),
            {"kind": "checkpoint", "message": "Interrupted."},
            StageTimeoutError,
            "limits.timeout",
        ),
    ],
)
def test_how_a_container_ends_decides_the_error(
    tmp_path: Path, outcome: Outcome, failed: dict[str, str], error: type[KilnError], words: str
) -> None:
    bench = Bench(tmp_path, failing(outcome, **failed))
    with pytest.raises(error) as caught:
        bench.run()
    assert words in str(caught.value)
    assert type(caught.value) is error
    assert bench.runner.known(bench.plan) == {}
    assert bench.leftovers() == []


def test_a_failure_without_a_class_points_to_the_log(tmp_path: Path) -> None:
    outcome = Outcome(3, False, False, "Traceback: the last line")
    bench = Bench(tmp_path, failing(outcome, kind="stage-failed", message="ValueError: 1"))
    with pytest.raises(StageFailedError) as caught:
        bench.run()
    log = Path(caught.value.remedy.removeprefix("Log: "))
    assert log.read_text() == "Traceback: the last line"
    assert log.is_relative_to(bench.store.root)


def test_a_late_timeout_does_not_spoil_a_finished_run(tmp_path: Path) -> None:
    def play(container: Container) -> Outcome:
        container.finish_all()
        return Outcome(0, False, True, "")

    assert len(Bench(tmp_path, play).run()) == 5


# --- what is not taken -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("stage", StageOutputError, "export was not taken"),
        ("files", StageOutputError, "export/files was not taken"),
        ("result.json", StageOutputError, "export/result.json was not taken"),
        ("garbage", StageOutputError, "nests deeper"),
        ("other", StageFailedError, "'../outside' that was not asked for"),
        ("noise", StageFailedError, "wrote a line that is not valid JSON"),
    ],
)
def test_a_stage_that_does_not_keep_to_its_folder(
    tmp_path: Path, what: str, error: type[KilnError], words: str
) -> None:
    """Its code may be a stranger's, and we may be root."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("{}")
    (outside / "result.json").write_text('{"facts": {}, "seconds": 1, "peak_rss": 1}')

    def misbehave(container: Container) -> None:
        first = container.request["stages"][0]["id"]
        folder = container.outputs / first
        if what == "noise":
            container.say(b"a library's chatter\n")
        elif what == "stage":
            folder.symlink_to(outside)
        elif what == "other":
            first = "../outside"
        else:
            folder.mkdir()
            (folder / "result.json").write_text("[" * 100_000)
            if what != "garbage":
                (folder / "result.json").unlink()
                (folder / what).symlink_to(outside / ("result.json" if "." in what else ""))
            if what == "files":
                (folder / "result.json").write_bytes((outside / "result.json").read_bytes())
        container.event("finished", first, seconds=1, peak_rss=1)

    bench = Bench(tmp_path, misbehave)  # type: ignore[arg-type]
    with pytest.raises(error, match=re.escape(words)) as caught:
        bench.run()
    assert "toy" in caught.value.message
    assert not bench.store.has(sha256_bytes(b"{}"))
    assert bench.leftovers() == []


def test_the_log_of_a_failed_stage_can_be_shown_on_a_terminal(tmp_path: Path) -> None:
    outcome = Outcome(3, False, False, "red: \x1b[31m\ttwo\nlines \u202eback")
    bench = Bench(tmp_path, failing(outcome, kind="stage-failed", message="\x1b]0;title\x07"))
    with pytest.raises(StageFailedError) as caught:
        bench.run()
    assert caught.value.message == "toy, stage export: \\x1b]0;title\\x07"
    log = Path(caught.value.remedy.removeprefix("Log: "))
    assert log.read_text() == "red: \\x1b[31m\ttwo\nlines \\u202eback"


def test_a_fact_that_was_never_reported_is_a_fault_of_the_stage(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Container.finish_all)
    bench.remember("export", *MADE["export"])  # without the facts that int8 takes from it
    with pytest.raises(StageFailedError, match="did not report the fact"):
        bench.run()
