"""Contents that a plan starts from, by digest: a recipe's source and the files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Contents:
    """The contents that a plan starts from, by digest.

    Args:
        checkpoint: the files of a checkpoint or hub module (path -> SHA-256); empty where a stage
            makes it.
        saved_model: the folder of an exported model, where there is no checkpoint.
        config: SHA-256 of the ``pipeline.config`` given with it.
        inputs: named files of the stage that makes the checkpoint.
        prebuilt: SHA-256 of the archive's ready ``.tflite``.
        label_map: SHA-256 of the label map, if it is in the store.
        label_map_path: otherwise its path inside the source.
        images: calibration images, name -> SHA-256.
        check_images: images that artefacts are checked on, name -> SHA-256.
    """

    checkpoint: Mapping[str, str] = field(default_factory=dict)
    saved_model: Mapping[str, str] = field(default_factory=dict)
    config: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    prebuilt: str | None = None
    label_map: str | None = None
    label_map_path: str | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    check_images: Mapping[str, str] = field(default_factory=dict)
