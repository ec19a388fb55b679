"""Names that people type, held against the names there are."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from kiln.core.errors import UsageError


def refuse_unknown(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Make sure that every name of ``given`` is one of ``known``.

    Args:
        what: the kind of thing, for the message.

    Raises:
        UsageError: one is not; the message says which there are, and which may have been meant.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), 1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise UsageError(
                f"There is no {what} {name!r}.", f"{hint}Known: {', '.join(known) or 'none'}."
            )
