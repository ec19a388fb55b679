"""Plans of several artefacts, merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from toy_reproduce import ToyRelease

from kiln.reproduce.merging import merge
from kiln.running.limits import Limits


def test_what_is_the_same_is_made_once(release: ToyRelease) -> None:
    release.write()
    (group,) = merge(release.read())
    assert [step.id for step in group.plan.steps] == [
        "export", "convert-float32", "convert-int8", "annotate-float32", "annotate-int8",
    ]  # fmt: skip
    assert group.plan.artefacts == {
        "toy_float32.tflite": "annotate-float32",
        "toy_int8.tflite": "annotate-int8",
    }


def test_what_is_not_the_same_runs_apart(release: ToyRelease, tmp_path: Path) -> None:
    release.write()
    one, other = release.read()
    assert len(merge([one, replace(other, limits=Limits(memory=1 << 30))])) == 2
    assert len(merge([one, replace(other, source="f" * 64)])) == 2
    plain = ToyRelease(tmp_path, params={"exact_batch_norm": False})
    plain.write()
    assert len(merge([one, plain.read()[1]])) == 2, "two different steps, both called export"
