"""Text that somebody else wrote, made fit for a terminal, a log or a page."""

from __future__ import annotations

import unicodedata

#: Joiners are needed to write Persian, Hindi and family emoji; on their own they do nothing.
_JOINERS = "\u200c\u200d"

#: Unicode categories of what steers a terminal or turns the order of what follows: control,
#: format, surrogate, private use, line and paragraph separators.
_STEERING = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def plain(text: str, *, keep: str = "") -> str:
    r"""``text`` with everything escaped that a terminal or browser could take for a command.

    Args:
        keep: characters that stay as they are, such as line ends.

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
    """At most ``limit`` characters of ``text``, with the number of those left out.

    >>> shortened("abcdef", 4)
    'abcd... (2 more characters)'
    """
    left = len(text) - limit
    return text if left <= 0 else f"{text[:limit]}... ({left:,} more characters)"
