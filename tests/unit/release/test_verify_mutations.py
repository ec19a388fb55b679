"""Whatever is done to a release, ``kiln verify`` finds it and names a file concerned.

Three models of two variants, really published and signed. Each of the mutations is made, verified
and undone in one folder; what an attacker without the key can rewrite as well (``SHA256SUMS``), is
rewritten. Replays take files, signatures and folders of another release by the same key.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from release_mutations import MUTATIONS, STATEMENT, World, contents, twin
from small_release import make_release

from kiln.core.errors import VerificationError
from kiln.release.verify import verify_by
from kiln.signing import keys
from kiln.signing.keys import SigningKey
from kiln.signing.trust import RELEASE, trust_in_key
from kiln.statements.release_statement import read_release

#: Of each mutation about twenty, each somewhere else; `make nightly` makes three times as many.
ROUNDS = (700, pytest.param(2100, marks=pytest.mark.nightly))
#: More of them only make each verification longer.
VARIANTS = ("float32", "int8")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("mutations")
    mine = keys.load_or_create_key(folder / "mine.pem")
    stranger = keys.load_or_create_key(folder / "stranger.pem")
    made: list[dict[str, bytes]] = []
    todo: list[tuple[str, SigningKey, int]] = [
        ("dist", mine, 1), ("old", mine, 0), ("stranger", stranger, 1)
    ]  # fmt: skip
    for name, key, seed in todo:
        make_release(folder / name, key, seed, VARIANTS)
        verify_by(folder / name, trust_in_key(key.public_pem))
        made.append(contents(folder / name))
    assert made[0].keys() == made[1].keys() == made[2].keys()
    found = World(
        folder / "dist", trust_in_key(mine.public_pem), *made, random.Random(20261125)
    )  # fmt: skip
    found.restore()
    return found


def _rounds(world: World, numbers: range) -> list[str]:
    """Make, verify and undo some mutations; what went wrong, empty if nothing did."""
    world.rng.seed(numbers.start)
    wrong = []
    for number in numbers:
        mutate = MUTATIONS[number % len(MUTATIONS)]
        concerned = mutate(world)
        what = f"{mutate.__name__} (round {number}) of {concerned[:5]}"
        try:
            verify_by(world.dist, world.trust)
            wrong.append(f"{what} went unseen")
        except VerificationError as error:
            if not any(f"\n  {path}: " in error.message for path in concerned):
                wrong.append(f"{what}: none is named in: {error.message}")
        except Exception as error:
            wrong.append(f"{what} ended in {error!r}")
        world.restore()
    return wrong


def _child(world: World, numbers: range, place: Path, out: Any) -> None:
    shutil.copytree(world.dist, place)
    world.dist, world.stamps = place, {}
    world.restore()
    wrong = _rounds(world, numbers)
    verify_by(world.dist, world.trust)
    out.put((wrong, contents(world.dist) == world.now))


@pytest.mark.parametrize("rounds", ROUNDS)
def test_every_mutation_is_found_and_named(world: World, tmp_path: Path, rounds: int) -> None:
    """In two processes, each with a copy of the folder."""
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    assert rounds >= 15 * len(MUTATIONS)
    parts = [range(rounds // 2), range(rounds // 2, rounds)]
    children = [
        context.Process(target=_child, args=(world, part, tmp_path / str(number), out))
        for number, part in enumerate(parts)
    ]
    for child in children:
        child.start()
    for _ in children:
        wrong, restored = out.get(timeout=2 * PATIENCE)
        assert not wrong, "\n".join(wrong)
        assert restored
    for child in children:
        child.join(PATIENCE)
        assert child.exitcode == 0


def test_the_other_form_of_each_signature_is_found(world: World) -> None:
    for path in sorted(p for p in world.now if p.endswith((".sig", "sigstore.json"))):
        world.write(path, twin(world.now[path]))
        world.rewrite_sums()
        with pytest.raises(VerificationError) as caught:
            verify_by(world.dist, world.trust)
        assert f"\n  {path}: " in caught.value.message
        world.restore()
    verify_by(world.dist, world.trust)


def test_every_byte_of_the_release_statement_counts(world: World) -> None:
    """It vouches for everything else, and nothing vouches for it."""
    data = world.now[STATEMENT]
    assert read_release(world.trust.open(data, RELEASE))
    for at in range(len(data)):
        spoilt = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
        with pytest.raises(VerificationError):
            read_release(world.trust.open(spoilt, RELEASE))
