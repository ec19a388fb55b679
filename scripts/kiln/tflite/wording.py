"""Format values from a file for display: one line, no control characters, not too long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_LONG = 72


def shown(text: str, limit: int = _LONG) -> str:
    """Make a name from a file safe to show on a terminal.

    The converter joins the names of merged nodes with ``;``: only the first is kept where the
    whole would be too long.

    >>> shown("a\\x1b[31m"), shown("x" * 50 + ";" + "y" * 50)[-6:]
    ('a\\\\x1b[31m', 'x (+1)')
    """
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(plain) <= limit:
        return plain
    first, *others = plain.split(";")
    if others:
        end = f" (+{len(others)})"
        return shown(first, limit - len(end)) + end
    half = (limit - 3) // 2
    return f"{plain[: limit - 3 - half]}...{plain[-half:]}"


def shown_apart(a: str, b: str) -> tuple[str, str]:
    """Shorten two names so that their difference stays visible.

    >>> shown_apart("x" * 80 + ";a", "x" * 80 + ";b")[1]
    '...;b'
    """
    if a == b or shown(a) != shown(b):
        return shown(a), shown(b)
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    start = max(0, (min(len(a), len(b)) if same is None else same) - 1)
    return f"...{shown(a[start:])}", f"...{shown(b[start:])}"


def number(value: float) -> str:
    """Format a number with its significant digits.

    >>> number(0.5), number(3.14159265e-7), number(12), number(1234567)
    ('0.5', '3.14159e-07', '12', '1,234,567')
    """
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def apart(a: float, b: float) -> tuple[str, str]:
    """Format two numbers with as many digits as it takes to tell them apart.

    >>> apart(0.1, 0.10000001), apart(1.0, 2.0)
    (('0.1', '0.10000001'), ('1', '2'))
    """
    for digits in range(6, 18):
        pair = f"{a:.{digits}g}", f"{b:.{digits}g}"
        if pair[0] != pair[1]:
            break
    return pair


def numbers(values: Sequence[float], limit: int = 4) -> str:
    """Format several numbers, or one if all are equal.

    >>> numbers([1.0, 1.0, 1.0]), numbers([1, 2])
    ('1', '1, 2')
    """
    if len(values) > 1 and len(set(values)) == 1:
        return number(values[0])
    text = ", ".join(number(value) for value in values[:limit])
    return f"{text}, ..." if len(values) > limit else text


def count(number_of: int, what: str, plural: str = "") -> str:
    """Format a count with its noun.

    >>> count(1, "entry", "entries"), count(1200, "value")
    ('1 entry', '1,200 values')
    """
    return f"{number_of:,} {what if number_of == 1 else plural or what + 's'}"


def shape(tensor: Any) -> str:
    """Format the shape of a tensor; ``?`` is a dimension that may change from call to call."""
    sizes = tensor.shape_signature or tensor.shape
    if len(sizes) != len(tensor.shape):
        sizes = tensor.shape
    return "[" + ", ".join("?" if size < 0 else str(size) for size in sizes) + "]"


def plain(value: Any) -> Any:
    """Convert ``value`` for strict JSON: bytes as hexadecimal, NaN and infinities as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
