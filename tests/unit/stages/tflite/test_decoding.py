"""The description of raw outputs: written, read back, and refused where it is another."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace
from typing import Any

import pytest
from annotate_cases import DECODING
from hypothesis import given
from hypothesis import strategies as st

from stages.tflite import decoding

FILES = DECODING.as_files()
_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.tuples(*[_FLOATS] * 4), min_size=1, max_size=9),
    st.tuples(*[st.floats(1e-3, 1e3)] * 4),
    st.none() | st.floats(0, 1),
    st.integers(1, 1000),
)
def test_every_bit_comes_back(
    anchors: list[tuple[float, ...]], scales: Any, least: Any, most: int
) -> None:
    how = replace(
        DECODING,
        anchors=b"".join(struct.pack("<4f", *anchor) for anchor in anchors),
        scales=scales,
        suppression=decoding.Suppression(least, 0.6, most, most),
    )
    assert decoding.parse(how.as_files()) == how
    assert how.as_fact()["anchors"]["count"] == len(anchors) == how.count


def test_what_the_file_says() -> None:
    said = json.loads(FILES["decoding.json"])
    assert said["anchors"]["fields"] == ["ycenter", "xcenter", "height", "width"]
    assert said["box_scales"] == {"y": 10, "x": 10, "height": 5, "width": 5}
    assert said["suppression"]["within"] == "class"
    assert said["suppression"]["score_threshold"] is None
    assert len(FILES["anchors.bin"]) == 16 * said["anchors"]["count"]


def changed(*path: str, to: Any) -> dict[str, bytes]:
    """The files with one value of the description replaced; ``...``: without it."""
    said = json.loads(FILES["decoding.json"])
    place = said
    for name in path[:-1]:
        place = place[name]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return {**FILES, "decoding.json": json.dumps(said).encode()}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "there is no decoding.json"),
        ({"decoding.json": b"\xff"}, "not JSON"),
        ({"decoding.json": b"[" * 60_000}, "not JSON"),
        ({"decoding.json": b"[" * 100_000}, "larger than"),
        ({"decoding.json": b"[]"}, "has not the fields"),
        ({"decoding.json": FILES["decoding.json"]}, "'anchors.bin', is not there"),
        ({**FILES, "anchors.bin": FILES["anchors.bin"][:-16]}, "does not hold 4 anchors"),
        ({**FILES, "anchors.bin": FILES["anchors.bin"][::-1]}, "does not hold the anchors that"),
        (changed("classes", to=...), "has not the fields"),
        (changed("more", to=1), "has not the fields"),
        (changed("format", to=2), "another way"),
        (changed("encoding", "height", to="raw[2]"), "another way"),
        (changed("boxes", "unit", to="pixel"), "another way"),
        (changed("anchors", "type", to="float64"), "another form"),
        (changed("anchors", "file", to=["anchors.bin"]), "is not there"),
        (changed("anchors", "count", to={}), "anchors"),
        (changed("anchors", "count", to=True), "anchors"),
        (changed("box_scales", "y", to=0), "four positive scales"),
        (changed("box_scales", "y", to=10**400), "four positive scales"),
        (changed("box_scales", "y", to=float("nan")), "four positive scales"),
        (changed("box_scales", "width", to=...), "four positive scales"),
        (changed("classes", to=0), "how many classes"),
        (changed("score_converter", to=None), "how scores are made"),
        (changed("suppression", "within", to="box"), "another suppression"),
        (changed("suppression", "iou_threshold", to="0.6"), "another suppression"),
        (changed("suppression", "score_threshold", to=float("inf")), "another suppression"),
        (changed("suppression", "max_detections", to=10**12), "another suppression"),
    ],
)
def test_refused(files: dict[str, bytes], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        decoding.parse(files)
