"""A release of two models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from published import ARTEFACTS, MORE, PAGE, publish_toy
from toy_release import ToyModel, toy_model

from kiln.release import publish
from kiln.signing.keys import SigningKey
from kiln.signing.signer import KeySigner


@pytest.fixture(scope="module")
def signer(key: SigningKey) -> KeySigner:
    return KeySigner(key)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyModel:
    return toy_model(tmp_path_factory.mktemp("toy"), "toy", ARTEFACTS, MORE)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ToyModel:
    """Not checked, so without test results; of an image with a list of components."""
    return toy_model(
        tmp_path_factory.mktemp("other"),
        "other",
        {"dynamic": b"\x00" * 300},
        {"labelmap.txt": b"cat\n"},
        checked=False,
        sbom=b'{"bomFormat":"CycloneDX"}',
    )


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, signer: KeySigner, toy: ToyModel, other: ToyModel
) -> Path:
    made = tmp_path_factory.mktemp("release") / "dist"
    publish_toy(made, "toy", toy, signer)
    publish_toy(made, "other", other, signer)
    publish.publish_page(made, PAGE, signer)
    return made


@pytest.fixture
def dist(finished: Path, tmp_path: Path) -> Path:
    """A release of two models that the test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "dist"))
