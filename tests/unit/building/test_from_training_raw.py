"""``--postprocess none``: written into the recipe, or refused before a container starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_folder import CONFIG, LABELS, save

from kiln.building.from_training import Given, settle
from kiln.building.recipe_writer import recipe_text
from kiln.core.errors import UsageError
from kiln.recipes.recipe import load


@pytest.fixture
def plain(tmp_path: Path) -> Given:
    folder = tmp_path / "training"
    save(folder, "ckpt-1")
    (folder / "pipeline.config").write_text(CONFIG)
    (folder / "labels.pbtxt").write_text(LABELS)
    return Given(checkpoint=folder, label_map=folder / "labels.pbtxt", postprocess="none")


def test_it_is_in_the_recipe_with_its_limits(plain: Given, tmp_path: Path) -> None:
    wish = replace(plain, nms_score_threshold=0.1, max_detections_per_class=5)
    folder = tmp_path / "boats"
    folder.mkdir()
    (folder / "recipe.toml").write_text(recipe_text(settle(wish, folder=folder)[0]))
    found = load(folder / "recipe.toml").export
    assert (found.postprocess, found.regular_nms) == ("none", False)
    assert (found.nms_score_threshold, found.max_detections_per_class) == (0.1, 5)
    usual = recipe_text(settle(replace(plain, postprocess="tflite"), folder=folder)[0])
    assert "postprocess" not in usual


@pytest.mark.parametrize(
    ("change", "words", "option"),
    [
        ({"output_order": "tf1"}, "two outputs", "--output-order"),
        ({"regular_nms": True}, "own post-processing", "--regular-nms"),
        ({"spec": "efficientdet_lite0"}, "Model Maker's own", "--postprocess"),
    ],
)
def test_what_does_not_go_with_it(
    plain: Given, change: dict[str, Any], words: str, option: str
) -> None:
    with pytest.raises(UsageError, match="--postprocess none cannot be: ") as caught:
        settle(replace(plain, **change))
    assert words in caught.value.message
    assert caught.value.remedy == f"Leave out {option}."


def test_a_centernet_has_no_raw_boxes(plain: Given) -> None:
    assert plain.checkpoint is not None
    (plain.checkpoint / "pipeline.config").write_text(
        'model { center_net { num_classes: 2 feature_extractor { type: "mobilenet_v2_fpn" } '
        "image_resizer { fixed_shape_resizer { } } object_detection_task { } } }"
    )
    with pytest.raises(UsageError, match="a CenterNet has no raw boxes"):
        settle(plain)


def test_another_word(plain: Given) -> None:
    with pytest.raises(UsageError, match="'non' is not a choice") as caught:
        settle(replace(plain, postprocess="non"))
    assert "'none'" in caught.value.remedy
