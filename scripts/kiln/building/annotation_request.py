"""What a user says about a finished ``.tflite`` file, for ``kiln annotate``; checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kiln.building.annotation_check import Source
from kiln.core.channels import check_channels
from kiln.core.errors import UsageError
from kiln.project.stagecode import stage_module
from kiln.tflite.feeding import BILINEAR, CORNER, HALF_PIXEL, LETTERBOX, STRETCH, TOP_LEFT

FITS = (LETTERBOX, STRETCH)
SAMPLINGS = (HALF_PIXEL, CORNER)


@dataclass(frozen=True)
class Wanted:
    """The user's values; ``None`` and empty: not given.

    Args:
        mean: for all channels or for red, green and blue, in pixel values.
        std: likewise.
        fit: how pictures are fitted to the input, one of :data:`FITS`.
        fill: of a letterbox: the rest's pixel value, for all channels or for each.
        sampling: one of :data:`SAMPLINGS`; by default as image libraries do it.
        roles: ``boxes``, ``classes``, ``scores`` and ``count`` -> name of the output.
        texts: of the metadata: ``name``, ``description``, ``version``, ``author``, ``license``.
        source: what to check the file against.
    """

    file: Path
    label_map: Path
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fit: str | None = None
    fill: tuple[float, ...] | None = None
    sampling: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    score_threshold: float | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    source: Source | None = None


def source_of(
    checkpoint: Path | None,
    pipeline_config: Path | None,
    spec: str | None,
    images: Path | None,
    allow: Sequence[str],
) -> Source | None:
    """Return what a file is checked against; None without a checkpoint.

    Raises:
        UsageError: something is given that only goes with a checkpoint.
    """
    if checkpoint is not None:
        return Source(checkpoint, pipeline_config, spec, images, tuple(allow))
    if pipeline_config or spec or images or allow:
        raise UsageError(
            "--pipeline-config, --model-maker, --images and --allow need --checkpoint.",
            "Name the checkpoint that the file was made from, or leave them out.",
        )
    return None


def check(wanted: Wanted) -> None:
    """Check what can be checked without the file.

    Raises:
        UsageError: values are missing, cannot be combined, or mean nothing.
    """
    if (wanted.mean is None) != (wanted.std is None):
        raise UsageError(
            "--mean and --std need each other.", "Give both, such as --mean 127.5 --std 127.5."
        )
    for name, values in (("mean", wanted.mean), ("std", wanted.std), ("fill", wanted.fill)):
        if values is not None:
            check_channels(name, values)
    roles = sorted(stage_module("tflite.output_roles").ROLES)
    if wanted.roles and sorted(wanted.roles) != roles:
        raise UsageError(
            f"--roles names {', '.join(sorted(wanted.roles))}, not one output for each of "
            f"{', '.join(roles)}.",
            "Name all four; `kiln inspect` lists the outputs.",
        )
    threshold = wanted.score_threshold
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(
            f"--score-threshold {threshold} is not a score.", "Scores are from 0 to 1."
        )
    _check_fit(wanted)


def _check_fit(wanted: Wanted) -> None:
    if wanted.fit is None:
        if wanted.fill is not None or wanted.sampling is not None:
            raise UsageError(
                "--fill and --sampling need --fit.", "Give --fit letterbox or --fit stretch, too."
            )
        return
    if wanted.source is not None:
        raise UsageError(
            "--fit cannot be combined with --checkpoint.",
            "Leave it out: the model's own image resizer says it.",
        )
    for name, value, known in (
        ("fit", wanted.fit, FITS),
        ("sampling", wanted.sampling or HALF_PIXEL, SAMPLINGS),
    ):
        if value not in known:
            raise UsageError(f"--{name} {value!r} is unknown.", f"Give {' or '.join(known)}.")
    if wanted.fit == LETTERBOX and wanted.fill is None:
        raise UsageError(
            "--fit letterbox needs --fill, the pixel value of the rest beside the picture.",
            "Give what the training had: --fill 0 where the graph takes raw pixels (CenterNet); "
            "the value of --mean where pictures were scaled first and padded with zeros (SSD and "
            "EfficientDet of the Object Detection API, TFLite Model Maker).",
        )
    if wanted.fit == STRETCH and wanted.fill is not None:
        raise UsageError(
            "--fill has no meaning with --fit stretch.", "Leave it out: nothing is filled."
        )


def feeding_of(wanted: Wanted) -> dict[str, Any] | None:
    """Return the description of feeding that the user states; None: nothing is stated."""
    if wanted.fit is None:
        return None
    fill = wanted.fill
    return {
        "fit": wanted.fit,
        "anchor": TOP_LEFT if fill is not None else None,
        "fill": None if fill is None else list(fill) * (3 // len(fill)),
        "sampling": wanted.sampling or HALF_PIXEL,
        "interpolation": BILINEAR,
    }
