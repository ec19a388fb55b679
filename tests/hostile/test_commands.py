"""Some of what strangers give to commands; `make storm` tries more of each kind for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile.archives import Archives
from hostile.cases import Case, Family, LeftOutError
from hostile.flatbuffers import Flatbuffers
from hostile.records import Records
from hostile.releases import Releases
from hostile.sound_release import Workshop
from hostile.texts import Texts

SEED = 12
CHOSEN = (
    "records/sound", "records/signed-conversion-value", "records/signed-provenance-value",
    "records/signed-source", "records/unsigned-bundle", "releases/sound",
    "releases/mutation-replay-model", "releases/bundle-fifo", "releases/artefact-link-same",
    "releases/sums-socket", "releases/deep-6000", "releases/key-sparse", "releases/name-control",
    "archives/release-tar-sound", "archives/release-tar-symlink-through",
    "archives/release-zip-sound", "archives/release-zip-outside", "archives/checkpoint-tar-sound",
    "archives/checkpoint-tar-hardlink", "archives/checkpoint-tar-cut", "texts/trust",
    "texts/recipe-sound", "texts/label-map", "texts/pipeline", "tflite-files/sound",
    "tflite-files/offsets", "tflite-files/archive-odd-names",
)  # fmt: skip


def families(workshop: Workshop) -> dict[str, Family]:
    found: list[Family] = [Records(workshop), Releases(workshop), Archives(workshop),
                           Texts(workshop), Flatbuffers()]  # fmt: skip
    return {one.name: one for one in found}


@pytest.mark.parametrize("chosen", CHOSEN)
def test_hostile_input(chosen: str, workshop: Workshop, place: Path) -> None:
    family, name = chosen.split("/")
    try:
        families(workshop)[family].run(Case(family, name, SEED), place)
    except LeftOutError as reason:
        pytest.skip(str(reason))


def test_names_are_names(workshop: Workshop) -> None:
    for name, family in families(workshop).items():
        assert len(set(family.names())) == len(family.names())
        assert {one.partition("/")[2] for one in CHOSEN if one.startswith(name)} <= set(
            family.names()
        )
