"""Which errors are about the size of a model's input; real ones: tests/integration."""

from __future__ import annotations

import pytest

from stages.odapi.detection_model import size_fault


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("image size must be >= 129 in both height and width; image dim = 64,96", "at least 129x"),
        (
            "layer 'a'\n\nIncompatible shapes: [1,8] vs. [1,7] [Op:AddV2] name: \n\nCall",
            "(Incompatible shapes: [1,8] vs. [1,7])",
        ),
        ("Dimensions must be equal, but are 8 and 7 for '{{node a}}'", "but are 8 and 7)"),
    ],
)
def test_told(said: str, words: str) -> None:
    fault = size_fault(ValueError(f"Exception encountered when calling layer.\n\n{said}"), (64, 96))
    assert fault is not None
    assert fault.kind == "unsupported-model"
    assert fault.message.startswith("The model cannot take an input of 64x96 pixels: ")
    assert words in fault.message
    assert ("at least 129;" in fault.remedy) == ("129" in said)


def test_of_something_else() -> None:
    for said in ("", "Shapes (3, 3) and (1, 1) are incompatible", "expected float32, got uint8"):
        assert size_fault(ValueError(said), (64, 96)) is None
