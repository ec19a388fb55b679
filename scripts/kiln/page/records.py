"""Read JSON records without trust: a value of another kind counts as absent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kiln.core.untrusted import MalformedError, parse_json_object, read_file
from kiln.project import bounds


class Record:
    """A JSON object, read by key paths.

    Args:
        value: what was parsed; anything but an object counts as an empty one.
    """

    def __init__(self, value: Any = None) -> None:
        self._fields: dict[str, Any] = value if isinstance(value, dict) else {}

    def __bool__(self) -> bool:
        return bool(self._fields)

    def raw(self, *keys: str) -> Any:
        """The value at a key path, or ``None``."""
        value: Any = self._fields
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def text(self, *keys: str, default: str = "") -> str:
        """The text at a key path."""
        value = self.raw(*keys)
        return value if isinstance(value, str) else default

    def number(self, *keys: str) -> float | None:
        """The finite number at a key path."""
        return number(self.raw(*keys))

    def record(self, *keys: str) -> Record:
        """The object at a key path; an empty one where there is none."""
        return Record(self.raw(*keys))

    def records(self, *keys: str) -> Iterator[tuple[str, Record]]:
        """The objects inside the object at a key path, by name."""
        for name, value in sorted(self.record(*keys)._fields.items()):
            if isinstance(value, dict):
                yield name, Record(value)

    def list(self, *keys: str) -> list[Any]:
        """The list at a key path; an empty one where there is none."""
        value = self.raw(*keys)
        return value if isinstance(value, list) else []

    def fields(self) -> dict[str, Any]:
        """All of it, sorted by name."""
        return dict(sorted(self._fields.items()))


def number(value: Any) -> float | None:
    """``value`` where it is a finite number (truth values are none)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of four hundred digits
        return None


def load(path: Path) -> tuple[Record, str]:
    """The object in a JSON file.

    Returns:
        It and ``""``; or an empty record and the reason, to follow the file's name. A file that
        does not exist "is not there".
    """
    try:
        if path.is_symlink() or not path.is_file():
            return Record(), "is not there"
        return Record(parse_json_object(read_file(path, bounds.RECORD.most))), ""
    except OSError as error:
        return Record(), f"cannot be read: {error.strerror or error}"
    except MalformedError as error:
        return Record(), str(error)
