"""What driver and stages make of a pipeline.config, by the Object Detection API in the image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES
from support import Stages, Wanted

from kiln.core.errors import UnsupportedModelError
from kiln.recipes import pipeline_config, pipeline_schema

SSD = FAMILIES["ssd_mobilenet_v2"].config
CENTERNET = FAMILIES["centernet_mobilenet_v2_fpn"].config
TRAINING = """\
train_config { batch_size: 8 fine_tune_checkpoint: "C:\\Users\\me\\ckpt-0" a_forks_own { x: 1 } }
train_input_reader { tf_record_input_reader { input_path: "C:\\data\\" } }
eval_config { use_moving_averages: false of_a_fork: 3 }
"""

#: Name -> text; a name that starts with "no" says that it is to be refused.
CONFIGS: dict[str, str | bytes] = {
    **{f"yes-{name}": family.config for name, family in FAMILIES.items()},
    "yes-training": SSD + TRAINING,
    "yes-training-first": TRAINING + CENTERNET,
    "yes-mark": b"\xef\xbb\xbf" + SSD.encode(),
    "yes-latin": SSD.encode() + b"# Ren\xe9\ntrain_input_reader { label_map_path: '/Ren\xe9' }",
    "yes-cut-off": SSD + "train_config { optimizer { ",
    "yes-numbers": SSD.replace("iou_threshold: 0.6", "iou_threshold: .6e0f"),
    "yes-truth": SSD.replace("encode_background_as_zeros: true", "encode_background_as_zeros: 1"),
    "yes-enumeration": SSD.replace("SIGMOID", "1"),
    "yes-unpadded": SSD.replace(
        "fixed_shape_resizer { height: 160 width: 160 }",
        "keep_aspect_ratio_resizer { min_dimension: 100 max_dimension: 160 resize_method: AREA }",
    ),
    "yes-a-class": SSD.replace("per_class: 100", "per_class: 20")
    + "graph_rewriter { quantization { delay: 1 weight_bits: 8 activation_bits: 8 } }",
    "yes-keypoints": CENTERNET.replace(
        "use_depthwise: true",
        'use_depthwise: true keypoint_label_map_path: "/gone" '
        'keypoint_estimation_task { task_name: "pose" }',
    ),
    "no-field": SSD.replace("num_classes:", "num_classes: 3 fine_tune_checkpoint: 'x' min_depth:"),
    "no-block": SSD + "box_coder { }",
    "no-words": SSD.replace("num_classes: 6", "num_classes: 'six'"),
    "no-fraction": SSD.replace("num_classes: 6", "num_classes: 6.0"),
    "no-enumeration": SSD.replace("SIGMOID", "SIGMOIDS"),
    "no-truth": SSD.replace("encode_background_as_zeros: true", "encode_background_as_zeros: yes"),
    "no-quotes": SSD.replace('"ssd_mobilenet_v2_keras"', "ssd_mobilenet_v2_keras"),
    "no-twice": SSD.replace("num_classes: 6", "num_classes: 6 num_classes: 6"),
    "no-block-twice": SSD.replace("loss {", "loss { } loss {"),
    "no-two-models": SSD.replace("model { ssd {", "model { center_net { } ssd {"),
    "no-list": SSD.replace("num_classes: 6", "num_classes: [6]"),
    "no-tensorflow-1": SSD.replace("ssd_mobilenet_v2_keras", "ssd_mobilenet_v2"),
    "no-fork": SSD.replace("ssd_mobilenet_v2_keras", "ssd_mine_keras"),
    "no-centernets": CENTERNET.replace("mobilenet_v2_fpn", "mobilenet_v3_fpn"),
    "no-coder": SSD.replace("faster_rcnn_box_coder", "keypoint_box_coder").replace(
        "_scale: 10.0", "_scale: 1.0"
    ),
    "no-greyscale": SSD.replace("height: 160", "convert_to_grayscale: true height: 160"),
    "no-utf-8": SSD.encode("utf-16"),
    "no-model": TRAINING,
}


#: Name -> height, width and detections of what is built.
BUILT = {
    "yes-ssd_mobilenet_v2": [160, 160, 100],
    "yes-efficientdet_d0": [256, 256, 100],
    "yes-centernet_mobilenet_v2_fpn": [192, 192, 10],
    "yes-training": [160, 320, 100],
    "yes-unpadded": [160, 160, 100],
    "yes-a-class": [160, 160, 100],
}


@dataclass(frozen=True)
class Told:
    """What the API's own code says."""

    messages: dict[str, dict[str, Any]]
    extractors: dict[str, list[str]]
    verdicts: dict[str, str]
    differences: dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    for name, text in CONFIGS.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    # A brace of the model too few, and one too many, wherever.
    for number, brace in enumerate(re.finditer("}", SSD)):
        start, end = brace.span()
        (folder / f"any-without-{number}").write_text(SSD[:start] + SSD[end:] + TRAINING)
        (folder / f"any-twice-{number}").write_text(SSD[:end] + "}" + SSD[end:] + TRAINING)
    return folder


