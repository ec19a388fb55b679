"""Read and write a release's files of figures: ``{"schema": N, NAME: [entry, ...]}`` as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.core.errors import UsageError
from kiln.core.files import write_atomic
from kiln.core.untrusted import MalformedError, parse_json_object, read_file
from kiln.project import bounds


@dataclass(frozen=True)
class Figures:
    """One kind of such files.

    Args:
        file: its name in ``dist``.
        schema: the version that is written and read.
        name: the name of its list.
        fields: the fields that every entry has, with their types.
        what: what it lists, for messages.
        remedy: what to do about a damaged one.
    """

    file: str
    schema: int
    name: str
    fields: Mapping[str, type]
    what: str
    remedy: str

    def write(self, dist: Path, entries: Sequence[Mapping[str, Any]]) -> Path:
        """Write all entries; return the path of the file.

        Raises:
            UsageError: ``dist`` is not a folder, or cannot be written to.
            DiskFullError: no space left; the file is as it was.
        """
        path = dist / self.file
        text = json.dumps({"schema": self.schema, self.name: entries}, indent=1, ensure_ascii=False)
        try:
            write_atomic(path, (text + "\n").encode())
        except OSError as error:
            raise UsageError(
                f"{path} cannot be written: {error.strerror or error}.",
                "Name the dist folder that `kiln build` wrote.",
            ) from None
        return path

    def read(self, dist: Path) -> list[dict[str, Any]]:
        """Read the entries; none where there is no such file.

        Raises:
            UsageError: the file is damaged, or of another schema.
        """
        path = dist / self.file
        try:
            found = parse_json_object(read_file(path, bounds.MEASUREMENTS.most))
            if found["schema"] != self.schema:
                raise ValueError(f"its schema is {found['schema']!r}, not {self.schema}")
            entries: list[dict[str, Any]] = found[self.name]
            for entry in entries:
                for name, kind in self.fields.items():
                    if not isinstance(entry[name], kind):
                        raise ValueError(f"an entry's {name} is {entry[name]!r}")
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            if isinstance(error, MalformedError):
                what = f"it {error}"
            raise UsageError(f"{path} is not a list of {self.what}: {what}.", self.remedy) from None
        return entries
