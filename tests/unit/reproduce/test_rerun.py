"""Artefacts made again from their provenance, and compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from toy_container import Container
from toy_reproduce import WEIGHTS, Machine, ToyRelease, made, outcomes, play

from kiln.cli.reproduce import _judge
from kiln.core.digest import sha256_bytes
from kiln.core.errors import (
    CannotReproduceError,
    EngineUnavailableError,
    ImageMismatchError,
    NotReproducedError,
)
from kiln.core.stage_result import Blob, StageResult
from kiln.reproduce.recorded import Recorded, read
from kiln.reproduce.verdict import suspects
from kiln.running.limits import Limits, Outcome


def test_identical(release: ToyRelease, machine: Machine) -> None:
    release.write()
    found = machine.run(release)
    assert set(outcomes(found).values()) == {"identical"}
    (call,) = machine.door.calls
    assert [stage["stage"] for stage in call["request"]["stages"]].count("export") == 1
    assert call["limits"] == Limits(memory=3 << 30, timeout=2 * 90.0), "for two artefacts"
    assert call["tree"]["export/checkpoint/ckpt-0.data"] == WEIGHTS
    told = [event for event in machine.events if event["event"] == "verdict"]
    assert [event["verdict"] for event in told] == ["identical", "identical"]


def test_results_of_the_users_store_are_never_taken(release: ToyRelease, machine: Machine) -> None:
    """Else a store that holds what was released would always prove it."""
    release.write()
    for step in release.plan.steps:
        blob = machine.store.add_bytes(made("int8"))
        path = machine.store.path(blob)
        machine.store.put_result(
            StageResult(step.key, step.stage, {"model.tflite": Blob(blob, path.stat().st_size)}, {})
        )
    machine.run(release)
    assert len(machine.door.calls[0]["request"]["stages"]) == 5


def other_file(container: Container) -> Outcome | None:
    """Something else comes out, from the export on."""
    for stage in container.request["stages"]:
        data = made("another")
        files = {"model.tflite": data, "saved_model/saved_model.pb": b"another graph"}
        container.finish(stage["id"], files, num_classes=1)
    return None


def test_another_file_is_explained_and_kept(
    release: ToyRelease, machine: Machine, tmp_path: Path
) -> None:
    release.write()
    machine.play = other_file
    verdict = machine.run(release, keep=tmp_path / "kept")["toy_int8.tflite"]
    assert verdict.outcome == "differs"
    assert verdict.rebuilt == sha256_bytes(made("another"))
    assert verdict.difference is not None and not verdict.difference.identical
    assert verdict.first == "export"
    assert [cause.kind for cause in verdict.causes] == ["unknown"]
    assert verdict.kept == tmp_path / "kept" / "toy" / "toy_int8.tflite"
    assert verdict.kept.read_bytes() == made("another")
    assert verdict.difference.verdict in "\n".join(verdict.lines())
    json.dumps(verdict.as_json())
    machine.run(release, keep=tmp_path / "kept")  # there is one already


def test_a_statement_about_another_file(release: ToyRelease, machine: Machine) -> None:
    release.edit = lambda s: s["subject"][0]["digest"].update(sha256=sha256_bytes(b"other"))
    release.write()
    verdict = machine.run(release)["toy_int8.tflite"]
    assert verdict.outcome == "differs"
    assert [cause.kind for cause in verdict.causes] == ["statement"]
    assert verdict.difference is None
    assert any("not the file that its provenance is about" in note for note in machine.notes())


def test_suspects(release: ToyRelease, tmp_path: Path) -> None:
    item = read(release.statement("int8"), Path("x"))
    assert [c.kind for c in suspects(item, item.machine, item.cpu)] == ["unknown"]
    (cause,) = suspects(item, item.machine, "Another 9000")
    assert cause.kind == "cpu" and "Another 9000" in cause.text and item.cpu in cause.text
    (cause,) = suspects(item, item.machine, "Another 9000", contradicted=True)
    assert cause.kind == "statement"
    plain = ToyRelease(tmp_path, params={"exact_batch_norm": False})
    seed = read(plain.statement("int8"), Path("x"))
    (cause,) = suspects(seed, seed.machine, seed.cpu)
    assert cause.kind == "cpu" and "seed profile" in cause.text


def test_a_failing_model_does_not_stop_the_others(tmp_path: Path, machine: Machine) -> None:
    one, other = ToyRelease(tmp_path), ToyRelease(tmp_path, model="toy2")
    one.write()
    other.write()

    def falter(container: Container) -> Outcome | None:
        first = container.request["stages"][0]["id"]
        if len(machine.door.calls) == 1:
            container.event("failed", first, kind="checkpoint", message="No.", remedy="None.")
            return Outcome(1, False, False, "a log")
        return play(container)

    machine.play = falter
    verdicts = machine.reproducer().run(one.read())
    assert [v.outcome for v in verdicts] == ["cannot be rebuilt"] * 2 + ["identical"] * 2
    assert [c.kind for c in verdicts[0].causes] == ["stage"]
    assert "No." in verdicts[0].causes[0].text


def test_the_log_of_a_failed_stage_stays(release: ToyRelease, machine: Machine) -> None:
    release.write()
    machine.play = lambda container: Outcome(1, False, False, "what the stage said")
    verdict = machine.run(release)["toy_int8.tflite"]
    log = machine.store.root / "logs" / "reproduce-toy.log"
    assert log.read_text() == "what the stage said"
    assert str(log) in verdict.causes[0].text


def test_a_slower_machine(release: ToyRelease, machine: Machine) -> None:
    release.write()
    machine.play = lambda container: Outcome(137, False, True, "")
    verdict = machine.run(release)["toy_int8.tflite"]
    assert "not finished after 180 s" in verdict.causes[0].text
    assert "recipe" not in verdict.causes[0].text


def test_an_image_that_comes_out_otherwise(release: ToyRelease, machine: Machine) -> None:
    release.write()
    reproducer = machine.reproducer()

    def image(docker: Path, item: Recorded) -> str:
        raise ImageMismatchError("Image 'odapi' is not the locked one: bin/sh differs.", "Report.")

    reproducer._image = image  # type: ignore[method-assign]
    verdicts = reproducer.run(release.read())
    assert {v.outcome for v in verdicts} == {"cannot be rebuilt"}
    assert verdicts[0].causes[0].kind == "image"
    assert "bin/sh differs" in verdicts[0].causes[0].text
    assert verdicts[0].missing[0].name == "image odapi"
    assert not machine.door.calls, "nothing runs in another image than the recorded one"


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"{}", b'{"stages": 1}', b'{"stages": {"export": 1}}']
)
def test_a_record_that_is_none(tmp_path: Path, machine: Machine, record: bytes) -> None:
    release = ToyRelease(tmp_path)
    release.record = lambda: record  # type: ignore[method-assign]
    release.write()
    machine.play = other_file
    verdict = machine.run(release)["toy_int8.tflite"]
    assert verdict.first == ""
    assert [cause.kind for cause in verdict.causes] == ["unknown"]


def test_without_an_engine_nothing_is_judged(release: ToyRelease, machine: Machine) -> None:
    release.write()
    reproducer = machine.reproducer()

    def image(docker: Path, item: Recorded) -> str:
        raise EngineUnavailableError("No container engine answers.", "Start one.")

    reproducer._image = image  # type: ignore[method-assign]
    with pytest.raises(EngineUnavailableError):
        reproducer.run(release.read())


def test_exit_codes(release: ToyRelease, machine: Machine) -> None:
    release.write()
    good = list(machine.run(release).values())
    _judge(good)
    differs = replace(good[0], outcome="differs")
    impossible = replace(good[1], outcome="cannot be rebuilt")
    with pytest.raises(CannotReproduceError, match="toy_int8") as caught:
        _judge([good[0], impossible])
    assert caught.value.exit_code == 43
    with pytest.raises(NotReproducedError, match="1 differs, 1 cannot be rebuilt") as caught_2:
        _judge([differs, impossible])
    assert caught_2.value.exit_code == 42