@pytest.fixture(scope="module")
def told(stages: Stages, configs: Path) -> Told:
    wanted = Wanted("probe", "config_probe", {"built": BUILT}, {"configs": configs})
    result = stages.run(wanted)["probe"]
    schema = stages.json(result, "messages.json")
    return Told(
        schema["messages"],
        schema["extractors"],
        stages.json(result, "verdicts.json"),
        result.facts["differences"],
    )


def test_the_messages(told: Told) -> None:
    # By the numbers of protobuf's own FieldDescriptorProto.Type.
    codes = {1: "f", 2: "f", 3: "i", 5: "i", 8: "b", 9: "s", 13: "u"}
    assert told.messages.keys() == pipeline_schema.MESSAGES.keys()
    for message, fields in told.messages.items():
        ours = {}
        rivals: dict[str, list[str]] = {}
        for word in pipeline_schema.MESSAGES[message].split():
            name, _, rest = word.partition(":")
            ours[name], _, oneof = rest.partition("|")
            if oneof:
                rivals.setdefault(oneof, []).append(name)
        assert ours.keys() == fields.keys(), message
        for name, field in fields.items():
            kind = ours[name]
            assert kind.startswith("[") == field["repeated"], (message, name)
            kind = kind.strip("[]")
            if field["message"]:
                assert kind == f"@{field['message']}"
            elif field["values"]:
                assert pipeline_schema.ENUMS[kind].split() == field["values"]
            else:
                assert kind == codes[field["type"]]
            mine = next((group for group in rivals.values() if name in group), [])
            assert sorted(mine) == field["rivals"]


def test_the_extractors(told: Told) -> None:
    for architecture, names in told.extractors.items():
        assert pipeline_schema.EXTRACTORS[architecture].split() == names


def test_the_driver_refuses_what_the_stages_refuse(told: Told, configs: Path) -> None:
    """Nothing starts a container only to be refused there, and nothing sound is refused."""
    refused = 0
    for name, why in told.verdicts.items():
        try:
            pipeline_config.read(configs / name)
            driver = ""
        except UnsupportedModelError as error:
            driver = error.message
        assert bool(driver) == bool(why), (name, driver, why)
        assert not name.startswith("yes-" if why else "no-"), (name, why)
        refused += bool(why)
    assert refused > 60


def test_differences_of_real_messages(told: Told) -> None:
    """With the API's own defaults for what a configuration leaves out."""
    usual = ("suppression of overlaps", "within each class", "across classes, one class a box")
    expected = {
        "yes-ssd_mobilenet_v2": [usual],
        "yes-efficientdet_d0": [usual],
        "yes-centernet_mobilenet_v2_fpn": [("detections, at most", "100", "10")],
        "yes-training": [("input size", "160x160", "160x320"), usual],
        "yes-unpadded": [
            ("padding", "none: pictures keep their shape", "filled up to 160x160"),
            (
                "scale of pictures",
                "shorter side 100 pixels, longer at most 160",
                "longer side 160 pixels",
            ),
            ("resize method", "area", "the application's own"),
            usual,
        ],
        "yes-a-class": [
            usual,
            ("detections of one class, at most", "20", "no limit"),
            ("quantisation", "graph_rewriter: in training", "after training"),
        ],
    }
    found = {
        name: [(item["what"], item["config"], item["built"]) for item in items]
        for name, items in told.differences.items()
    }
    assert found == expected
