"""Each kind of source has one class that fetches it, and is asked for by nothing else."""

from __future__ import annotations

import ast
from typing import Any, get_args, get_origin

import pytest
from places import SCRIPTS

from kiln.recipes.source import KINDS, Source
from kiln.sources.fetcher import Fetcher
from kiln.sources.kinds import FETCHERS

PACKAGE = SCRIPTS / "kiln"


def fetches(fetcher: type[Fetcher[Any]]) -> type[Source]:
    """The class that a fetcher was written for: the argument of its base."""
    (base,) = fetcher.__orig_bases__  # type: ignore[attr-defined]
    assert get_origin(base) is Fetcher
    (source,) = get_args(base)
    assert issubclass(source, Source)
    return source


def test_each_kind_is_fetched_by_a_class_written_for_it() -> None:
    assert {kind: fetches(fetcher) for kind, fetcher in FETCHERS.items()} == KINDS


@pytest.mark.parametrize("fetcher", FETCHERS.values(), ids=FETCHERS)
def test_a_module_fetches_one_kind(fetcher: type[Fetcher[Any]]) -> None:
    assert [other for other in FETCHERS.values() if other.__module__ == fetcher.__module__] == [
        fetcher
    ]


def questions(tree: ast.AST) -> list[str]:
    """Where code asks an object whether it is of a kind of source."""
    names = {kind.__name__ for kind in KINDS.values()}
    found = []
    for node in ast.walk(tree):
        asked: ast.AST | None = None
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked = node.args[1]
        elif isinstance(node, ast.MatchClass):
            asked = node.cls
        if asked is not None and names & {
            item.id if isinstance(item, ast.Name) else item.attr
            for item in ast.walk(asked)
            if isinstance(item, ast.Name | ast.Attribute)
        }:
            found.append(ast.unparse(node))
    return found


def test_a_question_would_be_seen() -> None:
    code = "isinstance(x, A | source.HubSource)\nmatch x:\n    case StageSource(): pass"
    assert len(questions(ast.parse(code))) == 2


def test_nothing_asks_which_kind_a_source_is() -> None:
    found = {
        str(path.relative_to(PACKAGE)): asked
        for path in PACKAGE.rglob("*.py")
        if (asked := questions(ast.parse(path.read_text("utf-8"))))
    }
    assert found == {}
