from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kiln.core.errors import VerificationError
from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import Store
from kiln.recipes.plan import Files, Output, Plan, Step
from proofs.cpu_check import (
    FreshStore,
    Run,
    Verdict,
    changed_bytes,
    differences,
    judge,
    plain,
    tell,
)

STEPS = (
    ("checkpoint", "oidv4_checkpoint", {"weights": Files({"": "a" * 64})}),
    ("export", "export", {"checkpoint": Output("checkpoint", "model")}),
    ("convert-float32", "convert", {"saved_model": Output("export", "saved_model")}),
    ("annotate-float32", "annotate", {"model": Output("convert-float32", "model.tflite")}),
)
PLAN = Plan(
    "toy",
    "odapi",
    tuple(
        Step(step_id, stage, {"exact_batch_norm": True} if stage == "export" else {}, inputs, {},
             f"{number:064x}")
        for number, (step_id, stage, inputs) in enumerate(STEPS)
    ),
    {"float32": "annotate-float32"},
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def ran(store: Store, machine: str, **contents: bytes) -> Run:
    """A run whose steps made these contents (``convert_float32=b"..."``), the rest alike."""
    results = {}
    for step in PLAN.steps:
        name = "saved_model/saved_model.pb" if step.stage == "export" else "model.tflite"
        data = contents.get(step.id.replace("-", "_"), step.id.encode())
        blob = Blob(store.add_bytes(data), len(data))
        results[step.id] = StageResult(step.key, step.stage, {name: blob}, {}, 1.0, 1)
    return Run(machine, results, 2.0)


def test_the_same_bytes_pass(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = Verdict(PLAN, [ran(store, "native"), ran(store, "Haswell")])
    judge([verdict])
    tell([verdict], store, as_json=False)
    assert "identical" in (text := capsys.readouterr().out)
    assert "DIFFERS" not in text


@pytest.mark.parametrize("step", ["checkpoint", "convert_float32", "annotate_float32"])
def test_other_bytes_are_named(store: Store, capsys: pytest.CaptureFixture[str], step: str) -> None:
    odd = ran(store, "Haswell", **{step: b"other"})
    verdict = Verdict(PLAN, [ran(store, "native"), ran(store, "one core"), odd])
    with pytest.raises(VerificationError, match="toy on Haswell") as caught:
        judge([verdict])
    assert "one core" not in caught.value.message
    tell([verdict], store, as_json=False)
    assert capsys.readouterr().out.count("DIFFERS") == 1


def test_a_saved_model_may_differ(store: Store) -> None:
    odd = ran(store, "Haswell", export=b"other names")
    assert not any(differences(PLAN, ran(store, "native"), odd).values())


def test_a_compiled_file_is_compared_with_what_it_was_made_of(store: Store) -> None:
    """Its own form, if that is another file than the published one."""
    made, form, compiled = "annotate-int8", "int8-integer", "compile-int8-npu"
    steps = [
        Step(name, name.partition("-")[0], {}, {}, {}, f"{number:064x}")
        for number, name in enumerate((
            "convert-int8", made, f"convert-{form}", f"annotate-{form}", compiled
        ))
    ]  # fmt: skip
    above = {"model": Output(f"annotate-{form}", "model.tflite")}
    steps[-1] = replace(steps[-1], inputs=above)
    plan = Plan(
        "toy", "odapi", tuple(steps), {"int8": made},
        compiled={"int8_npu": compiled}, unpublished={"int8_npu": form},
    )  # fmt: skip

    def run(machine: str, odd: str = "") -> Run:
        results = {}
        for step in steps:
            blob = Blob(store.add_bytes(f"{step.id == odd}".encode()), 5)
            files = {"model.tflite": blob}
            results[step.id] = StageResult(step.key, step.stage, files, {}, 1.0, 1)
        return Run(machine, results, 1.0)

    native = run("native")
    assert differences(plan, native, run("Haswell")) == {"int8": [], "int8_npu": []}
    for odd in (f"convert-{form}", compiled):
        found = differences(plan, native, run("Haswell", odd))
        assert found == {"int8": [], "int8_npu": [odd]}
    with pytest.raises(VerificationError, match=r"toy on Haswell \(int8_npu\)"):
        judge([Verdict(plan, [native, run("Haswell", compiled)])])
    published = replace(
        plan, unpublished={},
        steps=(*steps[:-1], replace(steps[-1], inputs={"model": Output(made, "model.tflite")})),
    )  # fmt: skip
    found = differences(published, native, run("Haswell", "convert-int8"))
    assert found == {"int8": ["convert-int8"], "int8_npu": ["convert-int8"]}


def test_the_first_step_that_differs_is_told(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = ran(store, "Haswell", convert_float32=b"other", annotate_float32=b"other, too")
    tell([Verdict(PLAN, [ran(store, "native"), odd])], store, as_json=True)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (event,) = [e for e in events if not e["identical"]]
    assert event["machine"] == "Haswell"
    assert event["differing_steps"] == ["convert-float32", "annotate-float32"]


def test_a_control_must_differ_everywhere(store: Store) -> None:
    native, same = ran(store, "native"), ran(store, "Haswell")
    other = ran(store, "SandyBridge", convert_float32=b"other")
    judge([Verdict(PLAN, [native, other], control=True)])
    with pytest.raises(VerificationError, match=r"control.*toy on Haswell"):
        judge([Verdict(PLAN, [native, other, same], control=True)])


def test_the_control_changes_the_export_and_every_key_after_it() -> None:
    changed = plain(PLAN)
    assert changed.step("export").params == {"exact_batch_norm": False}
    assert changed.step("checkpoint") == PLAN.step("checkpoint")
    for step in PLAN.steps[1:]:
        assert changed.step(step.id).key != step.key
        assert replace(changed.step(step.id), key=step.key, params=step.params) == step


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [(b"abc", b"abc", 0), (b"abc", b"axc", 1), (b"abc", b"ab", 1), (b"", b"xyz", 3)],
)
def test_changed_bytes(tmp_path: Path, one: bytes, other: bytes, count: int) -> None:
    paths = tmp_path / "one", tmp_path / "other"
    for path, data in zip(paths, (one, other), strict=True):
        path.write_bytes(data)
    assert changed_bytes(*paths) == (count, max(len(one), len(other)))


def test_a_fresh_store_knows_no_result_of_another(tmp_path: Path, store: Store) -> None:
    result = ran(store, "native").results["checkpoint"]
    store.put_result(result)
    fresh = FreshStore(store.root)
    assert fresh.get_result(result.key) is None
    changed = replace(result, seconds=9.0)
    fresh.put_result(changed)
    assert fresh.get_result(result.key) == changed
    assert store.get_result(result.key) == result
