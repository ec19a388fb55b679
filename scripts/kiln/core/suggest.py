"""Suggest the closest known name for a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from kiln.core.errors import UsageError


def refuse_unknown(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuse names of ``given`` that are not in ``known``, with a suggestion.

    Args:
        what: the kind of thing, for the message.

    Raises:
        UsageError: a name is unknown; the remedy lists the known ones and the closest match.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), 1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise UsageError(
                f"There is no {what} {name!r}.", f"{hint}Known: {', '.join(known) or 'none'}."
            )


def near(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the known names closest to ``name``, the closest first; case does not matter.

    >>> near("computer mose", ["Mouse", "Computer mouse", "Tree"])
    ['Computer mouse']
    """
    by_form = {item.casefold(): item for item in known}
    return [by_form[form] for form in difflib.get_close_matches(name.casefold(), by_form, most)]
