"""Where the project's folders are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kiln.core.errors import UsageError


@dataclass(frozen=True)
class Project:
    """A checkout of the project (or a folder laid out like one)."""

    root: Path

    @property
    def docker(self) -> Path:
        """Image definitions, locks and stage code."""
        return self.root / "docker"

    @property
    def stages(self) -> Path:
        """The code that runs inside images."""
        return self.docker / "stages"

    @property
    def models(self) -> Path:
        """The recipes."""
        return self.root / "models"

    @property
    def sample_images(self) -> Path:
        """Photographs of everyday objects, for models that bring no images of their own."""
        return self.models / "samples" / "images"

    @classmethod
    def find(cls) -> Project:
        """``KILN_PROJECT``, or the nearest folder upwards, or where this package lives.

        Raises:
            UsageError: none of them holds ``docker/images.toml``.
        """
        named = os.environ.get("KILN_PROJECT")
        here = Path.cwd()
        package = Path(__file__).resolve().parents[3]
        places = [Path(named)] if named else [here, *here.parents, package]
        for place in places:
            if (place / "docker" / "images.toml").is_file():
                return cls(place.absolute())
        raise UsageError(
            f"There is no tflite-kiln checkout at {named or here}.",
            "Change into the checkout, or name it in KILN_PROJECT.",
        )
