"""What a statement records, as it is read."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_reproduce import ADDRESS, COMMIT, IMAGE, LABELS, REPOSITORY, WEIGHTS, ToyRelease, made

from kiln.core.digest import sha256_bytes
from kiln.core.errors import VerificationError
from kiln.reproduce.recorded import read
from kiln.running.limits import Limits


def test_what_a_statement_says(release: ToyRelease) -> None:
    item = read(release.statement("int8"), Path("x.json"))
    assert (item.model, item.variant, item.file) == ("toy", "int8", "toy_int8.tflite")
    assert item.sha256 == sha256_bytes(made("int8"))
    assert item.limits == Limits(memory=3 << 30, timeout=90.0)
    assert item.image == "odapi"
    assert item.inputs() == {
        sha256_bytes(WEIGHTS): "export/checkpoint/ckpt-0.data",
        sha256_bytes(IMAGE): "convert-int8/images/cat.png",
        sha256_bytes(LABELS): "annotate-int8/label_map",
    }
    assert item.came_from("export/checkpoint/ckpt-0.data") == ADDRESS
    assert item.came_from("convert-int8/images/cat.png") == f"{REPOSITORY}@{COMMIT}"
    assert not item.plain_export


def spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in plain data."""
    inside = value.items() if isinstance(value, dict) else ()
    for key, below in enumerate(value) if isinstance(value, list) else inside:
        yield (*path, key)
        yield from spots(below, (*path, key))


def test_nothing_in_a_statement_ends_in_a_traceback(release: ToyRelease) -> None:
    whole = release.statement("int8")
    refused = 0
    for path in list(spots(whole)):
        for value in (None, [], {}, "", -1, "../x", ["x"], {"x": "y"}):
            broken = copy.deepcopy(whole)
            place = broken
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            try:
                read(broken, Path("x.json"))
            except VerificationError as error:
                refused += 1
                assert "x.json" in error.message
    assert refused > 500


@pytest.mark.parametrize(
    "name",
    [
        "../x.tflite",
        "/x.tflite",
        "",
        "a/b.tflite",
        "A.tflite",
        ".x.tflite",
        "x.tflite\n",
        "x" * 207,
    ],
)
def test_names_become_no_paths(release: ToyRelease, name: str) -> None:
    statement = release.statement("int8")
    statement["subject"][0]["name"] = name
    with pytest.raises(VerificationError):
        read(statement, Path("x.json"))
    statement = release.statement("int8")
    statement["predicate"]["buildDefinition"]["externalParameters"]["model"] = name
    with pytest.raises(VerificationError):
        read(statement, Path("x.json"))


def test_a_plan_in_an_image_that_is_no_material(release: ToyRelease) -> None:
    statement = release.statement("int8")
    statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"] = (
        "b" * 64
    )
    with pytest.raises(VerificationError, match="not among its materials"):
        read(statement, Path("x.json"))
