"""What a checkpoint's index says of its data files, read without TensorFlow."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from training_folder import table

from kiln.sources import checkpoint_index

VARIABLES = {
    f"model/layer-{layer}/{name}": (layer % 3, layer * 40_000 + place, 4 * 300)
    for layer in range(40)
    for place, name in enumerate(("beta", "gamma", "kernel"))
}


@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_the_least_sizes(tmp_path: Path, blocks: int) -> None:
    path = tmp_path / "ckpt-1.index"
    path.write_bytes(table(VARIABLES, blocks))
    wanted: dict[int, int] = {}
    for shard, offset, size in VARIABLES.values():
        wanted[shard] = max(wanted.get(shard, 0), offset + size)
    assert checkpoint_index.is_table(path)
    assert checkpoint_index.least_sizes(path) == wanted


def test_what_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "ckpt-1.index"
    whole = table(VARIABLES)
    for data in (b"", b"x", whole[:-1], whole[: len(whole) // 2], checkpoint_index.MAGIC):
        path.write_bytes(data)
        assert not checkpoint_index.is_table(path)


def test_damage_is_left_to_tensorflow(tmp_path: Path) -> None:
    """A flipped bit may change a size; nothing but numbers may come of it."""
    path = tmp_path / "ckpt-1.index"
    whole = table(VARIABLES, 2)
    dice = random.Random(7)
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(data) - 8)] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        assert all(size >= 0 for size in checkpoint_index.least_sizes(path).values())
    path.write_bytes(b"\xff" * 60)
    assert checkpoint_index.least_sizes(path) == {}


def test_blocks_that_lie_on_one_another(tmp_path: Path) -> None:
    """Time and memory stay in proportion to the file."""
    path = tmp_path / "ckpt-1.index"
    path.write_bytes(table(VARIABLES, 1, repeats=1000))
    assert checkpoint_index.is_table(path)
    assert checkpoint_index.least_sizes(path) == {}
