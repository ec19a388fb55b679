"""Format numbers, sizes and anchors for the page."""

from __future__ import annotations

import base64
import hashlib


def megabytes(size: int | None) -> str:
    """Format a file's size.

    >>> megabytes(5_353_278), megabytes(2_110)
    ('5.4 MB', '2.1 kB')
    """
    if size is None:
        return "missing"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def fixed(value: float, digits: int) -> str:
    """Format a number with a fixed number of decimals.

    >>> fixed(0.25, 3)
    '0.250'
    """
    return f"{value:.{digits}f}"


def signed(value: float) -> str:
    """Format a difference of AP.

    >>> signed(-0.0212), signed(0.0), signed(0.0034)
    ('−0.021', '0.000', '+0.003')
    """
    text = f"{value:+.3f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def between(interval: tuple[float, float] | None, sign: bool = False) -> str:
    """Format an interval of AP, or of its difference; empty if there is none.

    >>> between((0.2, 0.25)), between((-0.02, 0.0034), sign=True), between(None)
    ('0.200 to 0.250', '−0.020 to +0.003', '')
    """
    if interval is None:
        return ""
    return " to ".join(signed(end) if sign else fixed(end, 3) for end in interval)


def difference(value: float | None) -> str:
    """Format a small number with two or three significant digits.

    >>> difference(0.0181), difference(6.4e-7), difference(0.0)
    ('0.018', '6.4e−7', '0')
    """
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return f"{value:.3f}"


def share(value: float | None) -> str:
    """Format a number up to 1, rounded down.

    >>> share(0.99999), share(1.0), share(0.9412)
    ('0.9999', '1', '0.9412')
    """
    if value is None:
        return "–"
    return "1" if value >= 1 else f"{int(value * 10_000) / 10_000:.4f}"


def count(number: int, what: str) -> str:
    """Format a number and its noun.

    >>> count(1, "file"), count(3, "file")
    ('1 file', '3 files')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def units(value: float) -> str:
    """Format a length in drawing units.

    >>> units(640.0), units(3.14159)
    ('640', '3.1')
    """
    return f"{value:.1f}".removesuffix(".0")


def anchor(*names: str) -> str:
    """Make an element's id from untrusted names.

    >>> anchor("gate", "a b", "parity")
    'gate-a_20b-parity'
    """
    words = [
        "".join(c if c.isalnum() and c.isascii() else f"_{ord(c):x}" for c in n) for n in names
    ]
    return "-".join(words)


def csp_source(code: str) -> str:
    """Return the source expression for this style or script in a Content Security Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
