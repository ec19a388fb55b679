"""Run ``kiln`` without checks, to measure their cost."""

from __future__ import annotations

from functools import partial

from kiln.building import build
from kiln.cli.main import main
from kiln.recipes.plan import make_plan

if __name__ == "__main__":
    build.make_plan = partial(make_plan, checks=False)  # type: ignore[attr-defined]
    main()
