"""Find the pictures of a folder, and see without a decoder that they are whole.

The stages decode them with Pillow. What is checked here is their structure, so that a file that
was cut short by a download is named before minutes of work, not after.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from kiln.core import git_lfs
from kiln.core.errors import ImageSetError

#: Decoded by Pillow inside the images; other files in a folder (licences) are ignored.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})

#: Pictures of other kinds, which people take for usable.
_OTHER_KINDS = frozenset(
    {".avif", ".cr2", ".dng", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".nef", ".ppm"}
    | {".raw", ".svg", ".tga", ".tif", ".tiff"}
)

_MOST_ENTRIES = 20_000  # looked at below a folder, to count what is passed over
_MAX_BYTES = 256 << 20  # of a JPEG that is read as a whole
_JPEG_END = b"\xff\xd9"
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_JPEG_SCAN = 0xDA
_JPEG_MARKER = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")  # none that is part of a scan
_PNG_SLACK = 16  # bytes at the end of its data that decoders may not miss
_UNCOMPRESSED = 0  # of a BMP

_KINDS = "PNG, JPEG, BMP or WebP"
_NAME_A_FOLDER = f"Name a folder with {_KINDS} photos like those that the model will see."


def pictures(folder: Path) -> list[Path]:
    """Return the pictures directly in a folder, by name; hidden files are ignored.

    Raises:
        ImageSetError: it cannot be read.
    """
    with _reading(folder):
        found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        # macOS leaves a hidden "._photo.jpg" beside each photo on other file systems.
        return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def examine(folder: Path) -> list[str]:
    """Look at the pictures of a folder; return notes on others in it, which are not taken.

    Raises:
        ImageSetError: there are none, or one is damaged.
    """
    found = pictures(folder) if folder.is_dir() else []
    if not found:
        raise none_in(folder)
    for path in found:
        refuse_damaged(path)
    left = passed_over(folder)
    return [f"of {folder}, {left} are not taken"] if left else []


def passed_over(folder: Path) -> str:
    """Describe the pictures that :func:`pictures` leaves out; empty: there are none.

    Raises:
        ImageSetError: the folder cannot be read.
    """
    parts = []
    inside, more = _in_sub_folders(folder)
    if inside:
        least = "more than " if more else ""
        parts.append(f"{least}{inside:,} image{_s(inside)} in sub-folders")
    with _reading(folder):
        endings = [path.suffix.lower() for path in folder.iterdir()]
    kinds = Counter(ending for ending in endings if ending in _OTHER_KINDS)
    parts += [f"{count:,} {kind} file{_s(count)}" for kind, count in sorted(kinds.items())]
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def none_in(folder: Path) -> ImageSetError:
    """Return the error for a folder without pictures. It counts what was passed over."""
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.is_file() else "does not exist"
        return ImageSetError(f"The image folder {folder} {what}.", _NAME_A_FOLDER)
    found = passed_over(folder)
    if not found:
        return ImageSetError(f"There are no images in {folder}.", _NAME_A_FOLDER)
    return ImageSetError(
        f"There are no images in {folder} that can be used; it holds {found}.",
        "Sub-folders are not looked into: name one of them, or copy the images into one folder. "
        f"Images of other kinds have to be converted; {_KINDS} are taken.",
    )


def refuse_damaged(path: Path) -> None:
    """Refuse a file that is certainly not a whole picture.

    Raises:
        ImageSetError: it is empty, cut short, not a picture, or cannot be read.
    """
    with _reading(path), path.open("rb") as file:
        head = file.read(git_lfs.MAX_BYTES + 1)
        if git_lfs.is_pointer(head):
            raise git_lfs.refusal(ImageSetError, f"The image {path}")
        size = file.seek(0, os.SEEK_END)
        try:
            fault = _fault(file, head, size)
        except struct.error:  # the file ends inside a number
            fault = "it is cut short"
    if fault:
        raise ImageSetError(
            f"The image {path} cannot be used: {fault}.",
            "Copy or download it again, or take it out of the folder.",
        )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ImageSetError(
            f"{path} cannot be read: {error.strerror or error}.",
            "Check who owns it and who may read it.",
        ) from None


def _fault(file: BinaryIO, head: bytes, size: int) -> str:
    """Describe what is wrong with a picture; empty: nothing that its structure shows."""
    if not size:
        return "it is empty"
    whole: Callable[[BinaryIO, int], bool]
    if head.startswith(b"\xff\xd8"):
        whole = _jpeg_is_whole
    elif head.startswith(b"\x89PNG\r\n\x1a\n"):
        whole = _png_is_whole
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        whole = _webp_is_whole
    elif head.startswith(b"BM"):
        whole = _bmp_is_whole
    elif head.startswith((b"GIF8", b"II*\0", b"MM\0*")):
        return ""  # under another kind's name; Pillow goes by content
    elif head[4:8] == b"ftyp":
        return f"it is HEIC or AVIF under another name; convert it to one of {_KINDS}"
    elif head.lstrip()[:1] == b"<":
        return "it is a web page or another text, not an image"
    else:
        return f"it is not {_KINDS}"
    return "" if whole(file, size) else "it is cut short"


def _jpeg_is_whole(file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - 2))
    if file.read(2) == _JPEG_END:
        return True
    if size > _MAX_BYTES:
        return True
    # Cameras write more behind the end. A preview in front has an end of its own.
    file.seek(0)
    data = file.read()
    at = 2
    while at + 2 <= size:
        if data[at] != 0xFF:
            return True  # not as the standard has it: for the decoder to judge
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker == _JPEG_END[1]:
            return True
        elif marker in _JPEG_ALONE:
            at += 2
        else:
            (length,) = struct.unpack_from(">H", data, at + 2)
            at += 2 + length
            if marker == _JPEG_SCAN:
                found = _JPEG_MARKER.search(data, at)
                if found is None:
                    return False
                at = found.end() - 2
    return False


def _png_is_whole(file: BinaryIO, size: int) -> bool:
    at, data = 8, False
    while at + 8 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IEND":
            return True
        if at + 8 + length - _PNG_SLACK > size:
            return False
        data |= kind == b"IDAT"
        at += 12 + length
    return data  # where only its end is missing, decoders forgive that


def _webp_is_whole(file: BinaryIO, size: int) -> bool:
    file.seek(4)
    (length,) = struct.unpack("<I", file.read(4))
    return bool(8 + length <= size)


def _bmp_is_whole(file: BinaryIO, size: int) -> bool:
    file.seek(10)
    start, header, width, height, _, bits, compression = struct.unpack("<IIiiHHI", file.read(24))
    if header < 40 or compression != _UNCOMPRESSED:
        return True
    row = (width * bits + 31) // 32 * 4
    last = (width * bits + 7) // 8  # without padding
    return bool(start + row * (abs(height) - 1) + last <= size)


def _in_sub_folders(folder: Path) -> tuple[int, bool]:
    """Count the pictures below a folder's folders, and say whether the count was given up."""
    count = seen = 0
    for place, folders, files in os.walk(folder):
        seen += len(folders) + len(files)
        if place != str(folder):
            count += sum(Path(name).suffix.lower() in SUFFIXES for name in files)
        if seen > _MOST_ENTRIES:
            return count, True
    return count, False


def _s(count: int) -> str:
    return "" if count == 1 else "s"
