"""What the page says of files that were compiled for an NPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import page_dist
import pytest
from compiled_toy import compiled_toy
from places import FIXTURES

from kiln.page import document
from kiln.page.compiled import CompiledFile, compiled_files
from kiln.page.contents import read_release
from kiln.page.model_view import model_view
from kiln.page.records import Record
from stages.tflite import compiled

NAME = "int8_ethos-u65-256"
FACTS: dict[str, Any] = {
    "compiler": {"name": "Vela", "version": "5.2.0"},
    "from": "int8",
    "integer_form": True,
    "system_config": "Ethos_U65_Client_Server",
    "memory_mode": "Dedicated_Sram_384KB",
    "operators": {"npu": 96, "cpu": 3},
    "left": {"DEQUANTIZE": 2, "CUSTOM": 1},
    "estimate": {
        "cycles": 7_035_753, "inferences_per_second": 142.131, "sram": 388_656, "dram": 5_040_016,
        "off_chip_flash": 0,
    },
}  # fmt: skip
SAID = CompiledFile(
    name=NAME,
    made_of="int8, without layers in float",
    mapped="96 of 99 (97.0 %)",
    left="CUSTOM 1, DEQUANTIZE 2",
    speed="142.1 a second, 7.04 million cycles",
    memory="0.4 MB SRAM, 5.0 MB DRAM",
    chip="Ethos_U65_Client_Server, Dedicated_Sram_384KB",
    compiler="Vela 5.2.0",
)


def test_the_compilers_report_in_words() -> None:
    assert list(compiled_files(Record({"compiled": {NAME: FACTS}}))) == [SAID]
    published = {**FACTS, "integer_form": False}
    (found,) = compiled_files(Record({"compiled": {NAME: published}}))
    assert found.made_of == "int8"


@pytest.mark.parametrize(
    "record",
    [
        None, 7, [], {"operators": 7, "estimate": []}, {"operators": {"npu": 0, "cpu": 0}},
        {"operators": {"npu": -1, "cpu": 1e300}, "left": {"A": 1e300, "B": "x"},
         "estimate": {"cycles": 10**400, "sram": -5, "inferences_per_second": float("nan")}},
    ],
)  # fmt: skip
def test_nonsense_counts_as_unknown(record: Any) -> None:
    found = list(compiled_files(Record({"compiled": {NAME: record}})))
    assert found in ([], [CompiledFile(NAME, "", "", "", "", "", "", "")])


def test_a_compiled_file_on_the_page(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    folder = page_dist.toy_dist(tmp_path / "dist")
    original = (FIXTURES / "toy_ssd_uint8_annotated.tflite").read_bytes()
    file = folder / f"toy_{NAME}.tflite"
    file.write_bytes(compiled.finished(original, compiled_toy(original)).data)
    record = page_dist.read(folder / "conversion.json")
    record["artefacts"][NAME] = {
        "file": file.name, "sha256": page_dist.sha256(file), "size": file.stat().st_size
    }  # fmt: skip
    page_dist.write(folder / "conversion.json", {**record, "compiled": {NAME: FACTS}})
    (model,) = read_release(folder.parent).models
    view = model_view(model)
    assert view.compiled == (SAID,)
    (use,) = (item for item in view.uses if item.variant.name == NAME)
    assert use.variant.for_npu
    assert {bool(item.code) for item in use.snippets} == {False}
    assert "only an Ethos-U runs it" in use.snippets[0].reason
    others = [item for item in view.uses if item.variant.name != NAME]
    assert all(item.snippets[0].code for item in others)
    page = document.render(folder.parent)
    for words in (SAID.mapped, SAID.speed, SAID.memory, "estimates of its own model"):
        assert words in page
