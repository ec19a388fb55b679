"""Where the checkout is, and what tests read of it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
DOCKER = ROOT / "docker"
FIXTURES = ROOT / "tests" / "fixtures"
SAMPLES = ROOT / "models" / "samples"
