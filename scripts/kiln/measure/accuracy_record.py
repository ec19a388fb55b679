"""Read and write ``dist/accuracy.json``: the AP of released files and of their source models.

There is one entry for each model and variant; a new measurement replaces an older one. An entry
holds everything its figures depend on: the file's digest, the data set, and the source's figures
on the same images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kiln.measure.measurements import Figures

FILE = "accuracy.json"
FIGURES = Figures(
    FILE, 1, "files", {"model": str, "variant": str, "sha256": str}, "figures",
    "Remove it; the measurements are in the store, so measuring again is quick.",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Figures of one file.

    Attributes:
        file: its name, and ``sha256`` its digest.
        dataset: see :meth:`kiln.measure.report.Report.data_set`.
        source: figures of the model before conversion (:class:`kiln.measure.scoring.Scores` as
            plain data); None where it has none.
        result: figures of the file.
        fit: how images were fitted to its input, if the user said so.
        bootstrap: how the intervals were computed (:func:`kiln.measure.report.settings`).
        source_intervals: of the source's figures, by name: [low, high]; empty for too few images.
        result_intervals: the same of the file's.
        difference: ``ap``, ``interval`` and ``noise`` (:class:`kiln.measure.report.Difference`).
    """

    model: str
    variant: str
    file: str
    sha256: str
    dataset: Mapping[str, Any]
    source: Mapping[str, float] | None
    result: Mapping[str, float]
    fit: str | None = None
    bootstrap: Mapping[str, Any] = field(default_factory=dict)
    source_intervals: Mapping[str, Any] = field(default_factory=dict)
    result_intervals: Mapping[str, Any] = field(default_factory=dict)
    difference: Mapping[str, Any] | None = None


def save(dist: Path, entries: Sequence[Entry]) -> Path:
    """Add entries to ``dist/accuracy.json``; those of the same model and variant are replaced.

    Returns:
        The file that was written.

    Raises:
        UsageError: a file of that name is not kiln's, or ``dist`` is not a folder.
        DiskFullError: no space left; the file is as it was.
    """
    known = {(entry["model"], entry["variant"]): entry for entry in load(dist)}
    known.update({(entry.model, entry.variant): asdict(entry) for entry in entries})
    return FIGURES.write(dist, [entry for _, entry in sorted(known.items())])


def load(dist: Path) -> list[dict[str, Any]]:
    """Read the entries of ``dist/accuracy.json``; none where there is no such file.

    Raises:
        UsageError: the file is damaged, or of another schema.
    """
    return FIGURES.read(dist)
