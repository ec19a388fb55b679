"""``dist/accuracy.json``: the AP of released files, and of the models that they were made of.

One entry for each model and variant; a new measurement takes the place of an older one. An entry
holds everything that its figures mean: the file's digest, the data set, and the source's figures
on the same images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kiln.errors import UsageError
from kiln.files import write_atomic

FILE = "accuracy.json"
SCHEMA = 1


@dataclass(frozen=True)
class Entry:
    """Figures of one file.

    Attributes:
        file: its name, and ``sha256`` its digest.
        dataset: see :meth:`kiln.accuracy.Report.data_set`.
        source: those of the model before conversion (:class:`kiln.scoring.Scores` as plain
            data); None where it has none.
        result: those of the file.
    """

    model: str
    variant: str
    file: str
    sha256: str
    dataset: Mapping[str, Any]
    source: Mapping[str, float] | None
    result: Mapping[str, float]


def save(dist: Path, entries: Sequence[Entry]) -> Path:
    """Add entries to ``dist/accuracy.json``; those of the same model and variant are replaced.

    Returns:
        The file that was written.

    Raises:
        UsageError: there is a file of that name that is none of ours, or ``dist`` is no folder.
        DiskFullError: no space left; the file is as it was.
    """
    path = dist / FILE
    known = {(entry["model"], entry["variant"]): entry for entry in load(dist)}
    known.update({(entry.model, entry.variant): asdict(entry) for entry in entries})
    ordered = [entry for _, entry in sorted(known.items())]
    text = json.dumps({"schema": SCHEMA, "files": ordered}, indent=1)
    try:
        write_atomic(path, (text + "\n").encode())
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Name the dist folder that `kiln build` wrote.",
        ) from None
    return path


def load(dist: Path) -> list[dict[str, Any]]:
    """The entries of ``dist/accuracy.json``, none where there is no such file.

    Raises:
        UsageError: the file is damaged, or of another schema.
    """
    path = dist / FILE
    try:
        found = json.loads(path.read_bytes())
        if found["schema"] != SCHEMA:
            raise ValueError(f"its schema is {found['schema']!r}, not {SCHEMA}")
        entries: list[dict[str, Any]] = found["files"]
        for entry in entries:
            for name in ("model", "variant", "sha256"):
                if not isinstance(entry[name], str):
                    raise ValueError(f"an entry's {name} is {entry[name]!r}")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            f"{path} is no list of figures: {what}.",
            "Remove it; what was measured is in the store, so measuring again is quick.",
        ) from None
    return entries
