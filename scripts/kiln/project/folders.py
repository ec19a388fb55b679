"""Find the project's folders: those of a checkout, or of the installed package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kiln.core.errors import UsageError

#: The driver's own code, ``kiln/``.
PACKAGE = Path(__file__).resolve().parents[1]

#: The wheel's copy of parts of the checkout (``kiln._data`` in pyproject.toml), laid out like one.
DATA = PACKAGE / "_data"

_MARK = Path("docker") / "images.toml"


def is_installed() -> bool:
    """Whether this driver is an installed package, not a checkout."""
    return (DATA / _MARK).is_file()


def own_resources() -> Path:
    """Return the folder with this driver's own ``docker/``, whatever project is in use."""
    return DATA if is_installed() else PACKAGE.parents[1]


@dataclass(frozen=True)
class Project:
    """The folders that a command works with.

    Attributes:
        root: a checkout of the project, or a folder laid out like one; for an installed kiln
            outside of a checkout, the current folder.
        package: the installed package's replacement for a checkout; None in a checkout.
    """

    root: Path
    package: Path | None = None

    @property
    def docker(self) -> Path:
        """Image definitions, locks and stage code."""
        return self._resources / "docker"

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
        """Photographs of everyday objects, for models without images of their own."""
        return self.shipped / "samples" / "images"

    @property
    def shipped(self) -> Path:
        """Model files that come with kiln: label maps and photographs; in a checkout, samples."""
        return self._resources / "models"

    @property
    def described(self) -> str:
        """Owner of the image definitions and stage code, for messages."""
        return "this checkout" if self.package is None else "the installed kiln"

    @property
    def _resources(self) -> Path:
        return self.root if self.package is None else self.package

    def refuse_changes(self) -> None:
        """Refuse to write into the installed package's ``docker/``.

        Raises:
            UsageError: the project is the installed package's.
        """
        if self.package is not None:
            raise UsageError(
                "The image definitions here belong to the installed kiln and cannot be changed.",
                "Change into a checkout of kiln, or name one in KILN_PROJECT.",
            )

    @classmethod
    def find(cls) -> Project:
        """Find the project: ``KILN_PROJECT``, the nearest checkout upwards, or this package's own.

        Outside of a checkout, an installed package uses its own files, and the current folder for
        recipes and artefacts.

        Raises:
            UsageError: none of them holds ``docker/images.toml``.
        """
        named = os.environ.get("KILN_PROJECT")
        here = Path.cwd()
        places = [Path(named)] if named else [here, *here.parents]
        if not named and not is_installed():
            places.append(own_resources())
        for place in places:
            if (place / _MARK).is_file():
                return cls(place.absolute())
        if not named and is_installed():
            return cls(here, DATA)
        raise UsageError(
            f"There is no tflite-kiln checkout at {named or here}.",
            "Change into the checkout, or name it in KILN_PROJECT.",
        )
