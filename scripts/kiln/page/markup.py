"""HTML in which nothing from outside can become markup: text is escaped unless made here."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable

_VOID = frozenset({"br", "hr", "image", "input", "line", "meta", "path", "rect", "use"})
_SLOT = re.compile(r"\{\{([a-z_]+)\}\}")

#: Characters that reorder the text around them; a name must not be able to do that to a page.
_REORDERING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Content = str | int | float | None | Iterable["Content"]


def text(value: str | int | float) -> Html:
    """``value`` as text: escaped, without control characters.

    >>> text('<b> & "c"')
    '&lt;b&gt; &amp; &quot;c&quot;'
    """
    return Html(html.escape(plain(str(value)), quote=True))


def plain(value: str) -> str:
    """``value`` with characters that no reader could see, or that reorder others, replaced."""
    return "".join("\ufffd" if _hidden(char) else char for char in value)


def join(content: Content, separator: str = "") -> Html:
    """One piece of markup out of many: text is escaped, :class:`Html` is kept, ``None`` left out.

    >>> join(["a<", el("b", "c"), None])
    'a&lt;<b>c</b>'
    """
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, (str, int, float)):
        return text(content)
    return Html(separator.join(join(item) for item in content))


def el(name: str, /, *content: Content, **attributes: str | int | float | bool | None) -> Html:
    """An element.

    Args:
        name: of the element.
        content: what is inside; text is escaped.
        attributes: ``None`` and ``False`` are left out, ``True`` is an attribute without a value;
            a trailing underscore is dropped and others become hyphens (``class_``,
            ``aria_label``).

    >>> el("a", "x & y", href="#1", class_="key", hidden=False)
    '<a href="#1" class="key">x &amp; y</a>'
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        words.append(label if value is True else f'{label}="{text(value)}"')
    start = f"<{' '.join(words)}>"
    if name in _VOID:
        return Html(start if name in {"br", "hr", "input", "meta"} else f"{start[:-1]}/>")
    return Html(f"{start}{join(content)}</{name}>")


def fill(template: str, **values: str) -> Html:
    """``template`` with every ``{{name}}`` replaced, in one pass: values are not looked into.

    Raises:
        KeyError: the template has a slot that no value is given for.
    """
    return Html(_SLOT.sub(lambda slot: values[slot[1]], template))


def _hidden(char: str) -> bool:
    return char in _REORDERING or (
        unicodedata.category(char) in {"Cc", "Cs"} and char not in "\n\t"
    )
