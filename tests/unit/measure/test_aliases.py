"""Classes that a data set has under another name."""

from __future__ import annotations

import pytest

from kiln.core.errors import UsageError
from kiln.measure import aliases, coco

CLASSES = {
    1: ("Computer mouse", "/m/020lf"),
    2: ("Mouse", "/m/04rmv"),
    3: ("Tree", "/m/07j7r"),
}
CATEGORIES = {10: "mouse", 20: "potted plant"}


def test_an_alias_goes_before_an_equal_name() -> None:
    """The data set's mouse is the computer's, and the animal is none of its classes."""
    assert coco.match(CLASSES, CATEGORIES).categories == {2: 10}
    found = coco.match(CLASSES, CATEGORIES, aliases.parse(["computer_mouse = Mouse"]))
    assert found.categories == {1: 10}
    assert found.unmeasured == ("Mouse", "Tree")
    assert found.unknown == ("potted plant",)


def test_a_class_with_an_alias_is_not_also_matched_by_its_name() -> None:
    found = coco.match(CLASSES, CATEGORIES, {"Mouse": "potted plant", "/m/020lf": "mouse"})
    assert found.categories == {2: 20, 1: 10}


def test_an_alias_is_enough_in_common() -> None:
    found = coco.match({3: ("Tree",)}, CATEGORIES, {"Tree": "potted plant"})
    assert found.categories == {3: 20}


@pytest.mark.parametrize("text", ["mouse", "=mouse", "Computer mouse=", " = ", ""])
def test_not_two_names(text: str) -> None:
    with pytest.raises(UsageError, match="does not name two classes") as caught:
        aliases.parse([text])
    assert "NAME IN THE MODEL=NAME IN THE DATA SET" in caught.value.remedy


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["Mouse=cat", "mouse=dog"], "'mouse' of the model twice"),
        (["Tree=cat", "Mouse=Cat"], "'Cat' of the data set twice"),
        (["Tree=cat", "Tree=cat"], "'Tree' of the model twice"),
    ],
)
def test_one_class_twice(given: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        aliases.parse(given)


def test_two_names_of_one_class() -> None:
    given = aliases.parse(["Computer mouse=mouse", "/m/020lf=potted plant"])
    with pytest.raises(UsageError, match="'Computer mouse' or '/m/020lf' of the model twice"):
        aliases.check_classes(given, CLASSES, "toy")
    aliases.check_classes(aliases.parse(["Computer mouse=mouse"]), CLASSES, "toy")


def test_unknown_names_and_those_near() -> None:
    with pytest.raises(UsageError, match="'toy' has no class 'Computer mose'") as caught:
        aliases.check_classes({"Computer mose": "mouse"}, CLASSES, "toy")
    assert "Did you mean 'Computer mouse'" in caught.value.remedy
    with pytest.raises(UsageError, match="the data set has no class 'pottedplant'") as caught:
        aliases.check_categories({"Tree": "pottedplant"}, CATEGORIES.values())
    assert "Did you mean 'potted plant'?" in caught.value.remedy
    with pytest.raises(UsageError) as caught:
        aliases.check_categories({"Tree": "zebra"}, CATEGORIES.values())
    assert "Its classes are mouse, potted plant." in caught.value.remedy
