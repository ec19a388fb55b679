"""Where the project's folders are: a checkout's, or those that the installed package brings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kiln.core.errors import UsageError

#: The driver's own code, ``kiln/``.
PACKAGE = Path(__file__).resolve().parents[1]

#: What the wheel has of the checkout (``kiln._data`` in pyproject.toml), laid out like one.
DATA = PACKAGE / "_data"

_MARK = Path("docker") / "images.toml"


def is_installed() -> bool:
    """Whether this driver is an installed package, not the code of a checkout."""
    return (DATA / _MARK).is_file()


def own_resources() -> Path:
    """The folder with the ``docker/`` that belongs to this driver, whatever project is in use."""
    return DATA if is_installed() else PACKAGE.parents[1]


@dataclass(frozen=True)
class Project:
    """The folders that a command works with.

    Attributes:
        root: a checkout of the project, or a folder laid out like one; for an installed kiln
            anywhere else, the folder that one is in.
        package: what the installed package brings in the place of a checkout; None in a checkout.
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
        """Photographs of everyday objects, for models that bring no images of their own."""
        return self.shipped / "samples" / "images"

    @property
    def shipped(self) -> Path:
        """What kiln brings of models: label maps and photographs; in a checkout, samples too."""
        return self._resources / "models"

    @property
    def described(self) -> str:
        """Whose image definitions and stage code these are, for messages."""
        return "this checkout" if self.package is None else "the installed kiln"

    @property
    def _resources(self) -> Path:
        return self.root if self.package is None else self.package

    def refuse_changes(self) -> None:
        """Refuse to write into ``docker/`` where it is not the user's own.

        Raises:
            UsageError: it is the installed package's.
        """
        if self.package is not None:
            raise UsageError(
                "The image definitions here are those of the installed kiln, which stay as they "
                "are.",
                "Change into a checkout of kiln, or name one in KILN_PROJECT.",
            )

    @classmethod
    def find(cls) -> Project:
        """``KILN_PROJECT``, or the nearest checkout upwards, or where this package lives.

        An installed package lives in no checkout: it brings what it needs, and recipes and
        artefacts are looked for in the folder that one is in.

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
