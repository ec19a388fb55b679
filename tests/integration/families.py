"""Small models of the detection zoo's families: a ``pipeline.config`` for each feature extractor.

Hyper-parameters are those of the zoo's configurations where they shape the graph (levels, anchors,
depthwise heads, activations, box coding); inputs, depths and the number of classes are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

CLASSES = ("bird", "boat", "cat", "cup", "person", "rocket")

LABEL_MAP = "".join(
    f"item {{\n  id: {number}\n  name: '{name}'\n}}\n" for number, name in enumerate(CLASSES, 1)
)


#: What an export says of a fixed-shape resizer: fed otherwise, a file scores otherwise.
FED = {
    "fit": "stretch", "anchor": None, "fill": None, "sampling": "corner",
    "interpolation": "bilinear",
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A feature extractor and how the zoo uses it.

    Args:
        config: text of its ``pipeline.config``.
        architecture: what a recipe calls it.
        side: of the square input in pixels.
        seed: of weights with which no two detections are so near that rounding swaps them.
        stand_out: how many class scores are 0.3 or more on all photos together.
    """

    config: str
    architecture: str
    side: int
    seed: int
    stand_out: int = 60


_HYPERPARAMS = """{
    regularizer { l2_regularizer { weight: 4e-5 } }
    initializer { random_normal_initializer { mean: 0.0 stddev: 0.01 } }
    activation: %s
    batch_norm { decay: %s scale: true epsilon: 0.001 }%s
  }"""
_RELU_6 = _HYPERPARAMS % ("RELU_6", "0.997", "")
_SWISH = _HYPERPARAMS % ("SWISH", "0.99", "\n    force_use_bias: true")

_SSD = """\
model {{ ssd {{
  num_classes: {classes}
  image_resizer {{ {resizer} }}
  feature_extractor {{
    type: "{type}"
    conv_hyperparams {hyperparams}
    {extractor}
  }}
  box_coder {{ faster_rcnn_box_coder {{ {scales} }} }}
  matcher {{ argmax_matcher {{ matched_threshold: 0.5 unmatched_threshold: 0.5 }} }}
  similarity_calculator {{ iou_similarity {{}} }}
  box_predictor {{ {predictor} }}
  anchor_generator {{ {anchors} }}
  post_processing {{
    batch_non_max_suppression {{
      score_threshold: 1e-8 iou_threshold: {overlap}
      max_detections_per_class: 100 max_total_detections: 100
    }}
    score_converter: SIGMOID
  }}
  loss {{
    localization_loss {{ weighted_smooth_l1 {{}} }}
    classification_loss {{ weighted_sigmoid_focal {{ gamma: 2.0 alpha: 0.25 }} }}
    classification_weight: 1.0 localization_weight: 1.0
  }}
  encode_background_as_zeros: true
  {more}
}} }}
"""
_FIXED = "fixed_shape_resizer { height: %d width: %d }"
_PADDED = (
    "keep_aspect_ratio_resizer { min_dimension: %d max_dimension: %d pad_to_max_dimension: true }"
)
_TEN_FIVE = "y_scale: 10.0 x_scale: 10.0 height_scale: 5.0 width_scale: 5.0"
_ONES = "y_scale: 1.0 x_scale: 1.0 height_scale: 1.0 width_scale: 1.0"
_MULTISCALE = """multiscale_anchor_generator {
    min_level: 3 max_level: 7 anchor_scale: 4.0 scales_per_octave: %d
    aspect_ratios: 1.0 aspect_ratios: 2.0 aspect_ratios: 0.5
  }"""
_OWN = """convolutional_box_predictor {
    conv_hyperparams %s
    min_depth: 0 max_depth: 0 num_layers_before_predictor: 0 use_dropout: false
    kernel_size: 1 box_code_size: 4 apply_sigmoid_to_scores: false
    class_prediction_bias_init: -4.6
  }"""
_SHARED = """weight_shared_convolutional_box_predictor {
    conv_hyperparams %s
    depth: %d num_layers_before_predictor: %d kernel_size: 3 class_prediction_bias_init: -4.6
    %s
  }"""


def _mobilenet_v2(seed: int) -> Family:
    """SSD MobileNet v2 320x320: six layers of its own, no pyramid, a head for each."""
    side = 160
    text = _SSD.format(
        classes=len(CLASSES),
        resizer=_FIXED % (side, side),
        type="ssd_mobilenet_v2_keras",
        hyperparams=_RELU_6,
        extractor="depth_multiplier: 1.0 min_depth: 16\n"
        "    override_base_feature_extractor_hyperparams: true",
        scales=_TEN_FIVE,
        predictor=_OWN % _RELU_6,
        anchors="""ssd_anchor_generator {
    num_layers: 6 min_scale: 0.2 max_scale: 0.95 aspect_ratios: 1.0 aspect_ratios: 2.0
    aspect_ratios: 0.5 aspect_ratios: 3.0 aspect_ratios: 0.3333
  }""",
        overlap=0.6,
        more="",
    )
    return Family(text, "ssd", side, seed)


