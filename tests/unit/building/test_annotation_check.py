"""What ``kiln annotate --checkpoint`` plans: a build around a file that is finished already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from int16_toy import int16_toy
from places import FIXTURES
from tflite_files import fixture, rewritten
from training_folder import CONFIG, STATE, save

from kiln.building.annotation_check import Ready, Source, prepare
from kiln.core.errors import CheckpointError, UnsupportedModelError, UsageError
from kiln.core.store import Store
from kiln.project.closures import StageCode
from kiln.project.folders import Project
from kiln.recipes.plan import Files, Output, make_plan
from kiln.tflite.reading import load

LABELS = FIXTURES / "toy_labels.pbtxt"
MODEL, IMAGE, CODE = "a" * 64, "sha256:" + "b" * 64, StageCode("c" * 64)


def sized(height: int, width: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].shape = [1, height, width, 3]

    return change


@pytest.fixture
def training(tmp_path: Path) -> Path:
    folder = tmp_path / "boats"
    for number in (1, 2):
        save(folder, f"ckpt-{number}")
    (folder / "checkpoint").write_text(STATE.format("/gone/ckpt-2"))
    (folder / "pipeline.config").write_text(CONFIG.replace("num_classes: 2", "num_classes: 3"))
    return folder


def prepared(training: Path, data: bytes, **more: Any) -> Ready:
    store = Store(training.parent / "store")
    return prepare(Project.find(), store, load(data), Source(training, **more), LABELS)


@pytest.mark.parametrize(("name", "variant"), [("toy_ssd", "float32"), ("toy_ssd_uint8", "int8")])
def test_the_steps_of_a_build_without_conversion(training: Path, name: str, variant: str) -> None:
    ready = prepared(training, rewritten(fixture(name), sized(96, 64)), allow=("parity",))
    assert any("taking checkpoint ckpt-2" in note for note in ready.notes)
    assert not any("calibrated" in note for note in ready.notes)
    found = ready.plan(MODEL, {"name": "Boats"}, IMAGE, CODE)
    assert found.ids() == [
        "export",
        f"annotate-{variant}",
        "previews",
        "reference",
        f"check-{variant}",
        f"task-library-{variant}",
    ]
    # The checkpoint is exported and run as the file was made.
    assert found.step("export").params["image_size"] == [96, 64]
    assert found.step("export").params["max_detections"] == 4
    made = found.step(f"annotate-{variant}")
    assert made.inputs["model"] == Files({"": MODEL})
    assert made.params["name"] == "Boats"
    assert made.params_from["normalization"].step == "export"
    check = found.step(f"check-{variant}")
    assert check.inputs["model"] == Output(f"annotate-{variant}", "model.tflite")
    assert check.inputs["source"] == Output("reference", "detections.json")
    # No result of a build may be taken for one of this file, or of another file.
    built = make_plan(ready.recipe, ready.contents, [ready.variant], image=IMAGE, code=CODE)
    other = ready.plan("d" * 64, {"name": "Boats"}, IMAGE, CODE)
    for step_id in (f"annotate-{variant}", f"check-{variant}", f"task-library-{variant}"):
        keys = {plan.step(step_id).key for plan in (built, found, other)}
        assert len(keys) == 3
    assert found.step("export").key == built.step("export").key
    assert ready.recipe.how_to_allow(["labels"]) == (
        "add --allow labels --allow parity to the command"
    )


def test_activations_in_16_bits_are_another_variant(training: Path) -> None:
    data = rewritten(int16_toy(), sized(96, 64))
    assert prepared(training, data, allow=("parity",)).variant == "int16x8"


def test_a_file_that_cannot_be_of_this_checkpoint(training: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="does not end in TFLite's detection operator"):
        prepared(training, rewritten(fixture("toy_centernet"), sized(64, 64)))
    with pytest.raises(UnsupportedModelError, match="images of 8x8 pixels"):
        prepared(training, fixture("toy_ssd"))


def test_a_checkpoint_that_is_none(training: Path) -> None:
    data = rewritten(fixture("toy_ssd"), sized(64, 64))
    (training / "pipeline.config").rename(training / "other.config")
    with pytest.raises(UsageError, match=r"no pipeline\.config beside"):
        prepared(training, data)
    assert prepared(training, data, pipeline_config=training / "other.config").recipe
    for path in training.glob("*.index"):
        path.unlink()
    with pytest.raises(CheckpointError):
        prepared(training, data, pipeline_config=training / "other.config")
