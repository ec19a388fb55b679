"""Small pieces that several sections are made of: marks, digests, numbers, choices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kiln.page.contents import STATUSES, Model, Variant
from kiln.page.markup import Content, Html, el, join

#: What a status is called where there is room for words.
STATUS_WORDS = {
    "passed": "passed",
    "failed": "failed",
    "allowed": "failed, allowed by the recipe",
    "skipped": "skipped",
}

#: Shapes on a field of 16 units: told apart without colour.
_ICONS = {
    "passed": "M3.5 8.5l3 3 6-7",
    "failed": "M4 4l8 8M12 4l-8 8",
    "allowed": "M8 3v6M8 12v.6",
    "skipped": "M4 8h8",
    "unknown": "M5.6 6a2.4 2.4 0 1 1 3.4 2.2c-.7.4-1 .8-1 1.6M8 12.4v.2",
}


def icon_definitions() -> Html:
    """The shapes, to stand in the page before they are shown."""
    return join(
        el("symbol", el("path", d=path, class_="stroke"), id=f"icon-{name}", viewBox="0 0 16 16")
        for name, path in _ICONS.items()
    )


def icon(status: str) -> Html:
    """The shape of a status; its name is said beside it."""
    known = status if status in STATUSES else "unknown"
    return el("svg", el("use", href=f"#icon-{known}"), class_="icon", aria_hidden="true")


def badge(status: str, *words: Content) -> Html:
    """A status with its shape and a word (by default its own)."""
    known = status if status in STATUSES else "unknown"
    said = words or (STATUS_WORDS.get(status, status),)
    return el("span", icon(status), el("span", *said), class_=f"badge {known}")


def verdict(variant: Variant) -> tuple[str, str]:
    """A file's status over all its gates, and the word for it."""
    if variant.passed is None:
        return "skipped", "not checked"
    if not variant.passed:
        return "failed", "failed"
    if any(gate.status == "allowed" for gate in variant.gates):
        return "allowed", "passed with allowed faults"
    return "passed", "passed"


def digest(value: str) -> Html:
    """A digest in full; selecting it takes one click."""
    return el("code", value, class_="digest")


def anchor(*names: str) -> str:
    """An id for the page out of names that may hold anything."""
    words = [
        "".join(c if c.isalnum() and c.isascii() else f"_{ord(c):x}" for c in n) for n in names
    ]
    return "-".join(words)


def choices(name: str, legend: str, items: Sequence[tuple[Content, Html]], first: int = 0) -> Html:
    """Panels of which one is shown, chosen by radio buttons: works without a script.

    Args:
        name: of the group, unique in the page.
        legend: what is being chosen.
        items: each panel's label and content; a single one is shown without any choice.
        first: which one is shown at first.
    """
    if len(items) == 1:
        return el("div", items[0][1], class_="only")
    buttons = []
    for number, (label, _) in enumerate(items):
        identity = f"{name}-{number}"
        buttons += [
            el("input", type="radio", name=name, id=identity, checked=number == first),
            el("label", label, for_=identity),
        ]
    panels = el("div", [el("div", panel) for _, panel in items], class_="panels")
    return el("fieldset", el("legend", legend), buttons, panels, class_="choices")


def choice_rules(most: int) -> str:
    """The style rules that make :func:`choices` work, for up to ``most`` panels."""
    shown = ",\n".join(
        f".choices > input:nth-of-type({number}):checked ~ .panels > :nth-child({number})"
        for number in range(1, most + 1)
    )
    return f"{shown} {{ display: block; }}"


def facts(rows: Iterable[tuple[Content, Content]], class_: str = "facts") -> Html:
    """A list of names and values; rows without a value are left out."""
    return el(
        "dl",
        [
            el("div", el("dt", name), el("dd", value))
            for name, value in rows
            if value not in (None, "")
        ],
        class_=class_,
    )


def code(source: str, label: str) -> Html:
    """A block of code; a script, if there is one, adds a button to copy it."""
    # A region, so that the name of what scrolls is said.
    block = el("pre", el("code", source), tabindex="0", role="region", aria_label=label)
    return el("div", block, class_="code")


def megabytes(size: int | None) -> str:
    """A file's size.

    >>> megabytes(5_353_278), megabytes(2_110)
    ('5.4 MB', '2.1 kB')
    """
    if size is None:
        return "missing"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def difference(value: float | None) -> str:
    """A small number, as exact as it matters.

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
    """A number up to 1, never rounded up to look better than it is.

    >>> share(0.99999), share(1.0), share(0.9412)
    ('0.9999', '1', '0.9412')
    """
    if value is None:
        return "–"
    return "1" if value >= 1 else f"{int(value * 10_000) / 10_000:.4f}"


def count(number: int, what: str) -> str:
    """A number and its noun.

    >>> count(1, "file"), count(3, "file")
    ('1 file', '3 files')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def model_id(model: Model) -> str:
    """The id of a model's section."""
    return anchor("model", model.name)
