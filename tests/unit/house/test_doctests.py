"""The examples in docstrings, run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import kiln

#: Takes the place of a module of Python's, in a container.
NOT_IMPORTED = "kiln.images.parallel_compileall"

MODULES = [
    item.name for item in pkgutil.walk_packages(kiln.__path__, "kiln.") if item.name != NOT_IMPORTED
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    found = [
        test
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
        if test.examples
    ]
    assert len(found) >= 8
