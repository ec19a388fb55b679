"""What importing a module of kiln brings with it, seen from a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

from places import SCRIPTS


def also_imported(modules: str, libraries: Iterable[str]) -> list[str]:
    """Those of ``libraries`` that are loaded once ``modules`` (comma-separated) are imported."""
    code = f"import sys, {modules}; print(*(set({sorted(libraries)}) & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(SCRIPTS)},
    )
    return sorted(run.stdout.split())
