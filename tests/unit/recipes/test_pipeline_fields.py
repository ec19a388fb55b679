"""Fields that the Object Detection API would refuse, found in the text, and where they belong."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln.core.errors import UnsupportedModelError
from kiln.recipes import pipeline_config
from kiln.recipes.pipeline_fields import Fault, first_fault
from kiln.recipes.pipeline_schema import ENUMS, EXTRACTORS, MESSAGES


def fault(text: str) -> Fault | None:
    return first_fault(pipeline_config.parse(text))


@pytest.mark.parametrize(
    ("text", "line", "message", "remedy"),
    [
        (
            "model { ssd {\n num_classes: 2\n fine_tune_checkpoint: 'x' } }",
            3,
            "model.ssd has no field fine_tune_checkpoint.",
            "A closing brace is missing or one too many above it, or it was pasted into the wrong "
            "block: fine_tune_checkpoint belongs to train_config.",
        ),
        (
            "model { ssd { feature_extractor {\n num_classes: 2 } } }",
            2,
            "model.ssd.feature_extractor has no field num_classes.",
            "belongs to model.ssd",
        ),
        (
            "model { center_net { feature_extractor {\n num_classes: 2 } } }",
            2,
            "model.center_net.feature_extractor has no field num_classes.",
            "belongs to model.center_net",
        ),
        (
            "model { ssd { } }\nbox_coder { faster_rcnn_box_coder { } }",
            2,
            "box_coder stands outside of every block.",
            "A closing brace is one too many above it, or it was pasted into the wrong block: "
            "box_coder belongs to model.ssd.",
        ),
        (
            "model { ssd { box_predictor { convolutional_box_predictor { conv_hyperparams {\n"
            "regularizer {\n initializer { } } } } } } }",
            3,
            "model.ssd.box_predictor.convolutional_box_predictor.conv_hyperparams.regularizer has",
            "A closing brace is missing above it, or it was pasted into the wrong block: "
            "initializer belongs to "
            "model.ssd.box_predictor.convolutional_box_predictor.conv_hyperparams.",
        ),
        (
            "model { ssd { feature_extractor {\n initializer { } } } }",
            2,
            "model.ssd.feature_extractor has no field initializer.",
            "A closing brace is one too many above it",
        ),
        ("model { ssd {\n train_config { } } }", 2, "", "train_config belongs to the outermost"),
        ("ssd { num_classes: 2 }", 1, "ssd stands outside", "ssd belongs to model."),
        (
            "model { ssd { feature_extractor { typ: 'x' } } }",
            1,
            "model.ssd.feature_extractor has no field typ.",
            "Did you mean type? The Object Detection API has no field of that name.",
        ),
        ("model { ssd { of_a_fork { } } }", 1, "has no field of_a_fork", "a changed API trained"),
        ("a_field_of_nobody: 1", 1, "stands outside", "has no field of that name"),
    ],
)
def test_where_a_field_belongs(text: str, line: int, message: str, remedy: str) -> None:
    found = fault(text)
    assert found is not None
    assert (found.line, message in found.message, remedy in found.remedy) == (line, True, True)


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ("num_classes: 'three'", "num_classes is 'three', and should be a whole number."),
        ("num_classes: 3.0", "num_classes is '3.0', and should be a whole number."),
        ("num_classes { }", "num_classes is a block, and should be a whole number."),
        ("num_classes: [3]", "num_classes is a list, and should be a whole number."),
        ("image_resizer: 3", "image_resizer is '3', and should be a block: image_resizer { ... }."),
        ("freeze_batchnorm: yes", "freeze_batchnorm is 'yes', and should be true or false."),
        ("negative_class_weight: 1,5 num", "negative_class_weight is"),
        ("feature_extractor { type: ssd }", "type is 'ssd', and should be a text in quotation"),
        (
            "post_processing { score_converter: SIGMOIDS }",
            "score_converter is 'SIGMOIDS', and should be one of IDENTITY, SIGMOID, SOFTMAX.",
        ),
        (
            "feature_extractor { conv_hyperparams { batch_norm { decay: 0.9\n decay: 0.8 } } }",
            "decay is there for the second time; the first is on line 1.",
        ),
        (
            "image_resizer { fixed_shape_resizer { }\n keep_aspect_ratio_resizer { } }",
            "keep_aspect_ratio_resizer excludes fixed_shape_resizer, which is on line 1.",
        ),
        ("num_classes: 1 } ssd { num_classes: 1", "ssd is there for the second time"),
    ],
)
def test_values_of_another_type(inner: str, words: str) -> None:
    text = f"model {{ ssd {{ {inner} }} }}".replace("1,5 num", "one")
    found = fault(text)
    assert found is not None
    assert words in found.message
    assert found.remedy


@pytest.mark.parametrize(
    "inner",
    [
        "num_classes: 0x1F freeze_batchnorm: 1",
        "negative_class_weight: -1.5e-3 implicit_example_weight: .5f",
        "negative_class_weight: inf implicit_example_weight: 3",
        "anchor_generator { ssd_anchor_generator { scales: 0.1 scales: 0.2 scales: [0.3, 0.4] } }",
        "post_processing { score_converter: 2 }",
        "matcher: < argmax_matcher: < > >",
    ],
)
def test_what_is_right(inner: str) -> None:
    assert fault(f"model {{ ssd {{ {inner} }} }}") is None


def test_other_blocks_are_not_looked_into() -> None:
    assert fault("train_config { of_a_fork: 1 batch_size: eight } eval_config { x { } }") is None


SOUND = """\
model {
  ssd {
    num_classes: 2
    image_resizer {
      fixed_shape_resizer {
        height: 300
      }
    }
    feature_extractor {
      type: "ssd_mobilenet_v2_keras"
    }
    box_coder {
      faster_rcnn_box_coder {
      }
    }
  }
}
train_config {
  batch_size: 8
}
"""


def test_any_brace_that_is_missing_or_too_many(tmp_path: Path) -> None:
    """Whatever brace: refused, or what is left is the same model; and a line is named."""
    path = tmp_path / "pipeline.config"
    lines = SOUND.splitlines(keepends=True)
    path.write_text(SOUND)
    sound = pipeline_config.read(path)
    refused = 0
    for number, line in enumerate(lines):
        if "}" not in line:
            continue
        for changed in ("", line * 2):
            path.write_text("".join((*lines[:number], changed, *lines[number + 1 :])))
            try:
                assert pipeline_config.read(path) == sound
            except UnsupportedModelError as error:
                refused += 1
                assert "line" in error.message
                assert "brace" in error.remedy
    assert refused >= 12


def test_the_tables_name_only_what_they_hold() -> None:
    for fields in MESSAGES.values():
        for word in fields.split():
            kind = word.partition(":")[2].partition("|")[0].strip("[]")
            assert kind in "iufbs" or kind in ENUMS or kind[1:] in MESSAGES
    assert "ssd_mobilenet_v2_keras" in EXTRACTORS["ssd"].split()
