"""Nothing in a release's page can run or load."""

from __future__ import annotations

import base64
import copy
import hashlib
import itertools
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import page_dist
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parsed_page import Parsed, checks_of, parsed
from places import ROOT

from kiln.page.document import render

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
pytest.importorskip("ai_edge_litert")


HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> & {{style}} {% raw %} \u202e\x00"
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything inside a JSON value, containers included."""
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, list) else ()
    ):  # fmt: skip
        yield from leaves(item, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of ``value`` with ``new`` at ``path``."""
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


def test_nothing_from_records_becomes_markup(dist: Path) -> None:
    def poisoned(value: Any, keep: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return {
                (key if key in names else f"{key}{HOSTILE}"): (
                    item if key in keep else poisoned(item, keep)
                )
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [poisoned(item, keep) for item in value]
        return value + HOSTILE if isinstance(value, str) else value

    keep = ("file", "preview", "status", "gate", "profile", "default_variant")
    names = set(
        re.findall(r'"(\w+)":', json.dumps(page_dist.read(dist / "toy" / "conversion.json")))
    )
    names |= set(re.findall(r'"(\w+)":', json.dumps(checks_of(dist)))) | {"quarters.png"}
    for name in ("conversion.json", "checks.json"):
        path = dist / "toy" / name
        page_dist.write(path, poisoned(page_dist.read(path), keep))
    before = dist / "toy"
    shutil.move(before, dist / "a&b<i>\"'")
    page = render(dist)
    seen = Parsed(page)
    assert len(seen.all("script")) == 1
    assert seen.all("img") == seen.all("i") == []
    assert not [k for _, attributes in seen.elements for k in attributes if k.startswith("on")]
    assert "\u202e" not in page
    assert "\x00" not in page
    assert page.count("default-src 'none'") + page.count("default-src &#39;none&#39;") == 1
    assert "alert(1)" in seen.words
    assert_sound(seen)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_record_gives_a_page(made: Path, tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["conversion.json", "checks.json"]))
    original = page_dist.read(made / "toy" / name)
    path = data.draw(st.sampled_from(list(leaves(original))))
    odd = st.sampled_from(
        [None, True, -1, 10**400, 1e308, float("nan"), "", "x" * 300, HOSTILE, [], {}, [None], [[]],
         {"a": {"b": {"c": {"d": {"e": 1}}}}}]
    )  # fmt: skip
    dist = tmp_path / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    shutil.copytree(made, dist)
    changed = replaced(original, path, data.draw(odd))
    (dist / "toy" / name).write_text(json.dumps(changed), "utf-8")
    assert_sound(parsed(dist))


def test_policy_allows_this_page_and_nothing_else(made: Path) -> None:
    page = render(made)
    seen = Parsed(page)
    (policy,) = [m["content"] for m in seen.all("meta") if "http-equiv" in m]
    said = dict(part.strip().split(" ", 1) for part in policy.split(";"))

    def hashed(tag: str) -> str:
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    assert said == {
        "default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'",
        "style-src": hashed("style"), "script-src": hashed("script"),
    }  # fmt: skip
    assert_sound(seen)


def assert_sound(page: Parsed) -> None:
    """What holds for any page: nothing is loaded, references and names are in order."""
    for tag, attributes in page.elements:
        assert "style" not in attributes, tag
        assert "src" not in attributes, tag
        target = attributes.get("href")
        if target is not None:
            assert target.startswith(("#", "data:")), target
    assert page.all("html") == [{"lang": "en"}]
    identities = Counter(a["id"] for _, a in page.elements if "id" in a)
    assert max(identities.values()) == 1, identities.most_common(3)
    for _, attributes in page.elements:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in identities
        if "for" in attributes:
            assert attributes["for"] in identities
    assert not [identity for identity in identities if not re.fullmatch(r"[\w-]+", identity)]
    labels = {a["for"] for a in page.all("label")}
    assert {a["id"] for a in page.all("input")} <= labels
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in head for head in page.all("th"))
    groups = {a["name"] for a in page.all("input") if a.get("type") == "radio"}
    chosen = [a["name"] for a in page.all("input") if "checked" in a]
    assert sorted(chosen) == sorted(groups)
    assert all("aria-label" in svg or "aria-hidden" in svg for svg in page.all("svg"))


def test_everything_the_page_needs_is_shipped() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        setup = tomllib.load(file)["tool"]["setuptools"]
    folder = ROOT / "scripts" / "kiln" / "page"
    needed = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    ]
    assert len(needed) >= 8
    for name in needed:
        assert any(fnmatch(name, pattern) for pattern in setup["package-data"]["kiln.page"]), name
