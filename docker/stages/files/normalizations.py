"""Describe and compare input normalisations of detectors. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Normalization:
    """(pixel - mean) / std per channel, in pixel values (0 to 255)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def shown(self) -> str:
        """Format for messages: ``127.5/127.5``, or all channels where they differ."""
        pairs = [f"{mean:g}/{std:g}" for mean, std in zip(self.mean, self.std)]
        return pairs[0] if len(set(pairs)) == 1 else " ".join(pairs)

    def as_fact(self) -> dict[str, list[float]]:
        """Return it in the form of a stage's fact."""
        return {"mean": list(self.mean), "std": list(self.std)}

    def difference(self, other: Normalization) -> float:
        """Return the largest difference of a graph's input, in pixel values of ``other``."""
        return max(
            abs((pixel - mean) / std * other_std + other_mean - pixel)
            for pixel in (0, 255)  # linear in the pixel: the extremes are at the ends
            for mean, std, other_mean, other_std in zip(self.mean, self.std, other.mean, other.std)
        )


def three(mean: tuple[float, ...], std: tuple[float, ...]) -> Normalization:
    """Build one from numbers per channel, or from one number for all three."""
    return Normalization(tuple(mean) * (3 // len(mean)), tuple(std) * (3 // len(std)))


KNOWN = {
    Normalization((0.0,) * 3, (1.0,) * 3): "raw pixels",  # the graph contains it (CenterNet)
    Normalization((127.5,) * 3, (127.5,) * 3): "-1 to 1",  # MobileNet
    Normalization((0.0,) * 3, (255.0,) * 3): "0 to 1",
    Normalization((127.0,) * 3, (128.0,) * 3): "EfficientDet-Lite's",
    Normalization(
        (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    ): "ImageNet's mean and deviation",
}
"""Common normalisations of exported detectors, with names."""


def named(norm: Normalization) -> str:
    """Format for messages: numbers, and the name where it has one."""
    name = KNOWN.get(norm)
    return f"mean/std {norm.shown()}" + (f" ({name})" if name else "")
