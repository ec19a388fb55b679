"""The result of a measurement: figures, how sure they are, and what to say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

from kiln.core.errors import CheckFailedError
from kiln.measure import accuracy_record, bootstrap
from kiln.measure.bootstrap import Interval
from kiln.measure.scoring import Scores
from kiln.signing.statement_names import artefact_file

#: The name of the model before conversion in results.
SOURCE = "source"

#: Allowed difference of expected and measured AP where the recipe states none.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Difference:
    """AP of a subject minus that of another, and the interval of this difference."""

    ap: float
    interval: Interval | None = None

    @property
    def noise(self) -> bool | None:
        """Whether other images might as well show none, or the opposite; None if unknown."""
        return None if self.interval is None else self.interval.holds(0)

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        interval = None if self.interval is None else list(astuple(self.interval))
        return {"ap": self.ap, "interval": interval, "noise": self.noise}


@dataclass(frozen=True)
class Measured:
    """The figures of one subject.

    Attributes:
        expected: the AP that the recipe states, if it does.
        artefact: the SHA-256 of the file; None for the source.
        intervals: by name of a figure of :class:`kiln.measure.scoring.Scores`; empty where there
            are too few images for any.
        difference: to the source; None for itself, and without one.
        to_float32: to the float32 file, for other files where that was measured, too: what the
            conversion to fewer bits costs by itself.
    """

    what: str
    scores: Scores
    expected: float | None = None
    artefact: str | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    difference: Difference | None = None
    to_float32: Difference | None = None

    def intervals_as_json(self) -> dict[str, Any]:
        """Return the intervals as plain data: [low, high] by name."""
        return {name: list(astuple(interval)) for name, interval in self.intervals.items()}


@dataclass(frozen=True)
class Report:
    """The result of a measurement, the source first.

    Attributes:
        model: its name.
        name: the data set's.
        annotations: SHA-256 of the annotation file.
        pictures: one digest for the images measured: their names and the digests of their files.
        images: how many were measured.
        all_images: how many the data set has.
        skipped: how many of the chosen ones were missing or damaged.
        categories: how many of the data set's the model knows; the figures are of these.
        all_categories: how many the data set has.
        aliases: a class's name in the model to its name in the data set, where the user said so.
        fit: how the user had images fitted to the artefacts' input; None: as each file says.
        tolerance: allowed deviation from ``expected``.
    """

    model: str
    name: str
    annotations: str
    pictures: str
    images: int
    all_images: int
    skipped: int
    categories: int
    all_categories: int
    measured: tuple[Measured, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    fit: str | None = None
    tolerance: float = TOLERANCE

    def as_json(self) -> dict[str, Any]:
        """Return plain data, as ``--save`` writes it."""
        return {
            "schema": 1,
            "model": self.model,
            "dataset": self.data_set(),
            "fit": self.fit,
            "artefacts": {m.what: m.artefact for m in self.measured if m.artefact},
            "results": {m.what: asdict(m.scores) for m in self.measured},
            "bootstrap": settings(),
            "intervals": {m.what: m.intervals_as_json() for m in self.measured if m.intervals},
            "differences": {
                m.what: m.difference.as_json() for m in self.measured if m.difference is not None
            },
            "to_float32": {
                m.what: m.to_float32.as_json() for m in self.measured if m.to_float32 is not None
            },
        }

    def data_set(self) -> dict[str, Any]:
        """Describe the data set as plain data."""
        return {
            "name": self.name,
            "annotations_sha256": self.annotations,
            "images_sha256": self.pictures,
            "images": self.images,
            "all_images": self.all_images,
            "skipped": self.skipped,
            "categories": self.categories,
            "all_categories": self.all_categories,
            "aliases": dict(sorted(self.aliases.items())),
        }

    def entries(self) -> list[accuracy_record.Entry]:
        """Return the entries of the measured artefacts for ``dist/accuracy.json``."""
        source = next((m for m in self.measured if m.what == SOURCE), None)
        return [
            accuracy_record.Entry(
                model=self.model,
                variant=item.what,
                file=artefact_file(self.model, item.what),
                sha256=item.artefact,
                dataset=self.data_set(),
                source=None if source is None else asdict(source.scores),
                result=asdict(item.scores),
                fit=self.fit,
                bootstrap=settings(),
                source_intervals={} if source is None else source.intervals_as_json(),
                result_intervals=item.intervals_as_json(),
                difference=None if item.difference is None else item.difference.as_json(),
            )
            for item in self.measured
            if item.artefact
        ]

    def remarks(self) -> list[str]:
        """Say in plain words what was measured, and what differences mean; a line each."""
        plural = "" if self.images == 1 else "s"
        lines = [
            f"Measured on {self.images:,} image{plural} and {self.categories} of the data set's "
            f"{self.all_categories} classes."
        ]
        if not any(item.intervals for item in self.measured):
            least = bootstrap.LEAST_IMAGES
            return [f"{lines[0]} That is too few to say how sure AP is; {least} is the least."]
        lines[0] += (
            " Intervals: where AP would lie, in nine of ten cases, with as many other images of "
            "the same kind."
        )
        groups: dict[str, list[str]] = {}
        for item in self.measured:
            if item.difference is not None:
                groups.setdefault(_meaning(item.difference), []).append(item.what)
        lines += [f"{', '.join(names)}: {meaning}" for meaning, names in groups.items()]
        for item in self.measured:
            if item.to_float32 is not None and item.to_float32.interval is not None:
                low, high = astuple(item.to_float32.interval)
                lines.append(
                    f"{item.what} to float32: {item.to_float32.ap:+.4f} ({low:+.3f} to {high:+.3f})"
                )
        return lines

    def judge(self) -> None:
        """Check every AP against the expected one, where there is one.

        Raises:
            CheckFailedError: one is further from it than the tolerance.
        """
        wrong = [
            f"{m.what}: expected {m.expected:.3f}, measured {m.scores.ap:.3f}"
            for m in self.measured
            if m.expected is not None and abs(m.scores.ap - m.expected) > self.tolerance
        ]
        if not wrong:
            return
        causes = []
        if self.images < self.all_images:
            causes.append(f"only {self.images} of the data set's {self.all_images} images measured")
        causes += ["another data set", "another image size (export.image_size)"]
        raise CheckFailedError(
            f"{self.model}: AP is not as its recipe expects (tolerance {self.tolerance:g}): "
            f"{'; '.join(wrong)}.",
            f"Likely causes: {', '.join(causes)}. If the new figures are right, put them into "
            "check.ap of the recipe.",
        )


def settings() -> dict[str, Any]:
    """Describe how intervals are computed, as plain data."""
    return {
        "level": bootstrap.LEVEL,
        "resamples": bootstrap.RESAMPLES,
        "seed": bootstrap.SEED,
    }


def _meaning(difference: Difference) -> str:
    if difference.interval == Interval(0.0, 0.0):
        return "no difference to the source, whatever the images."
    if difference.noise:
        return "the difference to the source is noise: its interval holds 0."
    return f"{'worse' if difference.ap < 0 else 'better'} than the source, by more than noise."