def _pyramid(
    extractor: str, seed: int, *, depthwise: bool, side: int = 160, depth: int = 64
) -> Family:
    """SSD with a feature pyramid and shared heads: FPNLite (depthwise) and RetinaNet."""
    separable = "use_depthwise: true" if depthwise else ""
    text = _SSD.format(
        classes=len(CLASSES),
        resizer=_FIXED % (side, side),
        type=extractor,
        hyperparams=_RELU_6,
        extractor=f"depth_multiplier: 1.0 min_depth: 16 {separable}\n"
        "    override_base_feature_extractor_hyperparams: true\n"
        f"    fpn {{ min_level: 3 max_level: 7 additional_layer_depth: {depth} }}",
        scales=_TEN_FIVE,
        predictor=_SHARED
        % (_RELU_6, depth, 4, f"share_prediction_tower: true {separable}" if depthwise else ""),
        anchors=_MULTISCALE % 2,
        overlap=0.6,
        more="",
    )
    return Family(text, "ssd", side, seed)


def _efficientdet(size: str, seed: int, *, filters: int, repeats: int, side: int = 256) -> Family:
    """EfficientDet: swish, weighted bidirectional pyramid, scores without a background class.

    The pyramid needs a ``side`` that is a multiple of 128, and more than 128.
    """
    text = _SSD.format(
        classes=len(CLASSES),
        resizer=_PADDED % (side, side),
        type=f"ssd_efficientnet-{size}_bifpn_keras",
        hyperparams=_SWISH,
        extractor=f"bifpn {{ min_level: 3 max_level: 7 num_iterations: {repeats}"
        f" num_filters: {filters} }}",
        scales=_ONES,
        predictor=_SHARED % (_SWISH, filters, 3, "use_depthwise: true"),
        anchors=_MULTISCALE % 3,
        overlap=0.5,
        more="add_background_class: false",
    )
    return Family(text, "efficientdet", side, seed)


def _centernet(extractor: str, seed: int) -> Family:
    """CenterNet MobileNet v2 FPN."""
    side = 192
    text = f"""\
model {{ center_net {{
  num_classes: {len(CLASSES)}
  feature_extractor {{ type: "{extractor}" }}
  image_resizer {{ {_PADDED % (side, side)} }}
  use_depthwise: true
  object_detection_task {{
    task_loss_weight: 1.0 offset_loss_weight: 1.0 scale_loss_weight: 0.1
    localization_loss {{ l1_localization_loss {{}} }}
  }}
  object_center_params {{
    object_center_loss_weight: 1.0 min_box_overlap_iou: 0.7 max_box_predictions: 100
    classification_loss {{ penalty_reduced_logistic_focal_loss {{ alpha: 2.0 beta: 4.0 }} }}
  }}
}} }}
"""
    return Family(text, "centernet", side, seed)


def laid_out(
    place: Path, config: str, images: Path, names: Sequence[str]
) -> tuple[Path, Path, Path]:
    """Write a family's files: a folder of some of the photos, its label map and configuration."""
    photos, labels, pipeline = place / "photos", place / "labels.pbtxt", place / "pipeline.config"
    photos.mkdir()
    for name in names:
        (photos / name).write_bytes((images / name).read_bytes())
    labels.write_text(LABEL_MAP)
    pipeline.write_text(config)
    return photos, labels, pipeline


FAMILIES: dict[str, Family] = {
    "ssd_mobilenet_v2": _mobilenet_v2(0),
    "ssd_mobilenet_v2_fpnlite": _pyramid("ssd_mobilenet_v2_fpn_keras", 1, depthwise=True),
    "ssd_mobilenet_v1_fpn": _pyramid("ssd_mobilenet_v1_fpn_keras", 2, depthwise=False),
    "ssd_resnet50_v1_fpn": _pyramid("ssd_resnet50_v1_fpn_keras", 3, depthwise=False),
    "efficientdet_d0": _efficientdet("b0", 4, filters=64, repeats=3),
    "efficientdet_d1": _efficientdet("b1", 5, filters=88, repeats=4),
    "centernet_mobilenet_v2_fpn": _centernet("mobilenet_v2_fpn", 6),
    "centernet_mobilenet_v2_fpn_sep_conv": _centernet("mobilenet_v2_fpn_sep_conv", 11),
}


def _full_size(small: Family, family: Family) -> Family:
    """A family with as many scores that stand out for its area as the small one has.

    Neighbours score alike. If as few stood out as in a small model, they would belong to a handful
    of places, and the heads would have to be scaled until rounding errors decide.
    """
    return replace(family, stand_out=round(small.stand_out * (family.side / small.side) ** 2))


#: The zoo's own sizes and depths, for `make nightly`: minutes each, and gigabytes.
FULL_SIZE: dict[str, Family] = {
    "ssd_resnet50_v1_fpn_640": _full_size(
        FAMILIES["ssd_resnet50_v1_fpn"],
        _pyramid("ssd_resnet50_v1_fpn_keras", 3, depthwise=False, side=640, depth=256),
    ),
    "efficientdet_d1_640": _full_size(
        FAMILIES["efficientdet_d1"],
        _efficientdet("b1", 5, filters=88, repeats=4, side=640),
    ),
}
