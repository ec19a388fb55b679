"""The compile stage with a program in Vela's place; the real one is in the integration tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from compiled_toy import compiled_toy, quantised_at_once
from places import FIXTURES
from tflite_files import fixture
from toy_vela import VERSION, make_vela

from stages.protocol.events import Emitter, EventStream
from stages.protocol.failures import StageError
from stages.protocol.request import complete_params
from stages.steps import compile as stage
from stages.tflite import packed_files, tflite_meta, tflite_model

NAME = "toy_ssd_uint8_annotated"
GOOD: dict[str, Any] = {
    "target": "ethos-u65-256",
    "system_config": "Ethos_U65_Client_Server",
    "memory_mode": "Dedicated_Sram_384KB",
    "least_mapped": 0.9,
}


@pytest.fixture
def vela(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(does: str = "answer()", answer: bytes | None = None) -> None:
        made = compiled_toy(fixture(NAME)) if answer is None else answer
        folder = make_vela(tmp_path / "vela", made, does)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return make


def run(folder: Path, name: str = NAME, **params: Any) -> dict[str, Any]:
    (folder / "out").mkdir()
    with open(os.devnull, "w") as sink:  # noqa: PTH123 - a descriptor is what is needed
        emit = Emitter(EventStream(sink.fileno()), "c")
        complete = complete_params({**GOOD, **params}, stage.PARAMS, "compile")
        return stage.run(complete, {"model": FIXTURES / f"{name}.tflite"}, folder / "out", emit)


def test_compiled_with_its_labels(tmp_path: Path, vela: Any) -> None:
    vela()
    facts = run(tmp_path)
    data = (tmp_path / "out" / "model.tflite").read_bytes()
    assert packed_files.split(data)[1] == packed_files.split(fixture(NAME))[1]
    metadata = tflite_meta.read(tflite_model.read(data))
    assert metadata is not None
    assert tflite_meta.labels(data, metadata) == ["red", "green", "blue"]
    assert facts["compiler"] == {"name": "Vela", "version": VERSION}
    assert facts["operators"] == {"npu": 12, "cpu": 1}
    assert (facts["left"], facts["reasons"]) == ({"CUSTOM": 1}, {"Unsupported opType": 1})
    assert facts["estimate"] == {
        "cycles": 2000,
        "clock": 1_000_000,
        "inferences_per_second": 500.0,
        "macs": 77,
        "sram": 1536,
        "dram": 0,
        "on_chip_flash": 0,
        "off_chip_flash": 2048,
    }
    assert facts["bytes"] == len(data)
    (gate,) = facts["gates"]
    assert (gate["gate"], gate["status"]) == ("compiled", "passed")
    assert gate["summary"].startswith("92.3 % of 13 operators run on ethos-u65-256")


def test_a_float_input_that_is_quantised_at_once_is_compiled(tmp_path: Path, vela: Any) -> None:
    data = quantised_at_once(fixture(NAME))
    given = tmp_path / "given.tflite"
    given.write_bytes(data)
    vela(answer=compiled_toy(data))
    assert run(tmp_path, name=str(given.with_suffix("")))["operators"]["npu"] == 12


def test_vela_is_asked_for_the_chip_that_is_meant(tmp_path: Path, vela: Any) -> None:
    vela("print(sys.argv[1:]); sys.exit(3)")
    with pytest.raises(StageError) as caught:
        run(tmp_path, target="ethos-u55-64", system_config="A", memory_mode="B")
    said = caught.value.message
    for pair in ("'--accelerator-config', 'ethos-u55-64'", "'--system-config', 'A'",
                 "'--memory-mode', 'B'", "'--config', 'Arm/vela.ini'"):  # fmt: skip
        assert pair in said


@pytest.mark.parametrize(
    ("does", "kind", "words"),
    [
        ("answer(npu=6, cpu=7)", "unsupported-model", "Only 46.2 % of its operators (6 of 13)"),
        ("os.kill(os.getpid(), 9)", "compiler", "crashed (signal 9)"),
        (
            "raise RuntimeError('no networks')",
            "compiler",
            "failed (code 1) on it for ethos",
        ),
        ("time.sleep(60)", "compiler", "not finished with it for ethos-u65-256 after 1 s"),
        ("pass", "compiler", "it wrote no model, or no report"),
        ("answer(row={'nn_macs': 'many'})", "compiler", "its report cannot be read"),
        ("answer(row={'nn_macs': 'inf'})", "compiler", "its report cannot be read"),
        ("answer(npu=0, cpu=0)", "compiler", "does not count operators"),
    ],
)
def test_failures_have_names(tmp_path: Path, vela: Any, does: str, kind: str, words: str) -> None:
    vela(does)
    with pytest.raises(StageError) as caught:
        run(tmp_path, **({"seconds": 1} if "sleep" in does else {}))
    assert caught.value.kind == kind
    assert words in caught.value.message
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"garbage" * 99, "it is not a TFLite model"),
        (fixture("toy_ssd_uint8_annotated"), "nothing in it is compiled"),
        (compiled_toy(fixture("toy_centernet_annotated")), "not a compiled form"),
    ],
)
def test_garbage_is_not_taken(tmp_path: Path, vela: Any, answer: bytes, words: str) -> None:
    vela(answer=answer)
    with pytest.raises(StageError) as caught:
        run(tmp_path)
    assert caught.value.kind == "compiler"
    assert words in caught.value.message
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [("toy_ssd_annotated", "Its input is float32"), ("toy_labels", "not a TFLite model")],
)
def test_what_cannot_be_compiled_never_reaches_vela(tmp_path: Path, name: str, words: str) -> None:
    given = tmp_path / "given.tflite"
    source = next(FIXTURES.glob(f"{name}.*"))
    given.write_bytes(source.read_bytes())
    with pytest.raises(StageError) as caught:
        run(tmp_path, name=str(given.with_suffix("")))
    assert caught.value.kind == "unsupported-model"
    assert words in caught.value.message
