"""What people give as a label map: a plain list of names is taken, other files are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.files import labelmap
from stages.protocol.failures import StageError


def load(folder: Path, text: str | bytes, classes: int | None) -> labelmap.LabelMap:
    path = folder / "names.txt"
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return labelmap.load(path, classes)


@pytest.mark.parametrize(
    ("text", "classes", "expected", "note"),
    [
        ("cat\ntraffic light\n", 2, {1: "cat", 2: "traffic light"}, "classes 1 to 2"),
        ("cat\r\nking's ship\r\n\r\n", 2, {1: "cat", 2: "king's ship"}, "classes 1 to 2"),
        ("\ufeffMöwe\nBoot", None, {1: "Möwe", 2: "Boot"}, "classes 1 to 2"),
        ("0\n1\n2\n", 3, {1: "0", 2: "1", 3: "2"}, "classes 1 to 3"),
        # Label files of older TFLite models have a line for the background.
        ("???\ncat\n???\ndog\n", 3, {1: "cat", 3: "dog"}, "without its first line '???'"),
        ("Background\ncat\n", 1, {1: "cat"}, "1 to 1, without its first line 'Background'"),
        ("background\ncat\n", None, {1: "cat"}, "without its first line"),
        ("???\ncat\n", None, {1: "cat"}, "without its first line"),
        # A label file of this project, of a model whose first class has no name.
        ("???\ncat\n", 2, {2: "cat"}, "classes 1 to 2"),
        ("cat\n???\n???\n???\n", 4, {1: "cat"}, "classes 1 to 4"),
    ],
)
def test_a_plain_list_is_taken(
    tmp_path: Path, text: str, classes: int | None, expected: dict[int, str], note: str
) -> None:
    found = load(tmp_path, text, classes)
    assert {item.id: item.label for item in found.items if item.label != "???"} == expected
    assert note in found.note
    if classes is not None:
        fit = labelmap.fit(found.items, classes)
        assert fit.warnings == ()
        named = {number: name for number, name in enumerate(fit.lines, 1) if name != "???"}
        assert named == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"1": "cat", "2": "dog"}', "is JSON"),
        ('[{"id": 1, "name": "cat"}]', "is JSON"),
        ("{1: {'id': 1, 'name': 'cat'}, 2: {'id': 2, 'name': 'dog'}}", "a Python dictionary"),
        ("[{'id': 1, 'name': 'cat'}]", "a Python dictionary or list, printed"),
        ("name,id\ncat,1\ndog,2\n", "a table of values between commas"),
        ("cat,dog", "a table of values between commas"),
        ("1;cat\n2;dog\n", "a table of values between semicolons"),
        ("cat\t1\ndog\t2\n", "a table of values between tabs"),
        ("0 cat\n1 dog\n", "numbered names ('0 cat')"),
        ("1: cat\n2: dog\n", "numbered names ('1: cat')"),
        ("# classes\nnc: 2\nnames: [cat, dog]\n", "is YAML"),
        ("- cat\n- dog\n", "is YAML"),
        ("<annotation><object/></annotation>", "is XML or HTML"),
        ("# of a run\nmodel {\n  ssd { num_classes: 2 }\n}\n", "is a pipeline.config"),
        ("'id': 1\n'name': 'cat'\n", "line 1 is neither"),
        ("Item {\n id: 1\n}\n", "line 1 is neither 'item {'"),
        ("cat\n\ndog\n", "line 2 is empty"),
        ("cat\n" + "very " * 50 + "\n", "line 2 is neither"),
        ("cat\nd\0g\n", "line 2 is neither"),
        ("cat\n", "a plain list with 1 lines, but the number of the model's classes is 2"),
        ("cat\ndog\nbird\n", "a plain list with 3 lines"),
        ("background\ncat\n", "which line is class 1 is not certain"),
        ("???\n???\n", "names no class"),
        ("cat\ndog\n".encode("utf-16"), "line 1: in UTF-16"),
        ("cat\nMöwe\n".encode("latin-1"), "line 2: not a text file in UTF-8"),
    ],
)
def test_other_files_are_named(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(StageError) as caught:
        load(tmp_path, text, 2)
    assert caught.value.kind == "label-map"
    assert caught.value.message.startswith("names.txt")
    assert words in caught.value.message
    assert caught.value.remedy


def test_a_label_map_is_no_list_whatever_stands_before_it(tmp_path: Path) -> None:
    found = load(tmp_path, "# cat\n\nitem {\n id: 1 name: 'cat'\n}\n", 1)
    assert (found.note, found.items[0].label) == ("", "cat")
    with pytest.raises(StageError, match=r"line 1: expected 'item \{'"):
        load(tmp_path, "cat\nitem { id: 1 name: 'cat' }\n", 1)


def test_long_texts_are_refused(tmp_path: Path) -> None:
    """Nothing but a refusal may come of what is no list of names."""
    for text in ("{" * 200_000, "[" * 200_000, "<" * 200_000, "'" * 200_000, "item " * 50_000):
        with pytest.raises(StageError):
            load(tmp_path, text, 1)
