"""A first look at a pipeline.config: what it says, and what is refused before any image."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from kiln.core.errors import UnsupportedModelError
from kiln.recipes import pipeline_config
from kiln.recipes.pipeline_config import Block

SSD = """\
# trained on photos
model {
  ssd {
    num_classes: 3  # boats
    image_resizer { fixed_shape_resizer { height: 320 width: 320 } }
    feature_extractor { type: 'ssd_mobilenet_v2' "_keras" }
    anchor_generator: < ssd_anchor_generator < scales: [0.1, 0.2] > >;
  }
}
train_config { fine_tune_checkpoint: "C:\\\\old\\\\{\\"model\\"}", batch_size: 8 }
"""


def read(tmp_path: Path, text: str | bytes) -> pipeline_config.Pipeline:
    path = tmp_path / "pipeline.config"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return pipeline_config.read(path)


def refused(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        read(tmp_path, text)
    assert caught.value.remedy
    return caught.value.message


def test_an_ssd(tmp_path: Path) -> None:
    found = read(tmp_path, SSD)
    assert (found.meta, found.extractor, found.num_classes) == ("ssd", "ssd_mobilenet_v2_keras", 3)
    assert found.architecture == "ssd"


@pytest.mark.parametrize(
    ("extractor", "architecture"),
    [("ssd_efficientnet-b0_bifpn_keras", "efficientdet"), ("ssd_resnet50_v1_fpn_keras", "ssd")],
)
def test_efficientdet_is_an_ssd(tmp_path: Path, extractor: str, architecture: str) -> None:
    text = SSD.replace("'ssd_mobilenet_v2' \"_keras\"", f'"{extractor}"')
    assert read(tmp_path, text).architecture == architecture


def test_centernet(tmp_path: Path) -> None:
    text = (
        'model { center_net { num_classes: 90 feature_extractor { type: "mobilenet_v2_fpn" } '
        "object_detection_task { } } }"
    )
    found = read(tmp_path, text)
    assert (found.architecture, found.num_classes) == ("centernet", 90)


@pytest.mark.parametrize("sample", ["ssd_mobilenet_v2_oidv4", "centernet_mobilenet_v2_fpn_shapes"])
def test_the_samples_own(sample: str) -> None:
    path = ROOT / "models" / "samples" / sample / "pipeline.config"
    found = pipeline_config.read(path)
    assert found.num_classes is not None
    assert f"num_classes: {found.num_classes}" in path.read_text("utf-8")
    assert found.architecture == sample.partition("_")[0]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("faster_rcnn { num_classes: 3 number_of_stages: 2 }", ["Faster R-CNN cannot", "crops"]),
        ("faster_rcnn { number_of_stages: 3 }", ["Mask R-CNN cannot"]),
        ("faster_rcnn { context_config { } }", ["Context R-CNN cannot"]),
        ("experimental_model { name: 'x' }", ["experimental_model cannot", "outside of the"]),
        ("new_thing { }", ["new_thing cannot be converted"]),
        ("", ["names no model"]),
        (
            'center_net { feature_extractor { type: "hourglass_104" } '
            "densepose_estimation_task { } }",
            ["densepose_estimation_task"],
        ),
        (
            'center_net { feature_extractor { type: "hourglass_104" } '
            'keypoint_estimation_task { task_name: "pose" } }',
            ["no object_detection_task"],
        ),
    ],
)
def test_what_cannot_be_converted(tmp_path: Path, model: str, words: list[str]) -> None:
    message = refused(tmp_path, f"model {{ {model} }}")
    for word in ["pipeline.config", *words]:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no model"),
        ("train_config { }", "names no model"),
        ("model: 3", "names no model"),
        ("model { ssd: 3 }", "ssd is not a block"),
        ("model { ssd {", "the end of the file on line 1"),
        ("model { ssd { } }\n}", "'}' on line 2"),
        ("model { ssd { num_classes: } }", "where a value should be"),
        ("model { ssd { scales: [1, 2 } }", "a list has no end"),
        ("model\n\n = 3", "unexpected '=' on line 3"),
        ('model { name: "open\n }', "unexpected '\"' on line 1"),
        ("{" * 9, "'{' on line 1"),
        ("a {" * 500, "nested too deeply"),
        (bytes(range(256)), "UTF-8"),
        (b"\x0a\x80", "UTF-8"),
        ("#" * (4 << 20) + "#", "too large"),
    ],
)
def test_what_is_no_pipeline_config(tmp_path: Path, text: str | bytes, words: str) -> None:
    assert words in refused(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="No such file"):
        pipeline_config.read(tmp_path / "absent.config")


def test_repeats(tmp_path: Path) -> None:
    root = pipeline_config.parse("a: 1 a: 2 b { c: 3 }")
    assert root == Block((("a", "1"), ("a", "2"), ("b", Block((("c", "3"),)))))
    assert (root.a, root.b.c) == (2, 3)
    assert root.HasField("a") and not root.HasField("c")


@given(st.text(alphabet="ab:{}<>[]\"'#\\ \n,1"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        pipeline_config.parse(text)
    except ValueError as error:
        assert str(error)
