"""Find and read a data set in COCO's layout, and match its categories with a label map.

The format is that of http://cocodataset.org/#format-data (object detection): ``images`` with
``id``, ``file_name``, ``height`` and ``width``; ``annotations`` with ``image_id``,
``category_id`` and ``bbox`` = [x, y, width, height] in pixels; ``categories`` with ``id`` and
``name``. Everything else in it is ignored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kiln.core import git_lfs
from kiln.core.digest import sha256_bytes
from kiln.core.errors import ImageSetError, LabelMapError
from kiln.core.untrusted import MalformedError, parse_json_object, read_named
from kiln.project import bounds

IMAGE_FOLDERS = ("val2017", "images")
ANNOTATION_FILES = ("annotations/instances_val2017.json", "instances.json")
#: Otherwise, the only file with this pattern, directly in the folder or in `annotations`.
ANNOTATION_PATTERN = "instances*.json"

#: Share of the images that may be missing or damaged. More means another data set or half a
#: download, and figures of the rest would be mistaken for those of the whole.
MOST_UNUSABLE = 0.05

_LONGEST_NAME = 80

_Value = TypeVar("_Value")
_Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """An image that the annotations name; sizes in pixels, those of the annotated boxes."""

    id: int
    file: str
    height: int
    width: int

    @property
    def name(self) -> str:
        """The file name that a stage sees: plain and unique, like COCO's own names."""
        return f"{self.id:012}{Path(self.file).suffix.lower()}"


@dataclass(frozen=True)
class Annotated:
    """One object; ``box`` is [x, y, width, height] in pixels, ``area`` in square pixels."""

    picture: int
    category: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool


@dataclass(frozen=True)
class DataSet:
    """The contents of an annotation file.

    Attributes:
        folder: where its images are.
        annotations: the file.
        sha256: the digest of that file.
        pictures: by file name.
        objects: in the file's order.
        categories: id to name.
        name: its own name, or its folder's; one printable line.
    """

    folder: Path
    annotations: Path
    sha256: str
    pictures: tuple[Picture, ...]
    objects: tuple[Annotated, ...]
    categories: Mapping[int, str]
    name: str

    def path(self, picture: Picture) -> Path:
        """Return where a picture's file should be."""
        return self.folder / picture.file


@dataclass(frozen=True)
class Matching:
    """Which class of a model corresponds to which category of a data set.

    Attributes:
        categories: class id (of the label map, from 1) to category id.
        unmeasured: names of the model that the data set lacks.
        unknown: names of the data set that the model lacks.
    """

    categories: Mapping[int, int]
    unmeasured: tuple[str, ...]
    unknown: tuple[str, ...]


def find(root: Path) -> tuple[Path, Path]:
    """Find the image folder and the annotation file of the data set in ``root``.

    Raises:
        ImageSetError: one of them is missing, or several files match; the message lists the names
            that were looked for.
    """
    if not root.is_dir():
        raise ImageSetError(
            f"There is no folder {root}.", "Name the folder that holds the data set with --coco."
        )
    folders = [root / name for name in IMAGE_FOLDERS]
    folder = next((path for path in folders if path.is_dir()), None)
    if folder is None:
        raise ImageSetError(
            f"{root} holds no images: there is neither of the folders "
            f"{' and '.join(IMAGE_FOLDERS)}.",
            "Unpack val2017.zip of COCO there, or put your images into a folder `images`.",
        )
    named = [root / name for name in ANNOTATION_FILES]
    found = next((path for path in named if path.is_file()), None)
    if found is not None:
        return folder, found
    others = sorted(
        path
        for place in (root, root / "annotations")
        for path in place.glob(ANNOTATION_PATTERN)
        if path.is_file()
    )
    if len(others) == 1:
        return folder, others[0]
    looked_for = f"{', '.join(ANNOTATION_FILES)}, a single {ANNOTATION_PATTERN}"
    if others:
        names = ", ".join(str(path.relative_to(root)) for path in others)
        raise ImageSetError(
            f"{root} holds several annotation files ({names}); looked for: {looked_for}.",
            f"Rename the one that belongs to {folder.name} to {ANNOTATION_FILES[1]}.",
        )
    raise ImageSetError(
        f"{root} holds no annotations; looked for: {looked_for} (there and in annotations/).",
        "Unpack annotations_trainval2017.zip of COCO there, or put your file there as "
        f"{ANNOTATION_FILES[1]}.",
    )


