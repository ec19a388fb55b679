"""Check numbers for the colour channels of pictures, as users give them."""

from __future__ import annotations

from collections.abc import Sequence

from kiln.core.errors import UsageError

_LARGEST = 2.0**100  # metadata hold float32: what is larger, or divides by less, is infinite there
_BOUNDS = {
    "mean": (-_LARGEST, _LARGEST),
    "std": (1 / _LARGEST, _LARGEST),
    "fill": (0.0, 255.0),
}


def check_channels(name: str, values: Sequence[float], given: str = "") -> None:
    """Check a number for all channels, or one each for red, green and blue.

    Args:
        name: ``mean``, ``std`` or ``fill``; in pixel values.
        values: the numbers.
        given: them as the user wrote them.

    Raises:
        UsageError: they are not one or three, or not within bounds.

    >>> check_channels("mean", (127.5,))
    """
    least, most = _BOUNDS[name]
    if len(values) not in (1, 3) or not all(least <= value <= most for value in values):
        shown = given or ",".join(f"{value:g}" for value in values)
        raise UsageError(
            f"--{name} {shown!r} is not one number, or three for red, green and blue.",
            "Pixels are 0 to 255: --mean 127.5 --std 127.5 makes them -1 to 1, and --fill 0 is "
            "black.",
        )
