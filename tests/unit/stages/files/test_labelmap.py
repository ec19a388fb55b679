from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import FIXTURES

from stages.files import labelmap
from stages.protocol.failures import StageError


def pairs(text: str) -> list[tuple[int, str]]:
    return [(item.id, item.label) for item in labelmap.parse(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("item { id: 1 name: 'cat' }", [(1, "cat")]),
        ('item{id:1 name:"cat"}item{id:2 name:"dog"}', [(1, "cat"), (2, "dog")]),
        ("item { name: 'cat', id: 1; }, item { id: 3, name: 'x' };", [(1, "cat"), (3, "x")]),
        ("item { id: 1 name: '/m/01' display_name: 'cat' }", [(1, "cat")]),
        ("item { id: 1 name: 'cat' display_name: '' }", [(1, "cat")]),
        ("item: < id: 0x10 name: 'a' \"b\"\n 'c' >", [(16, "abc")]),
        ("# item { id: 9 }\nitem { id: 1 # x: {\n name: 'a#b' }", [(1, "a#b")]),
        (r"item { id: 1 name: 'it\'s \303\251 \xc3\xa9 \u00e9 \\ \"' }", [(1, "it's é é é \\ \"")]),
        (
            "item { id: 1 name: 'p' frequency: RARE ancestor_ids: ['a', 'b'] value: -1.5e3 "
            "keypoints { id: 5 label: '}' } keypoints: < deep { x: 1 } > [ext.x]: 3 }",
            [(1, "p")],
        ),
        ("\ufeffitem { id: 1 name: ' padded ' }".lstrip("\ufeff"), [(1, "padded")]),
        ("item {\r\n  id: 1\r\n  name: 'crlf'\r\n}\r\n", [(1, "crlf")]),
        ("item { id: 0 name: 'background' } item { id: 1 name: 'cat' }", [(1, "cat")]),
        ("item { id: 1 name: 'cat' } item { id: 0 display_name: 'background' }", [(1, "cat")]),
        ("item { name: 'background' } item { id: 1 name: 'cat' }", [(1, "cat")]),
        ("item { id: 1 name: 'item' keypoints { label: 'item { id: 2 }' } }", [(1, "item")]),
    ],
)
def test_accepted(text: str, expected: list[tuple[int, str]]) -> None:
    assert pairs(text) == expected


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "not a label map"),
        ("\n# only a comment\n", 3, "not a label map"),
        (
            "item { id: 1 name: 'a' }\nitem { id: 1 name: 'b' }",
            2,
            "id 1 was already used in line 1",
        ),
        ("item { id: 1 name: 'a' }\n\nitem {\n name: 'b' }", 3, "no id"),
        ("item {\n id: 0\n name: 'a' }", 2, "id 0"),
        ("item {\n id: 0\n name: 'Background' }", 2, "the name 'background' only"),
        ("item { id: 0 name: 'background' }", 1, "no 'item' of a class"),
        ("item { id: 1 name: 'a'\n item { id: 2 name: 'b' } }", 2, "begins in line 1"),
        ("\nitem { id: 1 name: 'a'\n keypoints { id: 5\n}\nitem { id: 2 } }", 5, "in line 2"),
        ("item { id: 1 name: 'a'\n\n item: < id: 2 name: 'b' > }", 3, "an item inside"),
        ("item {\n 'id': 1, 'name': 'a' }", 2, "no quotes"),
        ("item {\n id: -4\n name: 'a' }", 2, "id -4"),
        ("item {\n id: 1.5 name: 'a' }", 2, "whole number"),
        ("item {\n id: '1' name: 'a' }", 2, "whole number"),
        ("item {\n id: 010 name: 'a' }", 2, "whole number"),
        ("item {\n id: 2000000000 name: 'a' }", 2, "above"),
        ("item { id: 1 id: 2 name: 'a' }", 1, "two ids"),
        ("item { id: 1\n name: 'a'\n name: 'b' }", 3, "two fields 'name'"),
        ("item { id: 1 }", 1, "neither 'display_name' nor 'name'"),
        ("item { id: 1\n name: cat }", 2, "quoted"),
        ("item { id: 1\n name 'cat' }", 2, "':'"),
        ("item { id: 1\n name: 'a\\nb' }", 2, "one line"),
        ("item { id: 1\n name: '\\377' }", 2, "UTF-8"),
        ("item { id: 1\n name: '\\q' }", 2, "escape"),
        ("item { id: 1\n name: 'open }", 2, "never closed"),
        ("item { id: 1\n name: 'a'\n keypoints { x: 1", 3, "never closed"),
        ("item { id: 1 name: 'a'", 1, "the end of the file"),
        ("item { id: 1 name: 'a' >", 1, "expected a field name"),
        ("item { id: 1 name: 'a' k { x: [ } ] }", 1, "unexpected '}'"),
        ("person\ncat\ndog\n", 1, "expected 'item {'"),
        ("{\n 'id': 1}", 1, "expected 'item {'"),
        ("item 5", 1, "expected '{'"),
        ("item { id: 1 name: 'a' }\n@", 2, "unexpected"),
    ],
)
def test_refused_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(StageError) as caught:
        labelmap.parse(text, "labels.pbtxt")
    assert caught.value.kind == "label-map"
    assert caught.value.message.startswith(f"labels.pbtxt, line {line}: ")
    assert words in caught.value.message


