"""Run the command ``kiln`` with ``python -m kiln.cli``."""

from __future__ import annotations

from kiln.cli.main import main

if __name__ == "__main__":
    main()
