"""A model that was built in this process serves again for the same description only."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from stages.odapi import detection_model
from stages.protocol.model_cache import Kept


class Description:
    def __init__(self, text: bytes) -> None:
        self._text = text

    def SerializeToString(self, deterministic: bool) -> bytes:  # noqa: N802 (protobuf's name)
        assert deterministic
        return self._text


def test_only_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection_model, "_kept", Kept())
    created: list[tuple[int, int]] = []
    monkeypatch.setattr(detection_model, "build", lambda pipeline: object())
    monkeypatch.setattr(
        detection_model, "create_variables", lambda model, size: created.append(tuple(size))
    )
    one, other = Description(b"one"), Description(b"other")
    kept = object()
    detection_model.keep(one, (320, 320), kept)
    assert detection_model.built(SimpleNamespace(model=Description(b"one")), [320, 320]) is kept
    assert not created
    assert detection_model.built(SimpleNamespace(model=one), (320, 512)) is not kept
    assert detection_model.built(SimpleNamespace(model=other), (320, 320)) is not kept
    assert created == [(320, 512), (320, 320)]
