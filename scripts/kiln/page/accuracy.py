"""Read the figures in ``accuracy.json`` that were measured on the present files."""

from __future__ import annotations

from dataclasses import dataclass

from kiln.page.records import Record


@dataclass(frozen=True)
class Scores:
    """COCO's figures, each from 0 to 1; only AP is always present."""

    ap: float
    ap50: float | None
    ap75: float | None
    ar100: float | None


@dataclass(frozen=True)
class DataSet:
    """The data set of a measurement; ``annotations`` and ``pictures`` are digests, or empty."""

    name: str
    annotations: str
    pictures: str
    images: int | None
    all_images: int | None
    skipped: int
    categories: int | None
    all_categories: int | None

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

    def words(self) -> str:
        """Describe the data set by name and number of images.

        >>> DataSet("scenes", "", "", 10, 40, 0, None, None).words()
        'scenes, 10 images (the first by file name of 40)'
        """
        return ", ".join(filter(None, [self.name or "a data set without a name", self.count()]))


@dataclass(frozen=True)
class Accuracy:
    """A file's figures, and those of its source on the same images."""

    result: Scores
    source: Scores | None
    data: DataSet

    def change(self) -> float | None:
        """Return AP after conversion minus AP before it."""
        return None if self.source is None else self.result.ap - self.source.ap


def find(record: Record, model: str, variant: str, digest: str) -> Accuracy | None:
    """Find a file's figures in ``accuracy.json``; None if they are of other bytes."""
    for item in record.list("files"):
        entry = Record(item)
        same = (entry.text("model"), entry.text("variant"), entry.text("sha256"))
        result = _scores(entry.record("result"))
        if digest and same == (model, variant, digest) and result is not None:
            return Accuracy(result, _scores(entry.record("source")), _data(entry.record("dataset")))
    return None


def _scores(record: Record) -> Scores | None:
    ap, *others = (_share(record.number(name)) for name in ("ap", "ap50", "ap75", "ar100"))
    return None if ap is None else Scores(ap, *others)


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
    )


def _whole(record: Record, name: str) -> int | None:
    value = record.number(name)
    return None if value is None or value < 0 else int(value)
