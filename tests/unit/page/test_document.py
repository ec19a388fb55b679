"""The release's page: what it says, that nothing in it can run or load, that it never gives up."""

from __future__ import annotations

import base64
import copy
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import page_dist
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import FIXTURES, ROOT

from kiln.core.errors import UsageError
from kiln.measure import accuracy_record
from kiln.measure.accuracy_record import Entry
from kiln.page.document import render

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytest.importorskip("ai_edge_litert")

VOID = {"br", "hr", "input", "link", "meta"}
HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> & {{style}} {% raw %} \u202e\x00"
)


class Parsed(HTMLParser):
    """A page taken apart: elements with their attributes, and the text of each kind of element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.append((self.open[-1], data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        """What is read, white space evened out."""
        said = (text for tag, text in self.texts if tag not in {"style", "script"})
        return re.sub(r"\s+", " ", " ".join(said))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of one checked model."""
    dist = tmp_path_factory.mktemp("made") / "dist"
    folder = page_dist.toy_dist(dist)
    page_dist.add_checks(folder, page_dist.toy_images(dist.parent / "images"))
    return dist


@pytest.fixture
def dist(made: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(made, tmp_path / "dist"))


def checks_of(dist: Path) -> dict[str, Any]:
    return page_dist.read(dist / "toy" / "checks.json")


def parsed(dist: Path) -> Parsed:
    return Parsed(render(dist))


# --- what it says ------------------------------------------------------------------------------


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
    page_dist.change(path, profile="seed", untrained=["scores are all alike"])
    page = parsed(dist)
    assert "recipe of 2021" in page.words
    assert "never trained (scores are all alike)" in page.words


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


def rows_of(page: str, section: str) -> dict[str, str]:
    """The words of each row of a table, by the name that it begins with."""
    table = page.partition(section)[2].partition("</table>")[0]
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)
    rows = [re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", row)).strip() for row in found]
    return {row.partition(" ")[0]: row for row in rows}


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


def kiln_page(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kiln.cli", "page", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "KILN_PROJECT": str(ROOT)},
    )


def test_command(dist: Path, tmp_path: Path) -> None:
    written = kiln_page("--dist", dist, "--json")
    assert written.returncode == 0, written.stderr
    page = (dist / "index.html").read_text("utf-8")
    assert page == render(dist)
    key = hashlib.sha256((dist / "kiln.pub").read_bytes()).hexdigest()
    assert key in page, "the page names the key that it was signed with, not an earlier one"
    assert json.loads(written.stdout) == {
        "event": "page",
        "file": str(dist / "index.html"),
        "size": len(page.encode()),
    }
    elsewhere = kiln_page("--dist", dist, "--out", tmp_path / "other.html")
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert (tmp_path / "other.html").read_text("utf-8") == page
    refused = kiln_page("--dist", tmp_path / "nowhere")
    assert refused.returncode == UsageError.exit_code
    assert "Traceback" not in refused.stderr
    assert "There is no release in" in refused.stderr


# --- pictures ----------------------------------------------------------------------------------


def test_each_picture_once_with_all_files_on_it(made: Path) -> None:
    page = parsed(made)
    uris = [image["href"] for image in page.all("image")]
    assert len(uris) == len(set(uris)) == 3
    previews = {path.read_bytes() for path in (made / "toy" / "previews").iterdir()}
    assert {base64.b64decode(uri.partition(",")[2]) for uri in uris} == previews
    shots = [svg["aria-label"] for svg in page.all("svg") if svg.get("class") == "shot"]
    assert len(shots) == 3 * 3
    assert sum("red 0.98" in shot for shot in shots) == 6  # in two pictures, three times each
    assert "Nothing found, as in the source." in page.words


def test_two_models_share_their_pictures(dist: Path) -> None:
    shutil.copytree(dist / "toy", dist / "twin")
    assert len(parsed(dist).all("image")) == 3


def test_differences_are_marked_and_said(dist: Path) -> None:
    checks = checks_of(dist)
    found = checks["variants"]["int8"]["detections"]["quarters.png"]
    found[0]["score"] -= 0.5
    gone = found.pop(1)
    page_dist.write(dist / "toy" / "checks.json", checks)
    page = parsed(dist)
    assert re.search(rf"2 of \d differ: .*{gone['label']} \(0\.98\) is missing", page.words)
    kinds = Counter(rect.get("class", "") for rect in page.all("rect"))
    assert kinds["box changed"] == kinds["box missed"] == 1
    assert f"− {gone['label']} 0.98" in page.words


@pytest.mark.parametrize(
    "preview",
    ["../secret.jpg", "previews/../../secret.jpg", "/etc/hostname", "previews/link.jpg",
     "previews/text.jpg", "previews/none.jpg", "previews", "", None, 7],
)  # fmt: skip
def test_only_pictures_of_the_folder_are_shown(dist: Path, preview: Any) -> None:
    secret = b"\xff\xd8\xff secret"
    (dist / "secret.jpg").write_bytes(secret)
    (dist / "toy" / "previews" / "link.jpg").symlink_to(dist / "secret.jpg")
    (dist / "toy" / "previews" / "text.jpg").write_text("no picture")
    checks = checks_of(dist)
    checks["images"]["wide.png"]["preview"] = preview
    page_dist.write(dist / "toy" / "checks.json", checks)
    page = render(dist)
    assert base64.b64encode(secret).decode() not in page
    assert "wide.png: its preview is not" in Parsed(page).words


# --- safety ------------------------------------------------------------------------------------


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
