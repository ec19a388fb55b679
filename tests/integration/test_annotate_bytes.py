"""The annotate stage's bytes, from tflite-support in the sealed image, against pinned ones.

The pinned files were made on another day, so equality also says that no time of day gets in. With
``KILN_UPDATE_FIXTURES=1`` they are written instead of compared.
"""

from __future__ import annotations

import os

import pytest
from annotate_cases import CASES, DECODING
from places import FIXTURES
from support import Stages, Wanted

from kiln.core.stage_result import StageResult


@pytest.fixture(scope="module")
def annotated(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageResult]:
    how = tmp_path_factory.mktemp("decoding")
    for name, content in DECODING.as_files().items():
        (how / name).write_bytes(content)
    wanted = [
        Wanted(
            name,
            "annotate",
            params,
            {
                "model": FIXTURES / f"{source}.tflite",
                "label_map": FIXTURES / "toy_labels.pbtxt",
                **({"decoding": how} if params.get("postprocess") == "none" else {}),
            },
        )
        for name, (source, params) in CASES.items()
    ]
    return stages.run(*wanted)


@pytest.mark.parametrize("name", sorted(CASES))
def test_bytes_are_pinned(annotated: dict[str, StageResult], stages: Stages, name: str) -> None:
    result = annotated[name]
    labels = stages.store.path(result.files["labelmap.txt"].sha256)
    model = stages.model(result)
    assert labels.read_text() == "red\ngreen\nblue\n"
    pinned = FIXTURES / f"{name}.tflite"
    if os.environ.get("KILN_UPDATE_FIXTURES") == "1":
        pinned.write_bytes(model)
    assert model == pinned.read_bytes()
