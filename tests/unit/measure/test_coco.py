"""A data set in COCO's layout: found where it may be, refused where it is not one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_folder import LFS_POINTER

from kiln.core.errors import ImageSetError, LabelMapError
from kiln.measure import coco
from kiln.measure.coco import Annotated, Picture

TABLE: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "b.jpg", "height": 20, "width": 30},
        {"id": 3, "file_name": "a.PNG", "height": 10, "width": 10},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 3.5, 4], "iscrowd": 1},
        {"id": 2, "image_id": 3, "category_id": 4, "bbox": [0, 0, 5, 5], "area": 20.5},
    ],
    "categories": [{"id": 90, "name": "tooth brush"}, {"id": 4, "name": "Cat"}],
}


def data_set(root: Path, file: str = "instances.json", table: Any = TABLE) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(json.dumps(table))
    return root


def test_what_the_annotations_say(tmp_path: Path) -> None:
    found = coco.read(data_set(tmp_path))
    assert found.pictures == (Picture(3, "a.PNG", 10, 10), Picture(7, "b.jpg", 20, 30))
    assert [picture.name for picture in found.pictures] == ["000000000003.png", "000000000007.jpg"]
    assert found.objects == (
        Annotated(7, 90, (1, 2, 3.5, 4), 14.0, True),
        Annotated(3, 4, (0, 0, 5, 5), 20.5, False),
    )
    assert found.categories == {90: "tooth brush", 4: "Cat"}
    assert found.path(found.pictures[0]) == tmp_path / "images" / "a.PNG"


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("val2017", "annotations/instances_val2017.json"),
        ("images", "instances.json"),
        ("images", "annotations/instances_test.json"),
        ("val2017", "instances_mine.json"),
    ],
)
def test_layouts(tmp_path: Path, folder: str, file: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("{}")
    assert coco.find(tmp_path) == (tmp_path / folder, tmp_path / file)


def test_the_validation_set_s_file_among_others(tmp_path: Path) -> None:
    """annotations_trainval2017.zip brings both."""
    data_set(tmp_path, "annotations/instances_train2017.json")
    data_set(tmp_path, "annotations/instances_val2017.json")
    assert coco.find(tmp_path)[1].name == "instances_val2017.json"


def test_what_was_looked_for_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match="There is no folder") as caught:
        coco.find(tmp_path / "nowhere")
    assert "--coco" in caught.value.remedy
    with pytest.raises(ImageSetError, match="val2017 and images"):
        coco.find(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(ImageSetError, match=r"instances_val2017\.json, instances\.json, a single"):
        coco.find(tmp_path)
    for name in ("instances_a.json", "instances_b.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ImageSetError, match=r"several .*instances_a\.json, instances_b\.json"):
        coco.find(tmp_path)


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("images"), "'images' is not a list"),
        (lambda t: t.update(annotations=[]), "'annotations' is not a list with entries"),
        (lambda t: t["images"].append(3), r"images\[2\] is not an object"),
        (lambda t: t["images"][0].update(id="7"), "'id' is not a whole number"),
        (lambda t: t["images"][0].update(id=True), "'id' is not a whole number"),
        (lambda t: t["images"][0].update(height=0), "'height' is not a whole number from 1"),
        (lambda t: t["images"][0].update(file_name="../x.jpg"), "leaves the image folder"),
        (lambda t: t["images"][0].update(file_name="/x.jpg"), "leaves the image folder"),
        (lambda t: t["images"][0].update(id=3), "the image id 3 is listed twice"),
        (lambda t: t["images"][0].update(file_name="a.PNG"), "'a.PNG' is listed twice"),
        (lambda t: t["annotations"][0].update(bbox=[1, 2, 3]), "'bbox' is not four numbers"),
        (lambda t: t["annotations"][0].update(bbox=[1, 2, 3, "4"]), "'bbox'"),
        (
            lambda t: t["annotations"][0].update(bbox=[1, 2, 3, float("nan")]),
            "NaN, which is not a num",
        ),
        (lambda t: t["annotations"][0].update(area="big"), "'area' is not a number"),
        (lambda t: t["annotations"][0].update(image_id=8), "names image 8 and category 90"),
        (lambda t: t["annotations"][0].update(category_id=5), "names image 7 and category 5"),
        (lambda t: t["categories"][0].update(name="  "), "'name' is not a text"),
        (lambda t: t["categories"][0].update(name="CAT"), "category name 'cat' is listed twice"),
    ],
)
def test_annotations_that_cannot_be_right(tmp_path: Path, change: Change, words: str) -> None:
    table = json.loads(json.dumps(TABLE))
    change(table)
    with pytest.raises(ImageSetError, match=words) as caught:
        coco.read(data_set(tmp_path, table=table))
    assert "instances.json" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '"\ud800"'])
def test_no_json_object(tmp_path: Path, text: str) -> None:
    (data_set(tmp_path) / "instances.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ImageSetError, match=r": (is not a JSON|is not valid JSON|nests deeper)"):
        coco.read(tmp_path)


def test_a_pointer_for_the_annotations(tmp_path: Path) -> None:
    (data_set(tmp_path) / "instances.json").write_text(LFS_POINTER)
    with pytest.raises(ImageSetError, match=r"instances\.json is a Git LFS pointer"):
        coco.read(tmp_path)


def test_classes_are_matched_by_name_not_by_id() -> None:
    """Open Images' way of writing, ids that agree for other things, and a second name."""
    classes = {
        1: ("Cat",),
        2: ("Traffic_light", "/m/015qff"),
        3: ("Wheel",),
        4: ("Kitty", "cat"),
    }
    found = coco.match(classes, {1: "traffic light", 2: "cat", 3: "dog"})
    assert found.categories == {1: 2, 2: 1, 4: 2}
    assert found.unmeasured == ("Wheel",)
    assert found.unknown == ("dog",)


def test_nothing_in_common() -> None:
    with pytest.raises(LabelMapError, match=r"no class in common.* circle, .* cat") as caught:
        coco.match({1: ("circle",)}, {1: "cat"})
    assert "by their names" in caught.value.remedy


@given(st.lists(st.integers()), st.integers(1, 9))
def test_chunks_are_all_of_it_in_order(items: list[int], size: int) -> None:
    parts = coco.chunks(tuple(items), size)
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
    assert all(parts)


@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 9))
def test_more_images_leave_the_full_chunks_as_they_were(have: int, more: int, size: int) -> None:
    """So measuring more images does not begin anew."""
    whole = coco.chunks(tuple(range(have + more)), size)
    for number, part in enumerate(coco.chunks(tuple(range(have)), size)):
        assert part == whole[number] or len(part) < size


def test_a_few_unusable_images_are_a_warning_many_a_failure() -> None:
    assert coco.check_usable({}, 100, Path("d")) == ""
    told = coco.check_usable({f"{n}.jpg": "missing" for n in range(10)}, 200, Path("d"))
    assert "10 of 200" in told
    assert "0.jpg (missing)" in told
    assert "and 5 more" in told
    with pytest.raises(ImageSetError, match=r"11 of 200 .* 0\.jpg \(missing\)"):
        coco.check_usable({f"{n}.jpg": "missing" for n in range(11)}, 200, Path("d"))
    with pytest.raises(ImageSetError, match="1 of 1"):
        coco.check_usable({"a.jpg": "missing"}, 1, Path("d"))
