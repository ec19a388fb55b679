"""``python -m kiln.cli``: the command ``kiln``."""

from __future__ import annotations

from kiln.cli.main import main

if __name__ == "__main__":
    main()