def read(root: Path) -> DataSet:
    """Read the data set in the folder ``root`` (:func:`find`), without its images.

    Raises:
        ImageSetError: see :func:`find`; or the annotations cannot be read, lack something, or
            contradict themselves.
    """
    folder, path = find(root)
    try:
        data = read_named(path, bounds.ANNOTATIONS.most)
        if git_lfs.is_pointer(data):
            raise git_lfs.refusal(ImageSetError, str(path))
        table = parse_json_object(data, size=bounds.ANNOTATIONS.most)
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror or error}") from error
    except MalformedError as error:
        raise _wrong(path, str(error)) from error
    try:
        pictures = [_picture(entry) for entry in _entries(table, "images")]
        categories = [_category(entry) for entry in _entries(table, "categories")]
        objects = tuple(_object(entry) for entry in _entries(table, "annotations"))
        _refuse_repeats("image id", (picture.id for picture in pictures))
        _refuse_repeats("image file", (picture.file for picture in pictures))
        _refuse_repeats("category id", (number for number, _ in categories))
        _refuse_repeats("category name", (folded(name) for _, name in categories))
        known = {picture.id for picture in pictures}, {number for number, _ in categories}
        for item in objects:
            if item.picture not in known[0] or item.category not in known[1]:
                raise ValueError(
                    f"an annotation names image {item.picture} and category {item.category}, "
                    "which are not both listed"
                )
    except ValueError as error:
        raise _wrong(path, str(error)) from None
    return DataSet(
        folder=folder,
        annotations=path,
        sha256=sha256_bytes(data),
        pictures=tuple(sorted(pictures, key=lambda picture: picture.file)),
        objects=objects,
        categories=dict(categories),
        name=_name(table) or _plain(root.resolve().name),
    )


def match(
    classes: Mapping[int, tuple[str, ...]],
    categories: Mapping[int, str],
    aliases: Mapping[str, str] | None = None,
) -> Matching:
    """Match a model's classes with a data set's categories by name.

    Never by id, since ids can agree by chance. Case does not matter, nor whether words are
    separated by spaces, ``_`` or ``-``.

    Args:
        classes: class id to its names, the preferred one first (a label map's ``display_name`` and
            ``name``).
        categories: category id to name.
        aliases: names of the model to names of the data set that go before equal names; all are
            known (:mod:`kiln.measure.aliases`).

    Raises:
        LabelMapError: they have no name in common.

    >>> match({1: ("Person",), 7: ("Tree",)}, {9: "person", 4: "traffic light"})
    Matching(categories={1: 9}, unmeasured=('Tree',), unknown=('traffic light',))
    >>> match({1: ("Person",), 7: ("Mouse",)}, {9: "person", 4: "rodent"}, {"mouse": "rodent"})
    Matching(categories={1: 9, 7: 4}, unmeasured=(), unknown=())
    """
    by_name = {folded(name): number for number, name in categories.items()}
    said = {folded(name): by_name[folded(other)] for name, other in (aliases or {}).items()}
    # What an alias names is no longer matched by an equal name, on either side.
    equal = {name: number for name, number in by_name.items() if number not in said.values()}
    matched = {}
    for class_id, names in classes.items():
        forms = [folded(name) for name in names]
        for known in (said, equal):
            category = next((known[form] for form in forms if form in known), None)
            if category is not None:
                matched[class_id] = category
                break
    if not matched:
        raise LabelMapError(
            "The model and the data set have no class in common: the model knows "
            f"{some(names[0] for names in classes.values())}, the data set "
            f"{some(categories.values())}.",
            "Use the data set that the model was made for; classes are matched by their names. "
            "For a class with two names there is --alias.",
        )
    return Matching(
        matched,
        tuple(names[0] for number, names in classes.items() if number not in matched),
        tuple(n for number, n in categories.items() if number not in matched.values()),
    )


