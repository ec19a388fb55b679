"""What a file does otherwise than its configuration; against real messages: tests/integration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from stages.odapi.config_differences import (
    ACROSS_CLASSES,
    Built,
    differences,
    input_size,
    most_detections,
)


class Message(SimpleNamespace):
    """Stands for a protobuf message: the fields given, and defaults for what is absent."""

    DEFAULTS: ClassVar[dict[str, Any]] = {
        "convert_to_grayscale": False, "resize_method": 0, "pad_to_max_dimension": False,
        "min_dimension": 600, "max_dimension": 1024, "score_threshold": 0.0, "iou_threshold": 0.6,
        "max_detections_per_class": 100, "max_total_detections": 100, "soft_nms_sigma": 0.0,
        "use_class_agnostic_nms": False, "max_classes_per_detection": 1, "y_scale": 10.0,
        "x_scale": 10.0, "height_scale": 5.0, "width_scale": 5.0, "max_box_predictions": 100,
        "num_classes": 3,
    }  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        return self.DEFAULTS.get(name, Message() if not name.startswith("_") else None)

    def HasField(self, name: str) -> bool:  # noqa: N802 (protobuf's name)
        return name in vars(self)

    def WhichOneof(self, name: str) -> str | None:  # noqa: N802 (protobuf's name)
        return next(iter(vars(self)), None)


def ssd(nms: Message | None = None, resizer: Message | None = None, **fields: Any) -> Message:
    resizer = resizer or Message(fixed_shape_resizer=Message(height=300, width=300))
    processing = Message(batch_non_max_suppression=nms or Message())
    model = Message(post_processing=processing, image_resizer=resizer, **fields)
    return Message(model=Message(ssd=model))


def found(config: Message, built: Built) -> dict[str, tuple[str, str]]:
    listed = differences(config, built)
    assert all(item["effect"].endswith(".") for item in listed)
    return {item["what"]: (item["config"], item["built"]) for item in listed}


AS_TRAINED = Built((300, 300), 100)
USUAL = {ACROSS_CLASSES: ("within each class", "across classes, one class a box")}


def test_as_trained() -> None:
    assert found(ssd(), AS_TRAINED) == USUAL
    assert found(ssd(num_classes=1), AS_TRAINED) == {}
    assert found(ssd(Message(use_class_agnostic_nms=True)), AS_TRAINED) == {}


@pytest.mark.parametrize(
    ("size", "words"),
    [((480, 640), "another size and shape than"), ((600, 600), "another size than")],
)
def test_another_input_size(size: tuple[int, int], words: str) -> None:
    (item,) = input_size((300, 300), size)
    assert (item["config"], item["built"]) == ("300x300", f"{size[0]}x{size[1]}")
    assert words in item["effect"]
    assert list(input_size(size, size)) == []


def test_the_exporters_default_of_ten_detections() -> None:
    (item,) = (
        item
        for item in differences(ssd(), Built((300, 300), 10, exported=True))
        if item["what"] != ACROSS_CLASSES
    )
    assert (item["what"], item["config"], item["built"]) == ("detections, at most", "100", "10")
    assert "more than 10 objects, the others are never found" in item["effect"]
    assert "--max_detections 100 of export_tflite_graph_tf2.py" in item["effect"]
    assert "convert its checkpoint" in item["effect"]


def test_numbers_of_detections() -> None:
    assert list(most_detections(100, 100)) == []
    (more,) = most_detections(100, 300)
    assert "More may be found than the 100" in more["effect"]
    assert found(ssd(num_classes=1), Built((300, 300), None)) == {}


KEPT = {"min_dimension": 512, "max_dimension": 512}


@pytest.mark.parametrize(
    ("resizer", "size", "expected"),
    [
        ({"keep_aspect_ratio_resizer": {**KEPT, "pad_to_max_dimension": True}}, (512, 512), {}),
        (
            {"keep_aspect_ratio_resizer": {**KEPT}},
            (512, 512),
            {"padding": ("none: pictures keep their shape", "filled up to 512x512")},
        ),
        (
            {"keep_aspect_ratio_resizer": {**KEPT, "pad_to_max_dimension": True}},
            (256, 512),
            {
                "input size": ("512x512", "256x512"),
                "shape of pictures": (
                    "kept (shorter side 512 pixels, longer at most 512)",
                    "stretched to 256x512",
                ),
            },
        ),
        (
            {"keep_aspect_ratio_resizer": {"min_dimension": 600, "max_dimension": 1024,
                                           "pad_to_max_dimension": True}},
            (1024, 1024),
            {
                "scale of pictures": (
                    "shorter side 600 pixels, longer at most 1024",
                    "longer side 1024 pixels",
                ),
            },
        ),
        (
            {"fixed_shape_resizer": {"height": 300, "width": 300, "resize_method": 3}},
            (300, 300),
            {"resize method": ("area", "the application's own")},
        ),
        (
            {"identity_resizer": {}},
            (300, 300),
            {
                "shape of pictures": (
                    "identity_resizer: each has its own size", "stretched to 300x300",
                )
            },
        ),
    ],
)  # fmt: skip
def test_resizers(
    resizer: dict[str, dict[str, Any]], size: tuple[int, int], expected: dict[str, Any]
) -> None:
    message = Message(**{name: Message(**fields) for name, fields in resizer.items()})
    assert found(ssd(num_classes=1, resizer=message), Built(size, 100)) == expected


REGULAR = {
    "regular": True,
    "score_threshold": 0.0,
    "iou_threshold": 0.6,
    "detections_per_class": 100,
}


@pytest.mark.parametrize(
    ("nms", "built", "expected"),
    [
        (
            {"max_detections_per_class": 20},
            None,
            {**USUAL, "detections of one class, at most": ("20", "no limit")},
        ),
        ({"max_detections_per_class": 20}, {**REGULAR, "detections_per_class": 20}, {}),
        (
            {},
            {**REGULAR, "detections_per_class": 20},
            {"detections of one class, at most": ("100", "20")},
        ),
        (
            {"use_class_agnostic_nms": True},
            REGULAR,
            {ACROSS_CLASSES: ("across classes", "within each class")},
        ),
        (
            {"use_class_agnostic_nms": True, "max_classes_per_detection": 2},
            None,
            {"classes of a box, at most": ("2", "1")},
        ),
        (
            {"soft_nms_sigma": 0.5},
            REGULAR,
            {
                "soft suppression": (
                    "sigma 0.5: scores of overlapping boxes are lowered",
                    "boxes that overlap by more than 0.6 (IoU) are left out",
                )
            },
        ),
        (
            {"score_threshold": 0.3, "iou_threshold": 0.5},
            REGULAR,
            {"score threshold": ("0.3", "0"), "overlap threshold (IoU)": ("0.5", "0.6")},
        ),
        ({"score_threshold": 1e-8}, REGULAR, {}),  # what six decimals leave of it
        ({}, {**REGULAR, "score_threshold": float("-inf")}, {"score threshold": ("0", "-inf")}),
    ],
)
def test_suppression(
    nms: dict[str, Any], built: dict[str, Any] | None, expected: dict[str, Any]
) -> None:
    assert found(ssd(Message(**nms)), Built((300, 300), 100, built)) == expected


def test_a_configuration_of_another_model() -> None:
    own = Built((300, 300), 100, scales=(10.0, 10.0, 5.0, 5.0))
    other = Built((300, 300), 100, scales=(1.0, 1.0, 1.0, 1.0))
    assert found(ssd(num_classes=1), own) == {}
    assert found(ssd(num_classes=1), other) == {
        "scales of the box coder": ("10, 10, 5, 5", "1, 1, 1, 1")
    }


def test_keypoints_and_quantisation() -> None:
    model = Message(
        image_resizer=Message(fixed_shape_resizer=Message(height=512, width=512)),
    )
    config = Message(
        model=Message(center_net=model), graph_rewriter=Message(quantization=Message())
    )
    assert found(config, Built((512, 512), 100, left_out=["pose", "hands"])) == {
        "keypoints": ("pose, hands", "none"),
        "quantisation": ("graph_rewriter: in training", "after training"),
    }
