"""Make untrusted text safe for a terminal, a log or a page."""

from __future__ import annotations

import unicodedata

#: Joiners are needed for Persian, Hindi and family emoji; on their own they are harmless.
_JOINERS = "\u200c\u200d"

#: Unicode categories that control a terminal or reorder text: control,
#: format, surrogate, private use, line and paragraph separators.
_STEERING = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def plain(text: str, *, keep: str = "") -> str:
    r"""Escape everything in ``text`` that a terminal or browser could take for a command.

    Args:
        keep: characters that stay unchanged, such as line ends.

    >>> plain("é" + chr(27) + "[2J" + chr(0x202E) + "txt")
    'é\\x1b[2J\\u202etxt'
    >>> plain("two\nlines", keep="\n")
    'two\nlines'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char in keep or not _steers(char) else char.encode("unicode_escape").decode()
        for char in text
    )


def _steers(char: str) -> bool:
    return unicodedata.category(char) in _STEERING and char not in _JOINERS


def shortened(text: str, limit: int) -> str:
    """Shorten ``text`` to ``limit`` characters, followed by the number of those left out.

    >>> shortened("abcdef", 4)
    'abcd... (2 more characters)'
    """
    left = len(text) - limit
    return text if left <= 0 else f"{text[:limit]}... ({left:,} more characters)"
