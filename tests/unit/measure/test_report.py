"""What is saved, recorded and said of figures."""

from __future__ import annotations

from typing import Any

import pytest

from kiln.core.errors import CheckFailedError
from kiln.measure.bootstrap import Interval
from kiln.measure.report import Difference, Measured, Report
from kiln.measure.scoring import Scores

INTERVALS = {"ap": Interval(0.25, 0.36)}
LESS = Difference(-0.05, Interval(-0.08, -0.02))
SOURCE = Measured("source", Scores(0.30, 0.5, 0.4, 0.6), 0.31, intervals=INTERVALS)
INT8 = Measured("int8", Scores(0.25, 0.5, 0.4, 0.6), 0.28, "cd", INTERVALS, LESS)
SETTINGS = {"level": 0.9, "resamples": 1000, "seed": 20_170_901}


def report(*measured: Measured, images: int = 10, **more: Any) -> Report:
    return Report(
        "toy", "scenes", "ab", "ef", images, 10, 1, 3, 80, measured, tolerance=0.02, **more
    )


def test_what_is_saved() -> None:
    made = report(SOURCE, INT8, aliases={"Person": "people", "Auto": "car"}, fit="stretch")
    data_set = {
        "name": "scenes",
        "annotations_sha256": "ab",
        "images_sha256": "ef",
        "images": 10,
        "all_images": 10,
        "skipped": 1,
        "categories": 3,
        "all_categories": 80,
        "aliases": {"Auto": "car", "Person": "people"},
    }
    source = {"ap": 0.30, "ap50": 0.5, "ap75": 0.4, "ar100": 0.6}
    difference = {"ap": -0.05, "interval": [-0.08, -0.02], "noise": False}
    assert made.as_json() == {
        "schema": 1,
        "model": "toy",
        "dataset": data_set,
        "fit": "stretch",
        "artefacts": {"int8": "cd"},
        "results": {"source": source, "int8": {**source, "ap": 0.25}},
        "bootstrap": SETTINGS,
        "intervals": {"source": {"ap": [0.25, 0.36]}, "int8": {"ap": [0.25, 0.36]}},
        "differences": {"int8": difference},
        "to_float32": {},
    }
    (entry,) = made.entries()
    assert (entry.file, entry.sha256, entry.fit) == ("toy_int8.tflite", "cd", "stretch")
    assert entry.dataset == data_set
    assert entry.difference == difference
    assert entry.source_intervals == entry.result_intervals == {"ap": [0.25, 0.36]}
    assert entry.bootstrap == SETTINGS


def test_without_a_source() -> None:
    (entry,) = report(Measured("int8", INT8.scores, artefact="cd")).entries()
    assert (entry.source, entry.difference, entry.source_intervals) == (None, None, {})


def test_noise() -> None:
    assert Difference(-0.01, Interval(-0.03, 0.01)).noise is True
    assert Difference(0.0, Interval(0.0, 0.0)).noise is True
    assert Difference(-0.01, Interval(-0.03, -0.001)).noise is False
    assert Difference(0.01, Interval(0.001, 0.02)).noise is False
    assert Difference(0.01).noise is None


def subject(what: str, difference: Difference) -> Measured:
    return Measured(what, INT8.scores, None, "cd", INTERVALS, difference)


def test_differences_in_plain_words() -> None:
    noise = Difference(-0.004, Interval(-0.01, 0.003))
    first, *lines = report(
        SOURCE,
        subject("float32", Difference(0.0, Interval(0.0, 0.0))),
        subject("float16", noise),
        subject("dynamic", noise),
        INT8,
        subject("prebuilt", Difference(0.04, Interval(0.01, 0.07))),
        images=1234,
    ).remarks()
    assert "1,234 images and 3 of the data set's 80 classes" in first
    assert "nine of ten" in first
    assert lines == [
        "float32: no difference to the source, whatever the images.",
        "float16, dynamic: the difference to the source is noise: its interval holds 0.",
        "int8: worse than the source, by more than noise.",
        "prebuilt: better than the source, by more than noise.",
    ]


def test_too_few_images_in_plain_words() -> None:
    plain = Measured("int8", INT8.scores, None, "cd", {}, Difference(-0.05))
    (line,) = report(Measured("source", SOURCE.scores), plain, images=1).remarks()
    assert "on 1 image and" in line
    assert "too few" in line


def test_within_the_tolerance() -> None:
    report(SOURCE).judge()
    report(Measured("float32", Scores(0, 0, 0, 0))).judge()  # nothing is expected of it


def test_outside_of_the_tolerance() -> None:
    with pytest.raises(CheckFailedError) as caught:
        report(SOURCE, INT8, images=4).judge()
    error = caught.value
    assert "int8: expected 0.280, measured 0.250" in error.message
    assert "0.02" in error.message
    assert "source" not in error.message
    assert "only 4 of the data set's 10 images" in error.remedy
    assert "image size" in error.remedy
    with pytest.raises(CheckFailedError) as caught:
        report(INT8).judge()
    assert "only" not in caught.value.remedy


def test_what_fewer_bits_cost_by_themselves() -> None:
    both = Difference(-0.0312, Interval(-0.0449, -0.0001))
    int8 = Measured("int8", INT8.scores, None, "cd", INTERVALS, LESS, both)
    made = report(SOURCE, int8)
    assert made.as_json()["to_float32"] == {
        "int8": {"ap": -0.0312, "interval": [-0.0449, -0.0001], "noise": False}
    }
    assert made.remarks()[-1] == "int8 to float32: -0.0312 (-0.045 to -0.000)"
    unknown = Measured("int8", INT8.scores, None, "cd", {}, None, Difference(-0.03))
    assert not any("to float32" in line for line in report(SOURCE, unknown).remarks())
