"""The release's page: what it says, and that it never gives up."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import page_dist
import pytest
from parsed_page import Parsed, checks_of, parsed, rows_of
from places import FIXTURES, ROOT

from kiln.core.errors import UsageError
from kiln.measure import accuracy_record
from kiln.measure.accuracy_record import Entry
from kiln.page.document import render

pytest.importorskip("ai_edge_litert")


def test_same_release_same_bytes(made: Path, dist: Path) -> None:
    first = render(made)
    (dist / "index.html").write_text(first, "utf-8")
    (dist / "SHA256SUMS").write_text("whatever\n", "utf-8")
    assert render(dist) == first == render(made)


def test_files_with_their_figures(made: Path) -> None:
    page = parsed(made)
    for variant, name in page_dist.TOY_VARIANTS.items():
        path = made / "toy" / f"toy_{variant}.tflite"
        assert path.read_bytes() == (FIXTURES / f"{name}.tflite").read_bytes()
        assert page_dist.sha256(path) in page.words
        assert f"{path.stat().st_size / 1e3:.1f} kB" in page.words
    figures = checks_of(made)["variants"]["int8"]["gates"][1]["figures"]
    assert 0.001 < figures["max_score_difference"] < 1
    assert f"{figures['max_score_difference']:.3f}" in page.words
    assert page.words.count("default") >= 1
    (row,) = re.findall(
        r"<tr[^>]*>(?:(?!</tr>).)*class=\"tag\">default(?:(?!</tr>).)*", render(made), re.DOTALL
    )
    assert ">int8<" in row


def test_key_and_commands(made: Path) -> None:
    page = parsed(made)
    assert page_dist.sha256(made / "kiln.pub") in page.words
    for command in (
        "kiln verify DIST --key THEIR_KEY.pub",
        "sha256sum --strict --check SHA256SUMS",
        "python -m model_signing verify key toy --signature toy/model.sig --public_key kiln.pub "
        "--ignore-paths toy/model.sig",
    ):
        assert command in page.words


def test_commands_are_those_of_the_documents(made: Path) -> None:
    text = (ROOT / "docs" / "trust.md").read_text("utf-8")
    said = [line for line in text.splitlines() if "model_signing verify key" in line]
    assert said
    for line in said:
        words = line.replace("MODEL", "toy").replace("their.pub", "kiln.pub")
        assert words in parsed(made).words


def test_without_checks(dist: Path) -> None:
    (dist / "toy" / "checks.json").unlink()
    shutil.rmtree(dist / "toy" / "previews")
    page = parsed(dist)
    assert "This model was not checked" in page.words
    assert "2 files not checked" in page.words
    assert "passed" not in page.words
    assert page.all("image") == []
    assert "Interpreter(MODEL)" in page.words  # how to use it is known all the same


def test_without_a_source(dist: Path) -> None:
    page_dist.change(dist / "toy" / "checks.json", source={"detections": None})
    page = parsed(dist)
    assert "no source model to compare with" in page.words
    assert "as in the source" not in page.words
    assert len([svg for svg in page.all("svg") if svg.get("class") == "shot"]) == 2 * 3


def test_problems_in_full(dist: Path) -> None:
    checks = checks_of(dist)
    gates = checks["variants"]["int8"]["gates"]
    problem = {"code": "the-code", "expected": "two", "seen": "three", "cause": "a slip"}
    gates[0].update(status="failed", problems=[problem])
    gates[1].update(status="allowed", problems=[{**problem, "seen": "four"}])
    gates.append({"gate": "of-the-future", "status": "puzzled", "summary": "who knows"})
    checks["variants"]["int8"]["passed"] = False
    page_dist.write(dist / "toy" / "checks.json", checks)
    page = parsed(dist)
    for words in ("the-code", "two", "three", "four", "a slip", "of-the-future", "puzzled",
                  "failed, allowed by the recipe", "1 file failed", "1 file passed"):  # fmt: skip
        assert words in page.words, words
    marks = [a for a in page.all("a") if a.get("class", "").startswith("mark ")]
    names = [mark["aria-label"] for mark in marks if mark["class"] != "mark passed"]
    assert any(name.startswith("structure: failed") for name in names)
    assert any(name.startswith("of-the-future: puzzled") for name in names)


def test_warnings_in_plain_words(dist: Path) -> None:
    path = dist / "toy" / "conversion.json"
    page_dist.change(
        path, profile="seed", untrained=["scores are all alike"], label_notes=["'emu' has no class"]
    )
    page = parsed(dist)
    assert "recipe of 2021" in page.words
    assert "never trained (scores are all alike)" in page.words
    assert "Labels: 'emu' has no class" in page.words


def test_latency(dist: Path) -> None:
    assert "Latency" not in parsed(dist).words
    digest = page_dist.sha256(dist / "toy" / "toy_int8.tflite")
    run = {"model": "toy", "variant": "int8", "sha256": digest, "threads": 1, "median_ms": 12.34,
           "p90_ms": 15.0, "runs": 50, "runtime": "a runtime", "cpu": "a cpu"}  # fmt: skip
    stale = {**run, "variant": "float32", "median_ms": 99.9}  # another file's digest
    page_dist.write(dist / "latency.json", {"schema": 1, "runs": [run, stale]})
    words = parsed(dist).words
    for said in ("12.3 ms", "median of 50 runs, 1 thread, a runtime, a cpu"):
        assert said in words
    assert "99.9" not in words


DATA_SET = {
    "name": "scenes & more",
    "annotations_sha256": "a" * 64,
    "images_sha256": "b" * 64,
    "images": 1200,
    "all_images": 5000,
    "skipped": 3,
    "categories": 2,
    "all_categories": 80,
}


def measured(dist: Path, variant: str, ap: float, source: float | None) -> Entry:
    """Figures of a file that is there."""
    path = dist / "toy" / f"toy_{variant}.tflite"
    before = None if source is None else {"ap": source, "ap50": 0.6, "ap75": 0.5, "ar100": 0.7}
    after = {"ap": ap, "ap50": 0.55, "ap75": -1, "ar100": 0.66}
    return Entry("toy", variant, path.name, page_dist.sha256(path), DATA_SET, before, after)


def test_accuracy(dist: Path) -> None:
    assert not re.search("COCO AP|>Accuracy<", render(dist))
    entries = [measured(dist, "int8", 0.4109, 0.4321), measured(dist, "float32", 0.4331, 0.4321)]
    accuracy_record.save(dist, entries)
    page = render(dist)
    words = Parsed(page).words
    files = rows_of(page, '<h2 id="files">')
    assert "0.432 before, → 0.411 after" in files["int8"]
    assert "0.432 before, → 0.433 after" in files["float32"]
    table = rows_of(page, "<h3>Accuracy</h3>")
    assert table["source"].split()[2:] == ["0.432", "0.600", "0.500", "0.700", "–"]
    assert table["int8"].split()[1:] == ["0.411", "0.550", "–", "0.660", "−0.021"]
    assert table["float32"].split()[-1] == "+0.001"
    count = "1,200 images (the first by file name of 5,000), 3 more could not be used"
    assert f"COCO AP, before → after conversion. Measured on scenes & more, {count}." in words
    for said in (count, "2 of the data set’s 80", "a" * 64, "b" * 64):
        assert said in words


def test_intervals(dist: Path) -> None:
    before = {"ap": [0.4, 0.4657], "ap50": [0.5, 0.7], "ar100": [0.65, 0.75]}
    after = {"ap": [0.38, 0.45], "ap50": [0.5, 0.6], "ap75": [0.1, 0.2]}
    entries = [
        replace(
            measured(dist, variant, ap, 0.4321),
            source_intervals=before,
            result_intervals=after,
            difference={"ap": ap - 0.4321, "interval": interval, "noise": "not asked"},
        )
        for variant, ap, interval in (
            ("int8", 0.4109, [-0.0321, -0.011]),
            ("float32", 0.4331, [-0.0104, 0.0123]),
        )
    ]
    accuracy_record.save(dist, entries)
    page = render(dist)
    table = rows_of(page, "<h3>Accuracy</h3>")
    source = "0.432 0.400 to 0.466 0.600 0.500 to 0.700 0.500 0.700 0.650 to 0.750 –"
    assert table["source"].split() == ["source", "model", *source.split()]
    # AP75 is not known here, so its interval is of nothing.
    int8 = "0.411 0.380 to 0.450 0.550 0.500 to 0.600 – 0.660 −0.021 −0.032 to −0.011"
    assert table["int8"].split()[1:] == int8.split()
    assert "+0.001 −0.010 to +0.012 noise" in " ".join(table["float32"].split())
    assert "90 % interval" in Parsed(page).words
    files = rows_of(page, '<h2 id="files">')
    assert "noise" in files["float32"]
    assert "noise" not in files["int8"]
    assert "Noise: with other images there might as well be no change." in Parsed(page).words


@pytest.mark.parametrize(
    "interval",
    [
        None,
        0.5,
        [],
        [0.1],
        [0.2, 0.1],
        [0.1, 0.2, 0.3],
        ["0.1", 0.2],
        [-2, 2],
        [True, 1],
        [0, 2],
    ],
)
def test_intervals_that_are_none(dist: Path, interval: Any) -> None:
    """They are left out; the figures stay."""
    entry = measured(dist, "int8", 0.4109, 0.4321)
    accuracy_record.save(dist, [entry])
    before = render(dist)
    odd = replace(
        entry,
        result_intervals={"ap": interval},
        source_intervals={"ap": interval},
        difference={"interval": interval},
    )
    accuracy_record.save(dist, [odd])
    assert render(dist) == before


def test_how_it_was_measured(dist: Path) -> None:
    entry = measured(dist, "int8", 0.4, 0.5)
    aliases = {"Computer <mouse>": "mouse", "Auto": "car", "Tree": 3}
    data = {**DATA_SET, "aliases": aliases}
    accuracy_record.save(dist, [replace(entry, fit="stretch", dataset=data)])
    page = render(dist)
    assert rows_of(page, "<h3>Accuracy</h3>")["int8"].split()[1] == "stretch"
    assert "Auto = car, Computer <mouse> = mouse" in Parsed(page).words
    assert "Computer <mouse>" not in page


def test_accuracy_without_a_source(dist: Path) -> None:
    accuracy_record.save(dist, [measured(dist, "int8", 0.25, None)])
    page = render(dist)
    assert " 0.250 " in rows_of(page, '<h2 id="files">')["int8"]
    assert "0.250" not in rows_of(page, '<h2 id="files">')["float32"]
    assert list(rows_of(page, "<h3>Accuracy</h3>")) == ["Measured", "int8"]
    assert "COCO AP. Measured on scenes" in Parsed(page).words


def test_two_data_sets(dist: Path) -> None:
    other = replace(measured(dist, "float32", 0.3, 0.4), dataset={"name": "elsewhere"})
    accuracy_record.save(dist, [measured(dist, "int8", 0.2, 0.25), other])
    page = render(dist)
    assert page.count("<h3>Accuracy</h3>") == 1
    assert page.count('class="accuracy stacked"') == 2
    words = Parsed(page).words
    assert "toy: scenes & more, 1,200 images" in words
    assert "; toy: elsewhere." in words


def test_figures_of_other_bytes_are_not_shown(dist: Path) -> None:
    before = render(dist)
    entry = measured(dist, "int8", 0.4109, 0.4321)
    for stale in (
        replace(entry, sha256="0" * 64),
        replace(entry, model="twin"),
        replace(entry, variant="float32"),
        replace(entry, result={"ap": -1}),  # nothing to measure
    ):
        (dist / "accuracy.json").unlink(missing_ok=True)
        accuracy_record.save(dist, [stale])
        assert render(dist) == before


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"files": 3}', '{"files": [3, null, {"model": []}]}', "[" * 100_000],
)
def test_figures_that_are_none(dist: Path, content: str) -> None:
    before = render(dist)
    (dist / "accuracy.json").write_text(content)
    assert render(dist) == before


def test_a_file_that_was_exchanged_is_noticed(dist: Path) -> None:
    shutil.copy(dist / "toy" / "toy_float32.tflite", dist / "toy" / "toy_int8.tflite")
    words = parsed(dist).words
    assert "The file is not the one that conversion.json describes." in words
    assert "The checks were made on other bytes than these." in words
    assert "1 file not as recorded" in words


def test_a_missing_and_a_damaged_file(dist: Path) -> None:
    (dist / "toy" / "toy_int8.tflite").unlink()
    (dist / "toy" / "toy_float32.tflite").write_bytes(b"no model")
    words = parsed(dist).words
    assert "toy_int8.tflite is not in the folder." in words
    assert "The file cannot be read" in words
    assert "No code for this file" in words


@pytest.mark.parametrize("content", ["", "[]", "{", '{"artefacts": 3}', "\ufeff{}", "[" * 100_000])
@pytest.mark.parametrize("name", ["conversion.json", "checks.json"])
def test_records_that_are_none(dist: Path, name: str, content: str) -> None:
    (dist / "toy" / name).write_text(content, "utf-8")
    assert "toy" in parsed(dist).words


def test_no_release(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        render(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no model"):
        render(tmp_path)
