"""Read untrusted JSON records: a value of an unexpected type counts as absent."""

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
        value: the parsed JSON; anything but an object counts as an empty one.
    """

    def __init__(self, value: Any = None) -> None:
        self._fields: dict[str, Any] = value if isinstance(value, dict) else {}

    def __bool__(self) -> bool:
        return bool(self._fields)

    def raw(self, *keys: str) -> Any:
        """Return the value at a key path, or ``None``."""
        value: Any = self._fields
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def text(self, *keys: str, default: str = "") -> str:
        """Return the text at a key path, or ``default``."""
        value = self.raw(*keys)
        return value if isinstance(value, str) else default

    def number(self, *keys: str) -> float | None:
        """Return the finite number at a key path, or ``None``."""
        return number(self.raw(*keys))

    def record(self, *keys: str) -> Record:
        """Return the object at a key path, or an empty one."""
        return Record(self.raw(*keys))

    def records(self, *keys: str) -> Iterator[tuple[str, Record]]:
        """Yield the objects inside the object at a key path, sorted by name."""
        for name, value in sorted(self.record(*keys)._fields.items()):
            if isinstance(value, dict):
                yield name, Record(value)

    def list(self, *keys: str) -> list[Any]:
        """Return the list at a key path, or an empty one."""
        value = self.raw(*keys)
        return value if isinstance(value, list) else []

    def fields(self) -> dict[str, Any]:
        """Return all fields, sorted by name."""
        return dict(sorted(self._fields.items()))


def number(value: Any) -> float | None:
    """Return ``value`` if it is a finite number and not a bool, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of four hundred digits
        return None


def load(path: Path) -> tuple[Record, str]:
    """Read the object in a JSON file.

    Returns:
        The object and ``""``; or an empty record and the reason, phrased to follow the file's
        name. A missing file "is not there".
    """
    try:
        if path.is_symlink() or not path.is_file():
            return Record(), "is not there"
        return Record(parse_json_object(read_file(path, bounds.RECORD.most))), ""
    except OSError as error:
        return Record(), f"cannot be read: {error.strerror or error}"
    except MalformedError as error:
        return Record(), str(error)