def test_files(tmp_path: Path) -> None:
    found = labelmap.load(FIXTURES / "toy_labels.pbtxt")
    items = found.items
    assert found.note == ""
    assert [(item.id, item.label, item.line) for item in items] == [
        (1, "red", 2),
        (2, "green", 3),
        (3, "blue", 4),
    ]
    path = tmp_path / "x.pbtxt"
    path.write_bytes(b"\xef\xbb\xbfitem { id: 1 name: 'bom' }")
    assert labelmap.load(path).items[0].label == "bom"
    path.write_bytes(b"item {\n id: 1 name: '\xff' }")
    with pytest.raises(StageError, match="line 2: not a text file"):
        labelmap.load(path)
    with pytest.raises(StageError, match="cannot be read"):
        labelmap.load(tmp_path)


def test_label_lines_fill_gaps() -> None:
    items = labelmap.parse("item { id: 4 name: 'd' } item { id: 2 name: 'b' }")
    assert labelmap.lines(items, 4) == ["???", "b", "???", "d"]


def numbered(*ids: int) -> list[labelmap.LabelItem]:
    return labelmap.parse("".join(f"item {{ id: {i} name: 'n{i}' }}" for i in ids))


COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO = [number for number in range(1, 91) if number not in COCO_GAPS]


@pytest.mark.parametrize(
    ("ids", "classes", "lines", "words"),
    [
        ((1, 2, 4), 4, ["n1", "n2", "???", "n4"], []),
        (
            (1, 2, 4),
            3,
            ["n1", "n2", "???"],
            ["never find 'n4' (id 4)", "Class 3 will be shown as ???", "1 to 3 without a gap"],
        ),
        ((1, 2, 3), 2, ["n1", "n2"], ["has 2 classes, so it can never find 'n3' (id 3)"]),
        ((1, 2), 1, ["n1"], ["has 1 class, so", "'n2' (id 2)"]),
        ((1, 2, 3), 4, ["n1", "n2", "n3", "???"], ["highest id is 3: class 4 will be shown"]),
        ((1,), 2, ["n1", "???"], ["class 2 will be shown"]),
        (
            (1, 2, 3, 4, 5),
            8,
            ["n1", "n2", "n3", "n4", "n5", "???", "???", "???"],
            ["classes 6, 7 and 8 will be shown"],
        ),
    ],
)
def test_a_map_that_nearly_fits(
    ids: tuple[int, ...], classes: int, lines: list[str], words: list[str]
) -> None:
    """Both a class too many and num_classes too high train without complaint."""
    fit = labelmap.fit(numbered(*ids), classes)
    assert fit.lines == lines
    assert len(fit.warnings) == bool(words)
    for part in words:
        assert part in fit.warnings[0]


def test_coco_with_as_many_classes_as_names() -> None:
    """The names may all be right, or most of them wrong: the warning tells how to know."""
    fit = labelmap.fit(numbered(*COCO), 80)
    assert fit.lines[12] == "n13"
    (warning,) = fit.warnings
    assert "'n81' (id 81), 'n82' (id 82), 'n84' (id 84), 'n85' (id 85) and 5 more" in warning
    assert "the names are wrong" in warning


@pytest.mark.parametrize(
    ("ids", "classes", "edit"),
    [
        (COCO, 3, "take out the items with ids above 3"),
        ((1, 2, 3), 1, "take out the items with ids above 1"),
        ((1, 2, 3), 90, "item { id: 90 name: '???' }"),
        ((1,), 3, "item { id: 3 name: '???' }"),
        ((2, 4), 1, ""),
    ],
)
def test_another_models_map(ids: tuple[int, ...], classes: int, edit: str) -> None:
    with pytest.raises(StageError) as caught:
        labelmap.fit(numbered(*ids), classes, "map")
    assert caught.value.kind == "label-map"
    assert f"with ids up to {max(ids)}, but the model has {classes} class" in caught.value.message
    assert edit in caught.value.remedy
    assert bool(edit) is ("If it is this one" in caught.value.remedy)


def test_the_edit_that_a_refusal_names_is_enough() -> None:
    text = "item { id: 1 name: 'cat' }"
    with pytest.raises(StageError) as caught:
        labelmap.fit(labelmap.parse(text), 90)
    edited = text + caught.value.remedy.rpartition("add to its end: ")[2]
    fit = labelmap.fit(labelmap.parse(edited), 90)
    assert fit.lines == ["cat", *["???"] * 89]
    assert fit.warnings == ()


def quoted(text: str) -> str:
    octal = "".join(f"\\{byte:03o}" for byte in text.encode("utf-8"))
    return f'"{octal}"'


NAMES = st.text(
    st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20
)  # nothing that a strip or a line split could touch


@given(st.dictionaries(st.integers(1, 1000), NAMES, min_size=1, max_size=20))
def test_what_is_written_is_read(classes: dict[int, str]) -> None:
    text = "\n".join(f"item {{ name: {quoted(n)} id: {i} }}" for i, n in classes.items())
    items = labelmap.parse(text)
    assert {item.id: item.label for item in items} == classes
    lines = labelmap.lines(items, max(classes))
    assert {index + 1: line for index, line in enumerate(lines) if index + 1 in classes} == classes


@given(
    st.lists(
        st.sampled_from(
            [
                "item",
                "{",
                "}",
                "<",
                ">",
                "[",
                "]",
                ":",
                ",",
                "id",
                "name",
                "1",
                "0",
                "'a'",
                '"',
                "\n",
                "#",
                "\\",
                "keypoints",
                "é",
            ]
        ),
        max_size=40,
    )
)
def test_any_text_is_read_or_refused(parts: list[str]) -> None:
    try:
        items = labelmap.parse(" ".join(parts))
    except StageError as error:
        assert error.kind == "label-map"
    else:
        assert items
        assert all(item.id >= 1 and item.label for item in items)


def test_deep_nesting_is_no_recursion() -> None:
    depth = 100_000
    text = "item { id: 1 name: 'a' k " + "{ k " * depth + "{}" + "}" * depth + " }"
    assert pairs(text) == [(1, "a")]
