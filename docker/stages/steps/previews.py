"""Stage: make small copies of images for the release's page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.files import pixels

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}

_LONGEST = 640  # pixels of the longer side
_QUALITY = 80  # JPEG's, 1 to 95


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/<file name>.jpg`` for every image of the folder ``inputs["images"]``.

    Returns:
        Facts: ``images``: file name -> ``height`` and ``width`` of the original, in pixels.

    Raises:
        StageError: kind ``image-set``; an image cannot be read.
    """
    from PIL import Image

    sizes = {}
    for path in pixels.list_images(inputs["images"]):
        image = Image.fromarray(pixels.load_rgb(path))
        sizes[path.name] = {"height": image.height, "width": image.width}
        image.thumbnail((_LONGEST, _LONGEST))
        image.save(out / f"{path.name}.jpg", "JPEG", quality=_QUALITY, optimize=True)
    return {"images": sizes}
