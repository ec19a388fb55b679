"""Say how far a figure would move with other images: a paired bootstrap over the images.

A data set is a sample. Another one of the same size would have given another AP, and the bootstrap
estimates how different: it draws as many images as there are, with replacement, many times, and
computes the figure of each such resample. The middle 90 % of these figures are the interval. For
the difference of two subjects both are computed on the same resamples (*paired*): what is hard in
an image is hard for both, so a difference is known better than either figure.

Detections are matched with objects once (:mod:`kiln.measure.scoring`); matching does not look at
other images. A resample only changes how often each detection counts, so what is computed again is
the precision-recall curve, for many resamples at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from kiln.measure.scoring import Evaluation, Ranked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Counts = NDArray[np.uint16]

#: Share of the resamples whose figures lie inside an interval.
LEVEL = 0.9

#: More resamples change the ends of an interval by less than a tenth of its width.
RESAMPLES = 1000

#: Any number; it must stay the same, so that a repeated measurement gives the same interval.
SEED = 20_170_901

#: Fewer images than this say too little about the images that they stand for.
LEAST_IMAGES = 10

#: Resamples at a time: bounds the memory, and keeps most arrays in the processor's cache.
_BLOCK = 125

#: COCO samples precision at recalls 0, 0.01, ... 1.
_RECALLS = 101

#: Position of IoU 0.5 and 0.75 among COCO's thresholds 0.5, 0.55, ... 0.95.
_AT_50, _AT_75 = 0, 5


@dataclass(frozen=True)
class Interval:
    """The middle :data:`LEVEL` of a figure over all resamples."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies inside; the ends do."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Figures:
    """A subject's figures in each resample; NaN where a resample has no object.

    They are those of :class:`kiln.measure.scoring.Scores`.
    """

    ap: Floats
    ap50: Floats
    ap75: Floats
    ar100: Floats


def draw(images: int, resamples: int = RESAMPLES, seed: int = SEED) -> Counts:
    """Draw resamples; return how often each contains each image: [images, resamples]."""
    import numpy as np

    # The legacy generator: NumPy promises that its numbers stay the same in later versions.
    generator = np.random.RandomState(seed)
    drawn = np.empty((images, resamples), np.uint16)
    for number in range(resamples):
        chosen = generator.randint(0, images, images)
        drawn[:, number] = np.bincount(chosen, minlength=images)
    return drawn


def resampled(evaluation: Evaluation, drawn: Counts) -> Figures:
    """Compute the figures of each resample, as COCOeval does.

    Args:
        drawn: what :func:`draw` returned for the evaluation's images.
    """
    import numpy as np

    blocks = [_block(evaluation, block) for block in _blocks(drawn)]
    return Figures(*np.concatenate(blocks, axis=1))


def interval(values: Floats) -> Interval:
    """Return the interval of a figure, or of a difference of two.

    Args:
        values: one for each resample; NaN are left out.
    """
    import numpy as np

    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values[~np.isnan(values)], [tail, 1 - tail])
    return Interval(float(low), float(high))


def intervals(figures: Figures) -> dict[str, Interval]:
    """Return the interval of each figure, by its name."""
    return {item.name: interval(getattr(figures, item.name)) for item in fields(figures)}


def _blocks(drawn: Counts) -> Iterator[Counts]:
    import numpy as np

    for start in range(0, drawn.shape[1], _BLOCK):
        yield np.ascontiguousarray(drawn[:, start : start + _BLOCK])


def _block(evaluation: Evaluation, drawn: Counts) -> Floats:
    """Return AP, AP50, AP75 and AR100 of some resamples: [4, resamples].

    Each is a mean over the classes that have an object in the resample.
    """
    import numpy as np

    sums = np.zeros((4, drawn.shape[1]))
    classes = np.zeros(drawn.shape[1])
    for ranked in evaluation.ranked:
        there = np.flatnonzero(ranked.objects)
        objects = ranked.objects[there] @ drawn[there].astype(np.int64)
        at_least_one = np.maximum(objects, 1).astype(np.int32)
        precision, recall = _curves(ranked, drawn, at_least_one)
        known = objects > 0
        figures = [
            precision.mean(axis=0),
            precision[_AT_50],
            precision[_AT_75],
            recall.mean(axis=0),
        ]
        sums += np.where(known, figures, 0.0)
        classes += known
    return sums / np.where(classes > 0, classes, np.nan)


def _curves(ranked: Ranked, drawn: Counts, objects: NDArray[np.int32]) -> tuple[Floats, Floats]:
    """Return mean precision and highest recall of a class: [thresholds, resamples] each.

    Only detections that match an object raise the recall, so only their precisions can be sampled;
    all others just lower the precision of those behind them. A detection that counts several times
    is like several of one rank: the precision at the last of them is the one that is sampled,
    because precision only grows along right ones.
    """
    import numpy as np

    places = np.flatnonzero(ranked.right.any(axis=0))
    shape = len(ranked.right), drawn.shape[1]
    precision, recall = np.zeros(shape), np.zeros(shape)
    if not len(places):
        return precision, recall
    counted = drawn[ranked.pictures[: places[-1] + 1]]
    starts = np.concatenate(([0], places[:-1] + 1))
    # How many detections there are up to each place, right or wrong.
    before = np.add.reduceat(counted, starts, axis=0, dtype=np.int32).cumsum(axis=0, dtype=np.int32)
    for number, (right, ignored) in enumerate(zip(ranked.right, ranked.ignored, strict=True)):
        chosen = np.flatnonzero(right[places])
        if not len(chosen):
            continue
        found = counted[places[chosen]].cumsum(axis=0, dtype=np.int32)
        all_found = before[chosen]
        left_out = np.flatnonzero(ignored[: places[-1] + 1])
        if len(left_out):
            less = np.zeros((len(left_out) + 1, drawn.shape[1]), np.int32)
            counted[left_out].cumsum(axis=0, out=less[1:])
            all_found = all_found - less[np.searchsorted(left_out, places[chosen])]
        precision[number] = _sampled(found, all_found, objects)
        recall[number] = found[-1] / objects
    return precision, recall


def _sampled(
    found: NDArray[np.int32], all_found: NDArray[np.int32], objects: NDArray[np.int32]
) -> Floats:
    """Return the mean of the highest precision at or above each of COCO's recalls.

    Args:
        found: right detections up to each right one: [right ones, resamples].
        all_found: the same of all that count.
        objects: how many could be found, in each resample.
    """
    import numpy as np

    at_least = found / np.maximum(all_found, 1)
    at_least = np.maximum.accumulate(at_least[::-1], axis=0)[::-1]
    # How many of the recalls each place has reached, exactly: found / objects >= n / 100.
    percent = 100 * found
    reached = percent // objects
    # COCO's own numbers n / 100 are rounded; some lie above the fraction, which then misses them.
    reached -= (percent == reached * objects) & _above()[reached]
    steps = np.diff(reached, axis=0, prepend=-1)
    mean: Floats = (at_least * steps).sum(axis=0) / _RECALLS
    return mean


def _above() -> NDArray[np.bool_]:
    """Return for n = 0, 1, ... 100 whether COCO's recall n / 100 is above that fraction."""
    import numpy as np

    recalls = np.linspace(0, 1, _RECALLS)
    return recalls > np.arange(_RECALLS) / (_RECALLS - 1)
