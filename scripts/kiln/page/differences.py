"""Find and describe where a variant's detections differ from the source model's.

An object counts when its score reaches the threshold on either side. The other side's score may be
lower, so an object just below the threshold does not count as missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kiln.page.contents import Detection
from kiln.project.stagecode import stage_module

#: Boxes that overlap less (IoU), and scores that differ more, are shown as differences.
LEAST_IOU, MOST_SCORE = 0.9, 0.1

SAME, CHANGED, EXTRA, MISSED = "same", "changed", "extra", "missed"


@dataclass(frozen=True)
class Drawn:
    """A detection to draw; for a missed object, the source's detection."""

    detection: Detection
    kind: str


@dataclass(frozen=True)
class Comparison:
    """Comparison of a variant with its source on one image.

    Attributes:
        drawn: what to draw for the variant, best score first.
        objects: number of objects that either side found.
        differences: a phrase for each object that differs.
    """

    drawn: tuple[Drawn, ...]
    objects: int
    differences: tuple[str, ...]

    def summary(self) -> str:
        """Describe the comparison in one sentence.

        >>> Comparison((), 3, ("a cat is missing",)).summary()
        '1 of 3 differs: a cat is missing.'
        """
        count = len(self.differences)
        if not self.objects:
            return "Nothing found, as in the source."
        if not count:
            few = {1: "The one object is", 2: "Both objects are"}
            what = few.get(self.objects, f"All {self.objects} objects are")
            return f"{what} as in the source."
        verb = "differs" if count == 1 else "differ"
        return f"{count} of {self.objects} {verb}: {'; '.join(self.differences)}."


def compare(
    source: Sequence[Detection], variant: Sequence[Detection], threshold: float
) -> Comparison:
    """Compare ``variant`` with ``source``.

    Args:
        source, variant: detections, including known ones below the threshold.
        threshold: score from which a detection counts.

    Pairs are those of ``stages.detect.matching`` (same class, IoU of at least 0.5).
    """
    matching = stage_module("detect.matching")
    drawn: list[Drawn] = []
    differences: list[str] = []
    objects = 0
    pairs = matching.match(source, variant)
    left = set(range(len(source))) - {pair.left for pair in pairs}
    right = set(range(len(variant))) - {pair.right for pair in pairs}
    for pair in pairs:
        was, now = source[pair.left], variant[pair.right]
        if max(was["score"], now["score"]) < threshold:
            continue
        objects += 1
        said = _change(was, now, pair.iou)
        if said:
            differences.append(f"{now['label']}: {' and '.join(said)}")
        drawn.append(Drawn(now, CHANGED if said else SAME))
    for i in sorted(left):
        was = source[i]
        j = _renamed(was, variant, right)
        if max(was["score"], variant[j]["score"] if j is not None else 0) < threshold:
            continue
        objects += 1
        if j is not None:
            right.remove(j)
            now = variant[j]
            differences.append(f"{was['label']} is called {now['label']}")
            drawn.append(Drawn(now, CHANGED))
        else:
            differences.append(f"{was['label']} ({was['score']:.2f}) is missing")
            drawn.append(Drawn(was, MISSED))
    for j in sorted(right):
        now = variant[j]
        if now["score"] >= threshold:
            objects += 1
            differences.append(f"{now['label']} ({now['score']:.2f}) is not in the source")
            drawn.append(Drawn(now, EXTRA))
    drawn.sort(key=lambda item: -item.detection["score"])
    return Comparison(tuple(drawn), objects, tuple(differences))


def _change(was: Detection, now: Detection, iou: float) -> list[str]:
    said = []
    if iou < LEAST_IOU:
        said.append(f"box moved (IoU {iou:.2f})")
    if abs(now["score"] - was["score"]) > MOST_SCORE:
        said.append(f"score {was['score']:.2f} became {now['score']:.2f}")
    return said


def _renamed(was: Detection, variant: Sequence[Detection], free: set[int]) -> int | None:
    """Return the unpaired detection of another class for the same object, if there is one."""
    matching = stage_module("detect.matching")
    around = [
        (-overlap, j)
        for j in free
        if (overlap := matching.iou(was["box"], variant[j]["box"])) >= matching.SAME_OBJECT
    ]
    return min(around)[1] if around else None
