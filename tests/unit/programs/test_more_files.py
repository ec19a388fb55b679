"""What the proofs ask of the samples beyond their own recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import ROOT

from kiln.core.errors import UsageError
from kiln.recipes.recipe import CONVERTED, discover, load
from kiln.recipes.targets import names
from proofs.variations.more_files import TARGET, copy_extended, with_more


def test_samples_get_every_variant_and_a_target(tmp_path: Path) -> None:
    models = copy_extended(ROOT / "models", tmp_path / "models")
    seen = 0
    for name, path in discover(models).items():
        own = load(discover(ROOT / "models")[name], ROOT / "models")
        found = load(path, models)
        if not own.sample:
            assert (found.variants, found.compile) == (own.variants, own.compile), name
            continue
        seen += 1
        assert set(found.variants) == set(CONVERTED)
        assert found.variants[: len(own.variants)] == own.variants
        assert [item.name for item in found.compile] == [f"int8_{TARGET}"]
        kept = {"variants", "compile"}
        assert found.model_dump(exclude=kept) == own.model_dump(exclude=kept)
    assert seen == 3
    assert TARGET in names()


def test_a_recipe_without_such_a_line_is_named() -> None:
    with pytest.raises(UsageError, match="in one line"):
        with_more('variants = [\n "int8",\n]\n')
