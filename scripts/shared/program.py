"""Start and end a developer's program the way ``kiln`` does."""

from __future__ import annotations

from kiln.cli.program import run as run_function
from kiln.cli.program import run_command as run

__all__ = ["run", "run_function"]
