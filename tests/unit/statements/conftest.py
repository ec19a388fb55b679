"""A model's folder with its statements."""

from __future__ import annotations

import pytest
from stated_toy import DEVICE_SBOM, SBOM
from toy_release import ToyModel, toy_model

from kiln.signing import keys
from kiln.signing.signer import KeySigner


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> KeySigner:
    return KeySigner(keys.load_or_create_key(tmp_path_factory.mktemp("key") / "k.pem"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyModel:
    artefacts = {"float32": b"one", "dynamic": b"two"}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GITHUB_ACTIONS", raising=False)  # where these tests may run
        return toy_model(
            tmp_path_factory.mktemp("toy"), "toy", artefacts, sbom=SBOM, device_sbom=DEVICE_SBOM
        )
