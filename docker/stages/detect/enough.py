"""Choose the images that a source model with a large input is run on.

One run of such a model takes seconds, and its artefacts are compared in few images
(:mod:`stages.steps.check`). So the source is run until there are enough of those that tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Images in which a model finds something, as they come.

    Args:
        param: see :data:`PARAM`.
        height: of the model's input, in pixels.
        width: likewise.
    """

    def __init__(self, param: Optional[Mapping[str, Any]], height: int, width: int) -> None:
        self._size = height, width
        self._param = param if pixels.is_large(height, width) else None
        self._telling = 0
        self._other_shape = False  # whether one of them is of other proportions than the input's

    def skips(self, name: str, image: Any) -> bool:
        """Tell whether the model need not see an image.

        Args:
            name: of the image.
            image: array [h, w, 3].
        """
        if self._param is None or name in self._param["images"] or self._telling < IMAGES:
            return False
        return self._other_shape or not pixels.of_other_shape(image, *self._size)

    def note(self, image: Any, found: Sequence[Mapping[str, Any]]) -> None:
        """Take in what the model found in an image.

        Args:
            image: array [h, w, 3].
            found: detections, with ``score``.
        """
        if self._param is None:
            return
        if any(item["score"] >= self._param["score_threshold"] for item in found):
            self._telling += 1
            self._other_shape |= pixels.of_other_shape(image, *self._size)
