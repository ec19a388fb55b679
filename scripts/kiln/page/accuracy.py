"""Read the figures in ``accuracy.json`` that were measured on the present files."""

from __future__ import annotations

from dataclasses import dataclass

from kiln.page.records import Record, number

#: Names of COCO's figures, in the order in which they are shown.
_FIGURES = ("ap", "ap50", "ap75", "ar100")

#: The middle 90 % of a figure over resamples of the images.
Interval = tuple[float, float]


@dataclass(frozen=True)
class Scores:
    """COCO's figures, each from 0 to 1; only AP is always present.

    Attributes:
        intervals: of the four, in this order; None where it is not known.
    """

    ap: float
    ap50: float | None
    ap75: float | None
    ar100: float | None
    intervals: tuple[Interval | None, ...]


@dataclass(frozen=True)
class DataSet:
    """The data set of a measurement; ``annotations`` and ``pictures`` are digests, or empty.

    Attributes:
        aliases: pairs of a class's name in the model and in the data set, where the user said so.
    """

    name: str
    annotations: str
    pictures: str
    images: int | None
    all_images: int | None
    skipped: int
    categories: int | None
    all_categories: int | None
    aliases: tuple[tuple[str, str], ...] = ()

    def count(self) -> str:
        """Describe the number of images; empty if it is unknown."""
        if self.images is None:
            return ""
        words = f"{self.images:,} image{'' if self.images == 1 else 's'}"
        if self.all_images is not None and self.images + self.skipped < self.all_images:
            words += f" (the first by file name of {self.all_images:,})"
        if self.skipped:
            words += f", {self.skipped:,} more could not be used"
        return words

    def same_classes(self) -> str:
        """List the aliases; empty if there are none."""
        return ", ".join(f"{name} = {other}" for name, other in self.aliases)

    def words(self) -> str:
        """Describe the data set by name and number of images.

        >>> DataSet("scenes", "", "", 10, 40, 0, None, None).words()
        'scenes, 10 images (the first by file name of 40)'
        """
        return ", ".join(filter(None, [self.name or "a data set without a name", self.count()]))


@dataclass(frozen=True)
class Accuracy:
    """A file's figures, and those of its source on the same images.

    Attributes:
        change_interval: of the change of AP; None where it is not known.
        fit: how images were fitted to the input, if not as the file says.
    """

    result: Scores
    source: Scores | None
    data: DataSet
    change_interval: Interval | None = None
    fit: str = ""

    def noise(self) -> bool:
        """Whether it is known that other images might as well show no change of AP."""
        return self.change_interval is not None and (
            self.change_interval[0] <= 0 <= self.change_interval[1]
        )

    def change(self) -> float | None:
        """Return AP after conversion minus AP before it."""
        return None if self.source is None else self.result.ap - self.source.ap


def find(record: Record, model: str, variant: str, digest: str) -> Accuracy | None:
    """Find a file's figures in ``accuracy.json``; None if they are of other bytes."""
    for item in record.list("files"):
        entry = Record(item)
        same = tuple(entry.text(name) for name in ("model", "variant", "sha256"))
        result = _scores(entry.record("result"), entry.record("result_intervals"))
        if digest and same == (model, variant, digest) and result is not None:
            source = _scores(entry.record("source"), entry.record("source_intervals"))
            change = None if source is None else _interval(entry.raw("difference", "interval"), -1)
            data = _data(entry.record("dataset"))
            return Accuracy(result, source, data, change, entry.text("fit"))
    return None


def _scores(record: Record, intervals: Record) -> Scores | None:
    ap, ap50, ap75, ar100 = (_share(record.number(name)) for name in _FIGURES)
    if ap is None:
        return None
    known = tuple(_interval(intervals.raw(name), 0) for name in _FIGURES)
    return Scores(ap, ap50, ap75, ar100, known)


def _interval(value: object, least: float) -> Interval | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = map(number, value)
    if low is None or high is None or not least <= low <= high <= 1:
        return None
    return low, high


def _share(value: float | None) -> float | None:
    # pycocotools gives -1 where there is nothing to measure.
    return value if value is not None and 0 <= value <= 1 else None


def _data(record: Record) -> DataSet:
    return DataSet(
        name=record.text("name"),
        annotations=record.text("annotations_sha256"),
        pictures=record.text("images_sha256"),
        images=_whole(record, "images"),
        all_images=_whole(record, "all_images"),
        skipped=_whole(record, "skipped") or 0,
        categories=_whole(record, "categories"),
        all_categories=_whole(record, "all_categories"),
        aliases=tuple(
            (name, other)
            for name, other in record.record("aliases").fields().items()
            if isinstance(other, str)
        ),
    )


def _whole(record: Record, name: str) -> int | None:
    value = record.number(name)
    return None if value is None or value < 0 else int(value)