def chunks(items: tuple[_Value, ...], size: int) -> list[tuple[_Value, ...]]:
    """Split ``items`` in order, ``size`` at a time; the last chunk may be shorter.

    >>> chunks((1, 2, 3, 4, 5), 2)
    [(1, 2), (3, 4), (5,)]
    """
    return [items[start : start + size] for start in range(0, len(items), size)]


def _name(table: _Entry) -> str:
    info = table.get("info")
    said = info.get("description") if isinstance(info, dict) else None
    return _plain(said) if isinstance(said, str) else ""


def _plain(text: str) -> str:
    """Make ``text`` one printable line of limited length.

    >>> _plain(" COCO 2017\\n Dataset ")
    'COCO 2017 Dataset'
    """
    line = " ".join(text.split())
    return "".join(char for char in line if char.isprintable())[:_LONGEST_NAME].rstrip()


def check_usable(unusable: Mapping[str, str], all_pictures: int, folder: Path) -> str:
    """Return a warning about missing or damaged images; empty where there are none.

    Args:
        unusable: file name to what is wrong with it.
        all_pictures: how many were examined.
        folder: where they are.

    Raises:
        ImageSetError: more than :data:`MOST_UNUSABLE` of them, or all.
    """
    if not unusable:
        return ""
    what = f"{len(unusable)} of {all_pictures} annotated images in {folder} cannot be used: "
    what += some(f"{name} ({why})" for name, why in sorted(unusable.items()))
    if len(unusable) > MOST_UNUSABLE * all_pictures:
        raise ImageSetError(
            f"{what}.",
            "Complete the data set; for a part of it, use annotations that name only that part.",
        )
    return f"{what}; the measurement leaves them out."


def _entries(table: Mapping[str, Any], key: str) -> list[_Entry]:
    found = table.get(key)
    if not isinstance(found, list) or not found:
        raise ValueError(f"{key!r} is not a list with entries")
    for number, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise ValueError(f"{key}[{number}] is not an object")
    return found


def _whole(entry: _Entry, key: str, least: int | None = None) -> int:
    value = entry.get(key)
    if type(value) is not int or (least is not None and value < least):
        raise ValueError(f"{key!r} is not a whole number{_from(least)} in {_shown(entry)}")
    return value


def _text(entry: _Entry, key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key!r} is not a text in {_shown(entry)}")
    return value


def _picture(entry: _Entry) -> Picture:
    file = _text(entry, "file_name")
    if Path(file).is_absolute() or ".." in Path(file).parts or "\0" in file:
        raise ValueError(f"'file_name' leaves the image folder in {_shown(entry)}")
    return Picture(
        _whole(entry, "id", 0), file, _whole(entry, "height", 1), _whole(entry, "width", 1)
    )


def _category(entry: _Entry) -> tuple[int, str]:
    return _whole(entry, "id"), _text(entry, "name")


def _object(entry: _Entry) -> Annotated:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_size, box)):
        raise ValueError(f"'bbox' is not four numbers in {_shown(entry)}")
    x, y, width, height = map(float, box)
    area = entry.get("area", width * height)
    if not _is_size(area):
        raise ValueError(f"'area' is not a number in {_shown(entry)}")
    return Annotated(
        _whole(entry, "image_id"),
        _whole(entry, "category_id"),
        (x, y, width, height),
        float(area),
        bool(entry.get("iscrowd", 0)),
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refuse_repeats(what: str, values: Iterable[int | str]) -> None:
    seen: set[int | str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"the {what} {value!r} is listed twice")
        seen.add(value)


def folded(name: str) -> str:
    """Return the form of a class's name that is compared."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def some(names: Iterable[str], most: int = 5) -> str:
    """List the first names, and count the others."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _from(least: int | None) -> str:
    return "" if least is None else f" from {least}"


def _shown(entry: _Entry) -> str:
    kept = {key: value for key, value in entry.items() if key != "segmentation"}
    text = json.dumps(kept, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _wrong(path: Path, reason: str) -> ImageSetError:
    return ImageSetError(
        f"{path}: {reason}.", "Provide an annotation file in COCO's object detection format."
    )
