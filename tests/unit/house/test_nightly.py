"""Nightly tests: left out of other runs, but not where somebody names them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from places import ROOT

FAMILIES = "tests/integration/test_families.py"
SMALL, LARGE = "test_what_it_is[efficientdet_d0]", "test_what_it_is[efficientdet_d1_640]"


def collected(*arguments: str) -> set[str]:
    """The tests that pytest would run, by id."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {line for line in ended.stdout.splitlines() if "::" in line}


def test_they_are_left_out_beside_others() -> None:
    found = collected(FAMILIES)
    assert f"{FAMILIES}::{SMALL}" in found
    assert f"{FAMILIES}::{LARGE}" not in found


@pytest.mark.parametrize(
    "arguments",
    [
        (f"{FAMILIES}::{LARGE}",),
        (FAMILIES, "-k", "test_what_it_is and efficientdet_d1_640"),
    ],
)
def test_named_alone_they_are_run(arguments: tuple[str, ...]) -> None:
    assert collected(*arguments) == {f"{FAMILIES}::{LARGE}"}


def test_the_target_runs_them_and_no_others() -> None:
    would = subprocess.run(
        ["make", "--silent", "--dry-run", "nightly"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    program, quietly, *arguments = would.splitlines()[-1].split()
    assert (program.rpartition("/")[2], quietly) == ("pytest", "-q")
    found = collected(*arguments)
    assert f"{FAMILIES}::{LARGE}" in found
    assert f"{FAMILIES}::{SMALL}" not in found
