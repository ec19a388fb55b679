"""Archives in the TensorFlow 2 detection zoo's layout, and recipes for them, made by the tests."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from kiln.core.stage_result import StageResult
from kiln.core.store import Store

TOP = "ssd_mobilenet_v2_random"
DATA = "checkpoint/ckpt-0.data-00000-of-00001"
INDEX = "checkpoint/ckpt-0.index"

RECIPE = """\
schema = 1
name = "{name}"
title = "Random {architecture}"
description = "A detector of 90 classes with random weights."
licence = "Apache-2.0"
author = "tests"
version = "1"
architecture = "{architecture}"
image = "odapi"
variants = {variants}
{profile}
[source]
kind = "archive"
url = "{url}"
root = "{root}"
checkpoint = "checkpoint"
pipeline_config = "pipeline.config"
{prebuilt}
{pins}
[labels]
file = "../labels/{labels}"
{more}
"""


#: The zoo's CenterNet MobileNetV2 FPN, for smaller pictures. Like the zoo's it keeps the aspect
#: ratio, which an export cannot, and does not say that its convolutions are separable.
CENTERNET = b"""
model { center_net {
  num_classes: 90
  feature_extractor { type: "mobilenet_v2_fpn_sep_conv" }
  image_resizer {
    keep_aspect_ratio_resizer { min_dimension: 256 max_dimension: 256 pad_to_max_dimension: true }
  }
  use_depthwise: true
  object_detection_task {
    task_loss_weight: 1.0 offset_loss_weight: 1.0 scale_loss_weight: 0.1
    localization_loss { l1_localization_loss {} }
  }
  object_center_params {
    object_center_loss_weight: 1.0 min_box_overlap_iou: 0.7 max_box_predictions: 20
    classification_loss { penalty_reduced_logistic_focal_loss { alpha: 2.0 beta: 4.0 } }
  }
} }
"""

#: The zoo's EfficientDet D0, for smaller pictures.
EFFICIENTDET_D0 = b"""
model { ssd {
  num_classes: 90
  image_resizer {
    keep_aspect_ratio_resizer { min_dimension: 256 max_dimension: 256 pad_to_max_dimension: true }
  }
  feature_extractor {
    type: "ssd_efficientnet-b0_bifpn_keras"
    conv_hyperparams {
      regularizer { l2_regularizer { weight: 4e-5 } }
      initializer { truncated_normal_initializer { mean: 0.0 stddev: 0.03 } }
      activation: SWISH
      batch_norm { decay: 0.99 scale: true epsilon: 0.001 }
      force_use_bias: true
    }
    bifpn { min_level: 3 max_level: 7 num_iterations: 3 num_filters: 64 }
  }
  box_coder {
    faster_rcnn_box_coder { y_scale: 1.0 x_scale: 1.0 height_scale: 1.0 width_scale: 1.0 }
  }
  matcher { argmax_matcher { matched_threshold: 0.5 unmatched_threshold: 0.5 } }
  similarity_calculator { iou_similarity {} }
  box_predictor { weight_shared_convolutional_box_predictor {
    conv_hyperparams {
      regularizer { l2_regularizer { weight: 4e-5 } }
      initializer { random_normal_initializer { mean: 0.0 stddev: 0.01 } }
      activation: SWISH
      batch_norm { decay: 0.99 scale: true epsilon: 0.001 }
      force_use_bias: true
    }
    depth: 64 num_layers_before_predictor: 3 kernel_size: 3 use_depthwise: true
    class_prediction_bias_init: -4.6
  } }
  anchor_generator { multiscale_anchor_generator {
    min_level: 3 max_level: 7 anchor_scale: 4.0 scales_per_octave: 3
    aspect_ratios: 1.0 aspect_ratios: 2.0 aspect_ratios: 0.5
  } }
  post_processing {
    batch_non_max_suppression {
      score_threshold: 1e-8 iou_threshold: 0.5
      max_detections_per_class: 100 max_total_detections: 100
    }
    score_converter: SIGMOID
  }
  loss {
    localization_loss { weighted_smooth_l1 {} }
    classification_loss { weighted_sigmoid_focal { gamma: 1.5 alpha: 0.25 } }
    classification_weight: 1.0 localization_weight: 1.0
  }
  encode_background_as_zeros: true
  add_background_class: false
} }
"""


def files_of(result: StageResult, store: Store) -> dict[str, bytes]:
    """The model folder that the ``make_checkpoint`` stage wrote, by path."""
    return {
        name.removeprefix("model/"): store.path(blob.sha256).read_bytes()
        for name, blob in result.files.items()
    }


def pack(files: Mapping[str, bytes], path: Path, *, top: str = TOP) -> Path:
    """A ``.tar.gz`` as the zoo packs them: one top folder, folders before their files."""
    folders = sorted({str(Path(name).parent) for name in files} - {"."})
    with (
        path.open("wb") as file,
        gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for folder in ["", *folders]:
            info = tarfile.TarInfo(f"{top}/{folder}".rstrip("/"))
            info.type, info.mode = tarfile.DIRTYPE, 0o750
            tar.addfile(info)
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size, info.mode = len(data), 0o640
            tar.addfile(info, io.BytesIO(data))
    return path


def pack_entry(entry: tarfile.TarInfo, path: Path, data: bytes = b"") -> Path:
    """A ``.tar.gz`` with the top folder and one entry that does not belong there."""
    with tarfile.open(path, "w:gz") as tar:
        top = tarfile.TarInfo(TOP)
        top.type, top.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(top)
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return path


class Models:
    """A models folder of the tests' own, with the project's label maps and images.

    Args:
        folder: where; made here.
        project: where the label maps and images are copied from.
    """

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder = folder
        shutil.copytree(project / "models" / "labels", folder / "labels")
        shutil.copytree(project / "models" / "samples" / "images", folder / "images")

    def add(
        self,
        name: str,
        archive: Path | str,
        *,
        variants: tuple[str, ...] = ("float32",),
        profile: str = "",
        allow: Sequence[str] = (),
        labels: str = "mscoco.pbtxt",
        images: str = "images",
        root: str = TOP,
        pins: str = "",
        more: str = "",
        architecture: str = "ssd",
    ) -> str:
        """Write a recipe for an archive (a path, or an address); returns the model's name."""
        url = archive if isinstance(archive, str) else archive.as_uri()
        if {"int8", "prebuilt"} & set(variants):
            more += f'\n[calibration]\nimages = "../{images}"\n'
        text = RECIPE.format(
            name=name,
            variants=str(list(variants)).replace("'", '"'),
            profile=(f'profile = "{profile}"\n' if profile else "")
            + (f"allow = {json.dumps(allow)}\n" if allow else ""),
            url=url,
            root=root,
            pins=pins,
            architecture=architecture,
            prebuilt='prebuilt = "model.tflite"\n' if "prebuilt" in variants else "",
            labels=labels,
            more=more,
        )
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "recipe.toml").write_text(text)
        return name
