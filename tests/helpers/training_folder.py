"""What a training leaves in its folder."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from kiln.building.recipe_writer import Arguments, recipe_text
from kiln.recipes.recipe import Recipe, load

CONFIG = (
    "model { ssd { num_classes: 2 feature_extractor { type: 'ssd_mobilenet_v2_keras' } "
    "box_coder { faster_rcnn_box_coder { } } image_resizer { fixed_shape_resizer { } } } }\n"
)
LABELS = "item { id: 1 name: 'cat' }\nitem { id: 2 name: 'dog' }\n"
STATE = 'model_checkpoint_path: "{}"\nall_model_checkpoint_paths: "/gone/ckpt-1"\n'

#: What `git clone` leaves of a large file without Git LFS.
LFS_POINTER = (
    f"version https://git-lfs.example.org/spec/v1\noid sha256:{'4d7a' * 16}\nsize 12345678\n"
)


def photo(text: str = "photo") -> bytes:
    """A picture of one pixel (PNG); the text behind it makes it another file."""
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(b"\0" * 4),
    }
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in {**parts, b"IEND": b""}.items():
        crc = struct.pack(">I", zlib.crc32(kind + content))
        data += struct.pack(">I", len(content)) + kind + content + crc
    return data + text.encode()


def save(folder: Path, name: str, shards: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.index").write_bytes(index(name, shards))
    for number in range(shards):
        (folder / f"{name}.data-{number:05}-of-{shards:05}").write_text(f"{number} of {name}")


def index(name: str, shards: int = 1) -> bytes:
    """The index that :func:`save` writes: all of each data file is one variable."""
    return table({f"{name}/{n}": (n, 0, len(f"{n} of {name}")) for n in range(shards)})


def table(variables: dict[str, tuple[int, int, int]], blocks: int = 1, repeats: int = 1) -> bytes:
    """A sorted string table as TensorFlow writes it: variable -> data file, offset, size.

    With ``repeats``, which TensorFlow never writes, it names every block as often.
    """
    entries = [(b"", b"\x08\x01\x1a\x02\x08\x01")]
    for key, (shard, offset, size) in sorted(variables.items()):
        shape = b"\x12\x04\x12\x02\x08\x03"
        where = b"\x18" + _varint(shard) + b"\x20" + _varint(offset) + b"\x28" + _varint(size)
        entries.append((key.encode(), b"\x08\x01" + shape + where + b"\x35\0\0\0\0"))
    data, places = b"", []
    for number in range(blocks):
        part = entries[number * len(entries) // blocks : (number + 1) * len(entries) // blocks]
        places.append((part[-1][0], _varint(len(data)) + _varint(len(_block(part)))))
        data += _block(part) + b"\0" * 5  # no compression, no checksum
    footer = b""
    for part in ([], places * repeats):
        footer += _varint(len(data)) + _varint(len(_block(part)))
        data += _block(part) + b"\0" * 5
    return data + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def _block(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    data, before = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        data += _varint(shared) + _varint(len(key) - shared) + _varint(len(value))
        data += key[shared:] + value
        before = key
    return data + struct.pack("<II", 0, 1)


def _varint(number: int) -> bytes:
    data = b""
    while number > 0x7F:
        data += bytes([number & 0x7F | 0x80])
        number >>= 7
    return data + bytes([number])


def written(arguments: Arguments, path: Path) -> Recipe:
    """Write a recipe and read it back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(recipe_text(arguments), encoding="utf-8")
    return load(path)
