"""Run a developer's program with the signals and exit codes of ``kiln``."""

from __future__ import annotations

from kiln.cli.program import run as run_function
from kiln.cli.program import run_command as run

__all__ = ["run", "run_function"]
