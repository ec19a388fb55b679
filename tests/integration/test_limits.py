"""The bounds a recipe sets, kept by the real engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import SAMPLE, Kiln, containers_of

from kiln.running.engine import Engine


@pytest.mark.parametrize(
    ("limit", "code", "words"),
    [
        ('timeout = "3s"', 25, ("not finished after 3 s", "limits.timeout")),
        # Importing TensorFlow alone takes more.
        ('memory = "300MiB"', 26, ("may use 300 MiB", "limits.memory")),
    ],
)
def test_limits(
    fresh: Kiln,
    engine: Engine,
    project: Path,
    tmp_path: Path,
    limit: str,
    code: int,
    words: tuple[str, ...],
) -> None:
    models = tmp_path / "models"
    shutil.copytree(project / "models", models)
    with (models / "samples" / SAMPLE / "recipe.toml").open("a") as recipe:
        recipe.write(f"\n[limits]\n{limit}\n")
    ended = fresh("build", SAMPLE, "--models-dir", models)
    ended.refused(code, *words)
    assert not containers_of(engine, ended.pid)
    assert fresh.published() == []
    assert fresh.leftovers() == []
