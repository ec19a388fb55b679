"""Choose the images that a source model with a large input is run on.

One run of such a model takes seconds, and its artefacts are compared in few images
(:mod:`stages.steps.check`). So the source is run until there are enough of those that tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from stages.files import pixels

IMAGES = 2
"""Images in which a model of a large input finds something, to compare with."""

PARAM = {
    "score_threshold": 0.3,  # detections below it do not count
    "images": (),  # names of those that are never left out
}
"""What stages take as parameter ``enough``; instead of it None: every image is seen."""


class Enough:
    """Images to run a model on, one of other proportions than its input's first.

    Args:
        param: see :data:`PARAM`.
        height: of the model's input, in pixels.
        width: likewise.
    """

    def __init__(self, param: Optional[Mapping[str, Any]], height: int, width: int) -> None:
        self._size = height, width
        self._param = param if pixels.is_large(height, width) else None
        self._telling = 0

    def pictures(self, folder: Path, crops: bool) -> Iterator[tuple[str, Any]]:
        """Yield :func:`stages.files.pixels.pictures`, until there are enough.

        What is found in an image must be given to :meth:`note` before the next one is taken.
        """
        if self._param is None:
            yield from pixels.pictures(folder, crops)
            return
        seen = set()
        for other_shape, least in ((True, 1), (False, IMAGES), (True, IMAGES)):
            for name, image in pixels.pictures(folder, crops):
                if name in seen or pixels.of_other_shape(image, *self._size) != other_shape:
                    continue
                if self._telling < least or name in self._param["images"]:
                    seen.add(name)
                    yield name, image

    def note(self, found: Sequence[Mapping[str, Any]]) -> None:
        """Take in what the model found in an image: detections, with ``score``."""
        if self._param is not None:
            least = self._param["score_threshold"]
            self._telling += any(item["score"] >= least for item in found)
