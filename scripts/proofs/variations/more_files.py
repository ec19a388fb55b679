"""Ask more of the embedded samples than their recipes do, so that proofs cover every kind of file.

The samples' own recipes name neither 16-bit activations nor an NPU.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from kiln.core.errors import UsageError
from kiln.recipes.recipe import CONVERTED, discover, load

TARGET = "ethos-u65-256"

#: Of a CenterNet, which decodes in float, 0.63 are mapped. Whether that is worth it is not asked.
LEAST_MAPPED = 0.5

_VARIANTS = re.compile(r"^variants = \[.*\]$", re.M)


def with_more(text: str) -> str:
    """Return a recipe's text with every variant that is converted, and a file for an NPU.

    The default variant stays the first.

    Raises:
        UsageError: it does not name its variants in a line of their own.
    """
    found = _VARIANTS.search(text)
    if found is None:
        raise UsageError(
            "The recipe does not name its variants in one line.",
            'Write `variants = ["float32", ...]`.',
        )
    own = re.findall(r'"(\w+)"', found[0])
    names = ", ".join(f'"{name}"' for name in dict.fromkeys([*own, *CONVERTED]))
    compiled = f'\n[[compile]]\ntarget = "{TARGET}"\nleast_mapped = {LEAST_MAPPED}\n'
    return _VARIANTS.sub(f"variants = [{names}]", text, count=1) + compiled


def extend(models: Path) -> None:
    """Change the recipes of the samples in a folder of models, which must be a copy."""
    for path in discover(models).values():
        if load(path, models).sample:
            path.write_text(with_more(path.read_text("utf-8")), "utf-8")


def copy_extended(models: Path, target: Path) -> Path:
    """Copy a folder of models to ``target``, a new folder that others can read, and extend it."""
    shutil.copytree(models, target)
    for place in (target, *target.rglob("*")):
        place.chmod(0o755 if place.is_dir() else 0o644)
    extend(target)
    return target
