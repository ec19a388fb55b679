"""Names of a model's classes that a data set has under another name, as the user says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from kiln.core.errors import UsageError
from kiln.core.suggest import near
from kiln.measure.coco import folded, some

_FORM = 'Write --alias "NAME IN THE MODEL=NAME IN THE DATA SET".'


def parse(given: Iterable[str]) -> dict[str, str]:
    """Read aliases of the form ``model's name=data set's name``.

    Raises:
        UsageError: one has another form, or a class is named twice.

    >>> parse(["Computer mouse=mouse"])
    {'Computer mouse': 'mouse'}
    """
    aliases: dict[str, str] = {}
    for text in given:
        name, sign, other = (part.strip() for part in text.partition("="))
        if not (name and sign and other):
            raise UsageError(f"--alias {text!r} does not name two classes.", _FORM)
        for side, names, new in (
            ("the model", aliases, name),
            ("the data set", aliases.values(), other),
        ):
            if folded(new) in map(folded, names):
                raise _twice(repr(new), side)
        aliases[name] = other
    return aliases


def check_categories(aliases: Mapping[str, str], names: Collection[str]) -> None:
    """Check that the data set has all the classes that aliases name.

    Raises:
        UsageError: it lacks one; the remedy lists near names.
    """
    _check_known(aliases.values(), names, "the data set")


def check_classes(
    aliases: Mapping[str, str], classes: Mapping[int, tuple[str, ...]], model: str
) -> None:
    """Check that a model has all the classes that aliases name, each once.

    Args:
        classes: class id to its names.

    Raises:
        UsageError: it lacks one, and the remedy lists near names; or two of its names belong to
            one class.
    """
    _check_known(aliases, [name for names in classes.values() for name in names], repr(model))
    given = {folded(name) for name in aliases}
    for names in classes.values():
        forms = {folded(name): name for name in names}
        found = [name for form, name in forms.items() if form in given]
        if len(found) > 1:
            raise _twice(" or ".join(map(repr, found)), "the model")


def _check_known(names: Iterable[str], known: Collection[str], side: str) -> None:
    exist = {folded(name) for name in known}
    for name in names:
        if folded(name) not in exist:
            found = near(name, known)
            hint = f"Did you mean {' or '.join(map(repr, found))}?" if found else ""
            raise UsageError(
                f"--alias: {side} has no class {name!r}.",
                f"{hint or f'Its classes are {some(known, 12)}.'} {_FORM}",
            )


def _twice(name: str, side: str) -> UsageError:
    return UsageError(
        f"--alias names the class {name} of {side} twice.",
        "A class of one stands for exactly one class of the other; leave one out.",
    )
