"""A first look at a pipeline.config: what it says, and what is refused before any image."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from kiln.core.errors import UnsupportedModelError
from kiln.recipes import pipeline_config
from kiln.recipes.pipeline_config import Block, Field

SSD = """\
# trained on photos
model {
  ssd {
    num_classes: 3  # boats
    image_resizer { fixed_shape_resizer { height: 320 width: 320 } }
    feature_extractor { type: 'ssd_mobilenet_v2' "_keras" }
    anchor_generator: < ssd_anchor_generator < scales: [0.1, 0.2] > >;
    box_coder { faster_rcnn_box_coder { } }
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
        "model { center_net { num_classes: 90 object_detection_task { } "
        'feature_extractor { type: "mobilenet_v2_fpn" } } }'
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
        ("new_thing { }", ["line 1: model has no field new_thing"]),
        (
            "ssd { box_coder { mean_stddev_box_coder { } } "
            "feature_extractor { type: 'ssd_mobilenet_v2_keras' } }",
            ["mean_stddev_box_coder"],
        ),
        (
            "ssd { image_resizer { fixed_shape_resizer { convert_to_grayscale: true } } "
            "box_coder { faster_rcnn_box_coder { } } "
            "feature_extractor { type: 'ssd_mobilenet_v2_keras' } }",
            ["takes greyscale images"],
        ),
        ("ssd { num_classes: 3 }", ["names no feature extractor"]),
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
        ("model: 3", "line 1: model is '3', and should be a block"),
        ("model { ssd: 3 }", "line 1: ssd is '3', and should be a block"),
        ("model { ssd {", "the end of the file on line 1"),
        ("model { ssd { } }\n}", "'}' on line 2"),
        ("model { ssd { num_classes: } }", "where a value should be"),
        ("model { ssd { num_classes: [1, 2 } }", "num_classes is a list"),
        ("model\n\n = 3", "unexpected '=' on line 3"),
        ('model { name: "open\n }', "unexpected '\"' on line 1"),
        ("{" * 9, "'{' on line 1"),
        ("model {" * 500, "model has no field model"),
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


EXTRACTOR = "model {\n ssd { num_classes: 2\n feature_extractor { type: '%s' } } }"


@pytest.mark.parametrize(
    ("extractor", "words", "remedy"),
    [
        ("ssd_mobilenet_v2", "one of TensorFlow 1's", "checkpoints differ"),
        ("ssd_inception_v2", "one of TensorFlow 1's", "checkpoints differ"),
        ("ssd_mobilenet_v2_kears", "none of the Object", "Did you mean 'ssd_mobilenet_v2_keras'?"),
        ("mine", "none of the Object", "A model of a changed API"),
        ("mobilenet_v2_fpn", "none of the Object", "changed API"),  # CenterNet's
    ],
)
def test_a_feature_extractor_that_tensorflow_2_does_not_have(
    tmp_path: Path, extractor: str, words: str, remedy: str
) -> None:
    (tmp_path / "pipeline.config").write_text(EXTRACTOR % extractor)
    with pytest.raises(UnsupportedModelError) as caught:
        pipeline_config.read(tmp_path / "pipeline.config")
    assert f"pipeline.config, line 3: The feature extractor '{extractor}'" in caught.value.message
    assert words in caught.value.message
    assert remedy in caught.value.remedy


def test_centernet_has_extractors_of_its_own(tmp_path: Path) -> None:
    text = 'model { center_net { feature_extractor { type: "ssd_mobilenet_v2_keras" } } }'
    assert "none of the Object Detection API's" in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("resizer", "has_size"),
    [
        ("fixed_shape_resizer { height: 3 }", True),
        ("keep_aspect_ratio_resizer { }", True),
        ("identity_resizer { }", False),
        ("pad_to_multiple_resizer { }", False),
        ("", False),
    ],
)
def test_whether_it_has_a_size(tmp_path: Path, resizer: str, has_size: bool) -> None:
    text = SSD.replace("fixed_shape_resizer { height: 320 width: 320 }", resizer)
    assert read(tmp_path, text).has_size is has_size


@pytest.mark.parametrize(
    "behind",
    [
        'train_input_reader { tf_record_input_reader { input_path: "C:\\Users\\me\\x.record" } }',
        'train_input_reader { label_map_path: "C:\\data\\" }',
        "train_config { a_field_of_a_fork { deep: 1 } batch_size: eight num_steps: 1 }",
        "eval_config { a_field_of_a_fork: 1 use_moving_averages: true } eval_input_reader { x: 1 }",
        "train_config { it { never { ended",
        "graph_rewriter { quantization { delay: ??? } }",
        b"train_input_reader { label_map_path: '/home/Ren\xe9/x' } # Ren\xe9",
        "train_config { } train_config { }",
    ],
)
def test_what_a_conversion_never_needs(tmp_path: Path, behind: str | bytes) -> None:
    text = behind if isinstance(behind, bytes) else behind.encode()
    assert read(tmp_path, SSD.partition("train_config")[0].encode() + text).num_classes == 3


def test_windows_saves_it_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbf" + SSD.replace("\n", "\r\n").encode()).num_classes == 3
    assert "UTF-8" in refused(tmp_path, SSD.encode("utf-16"))


def test_a_path_in_the_model(tmp_path: Path) -> None:
    text = (
        "model { center_net { keypoint_label_map_path: 'C:\\Users\\me\\map.pbtxt'\n"
        " object_detection_task { } feature_extractor { type: 'mobilenet_v2_fpn' } } }"
    )
    assert read(tmp_path, text).meta == "center_net"


def test_repeats(tmp_path: Path) -> None:
    root = pipeline_config.parse("a: 1 a: 2\nb { c: 'x' 'y' d: [1] }")
    inner = Block((Field("c", "xy", "string", 2), Field("d", "", "list", 2)))
    assert root == Block(
        (Field("a", "1", "word", 1), Field("a", "2", "word", 1), Field("b", inner, "block", 2))
    )
    assert (root.a, root.b.c) == (2, "xy")
    assert root.HasField("a") and not root.HasField("c")
    assert (root.line("b"), root.line("c")) == (2, None)


@given(st.text(alphabet="ab:{}<>[]\"'#\\ \n,1"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        pipeline_config.parse(text)
    except ValueError as error:
        assert str(error)
