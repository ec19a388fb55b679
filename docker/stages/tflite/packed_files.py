"""Packs files behind a ``.tflite`` so that the bytes depend on nothing but the content.

tflite-support appends a zip archive with the local time in every entry. Readers on devices (Task
Library, MediaPipe) open that archive straight from memory and want stored, not compressed,
entries; nothing else in an entry matters to them, so all of it is fixed here.
"""

from __future__ import annotations

import io
import zipfile

from stages.tflite import flatbuffer, tflite_model

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip archive can hold
_UNIX, _MODE = 3, 0o600 << 16  # what tflite-support's own entries carry


def pack(model: flatbuffer.Bytes, files: dict[str, bytes]) -> bytes:
    """``model`` followed by an archive of ``files``, in the order of their names.

    Args:
        model: a FlatBuffer without anything behind it.
        files: content by name; empty: nothing is appended.
    """
    stream = io.BytesIO(bytes(model))
    if files:
        # Mode "a" on data that is no archive starts one at its end, with offsets that count from
        # the start of the file: what readers that search from the end expect.
        with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED, allowZip64=False) as archive:
            for name in sorted(files):
                info = zipfile.ZipInfo(name, _EPOCH)
                info.create_system, info.external_attr = _UNIX, _MODE
                info.compress_type = zipfile.ZIP_STORED
                archive.writestr(info, files[name])
    return stream.getvalue()


def split(data: flatbuffer.Bytes) -> tuple[bytes, dict[str, bytes]]:
    """A ``.tflite`` file as its FlatBuffer and the files packed behind it.

    Raises:
        FlatError: the packed files cannot be read (a ValueError).
    """
    files = tflite_model.packed_files(data)
    if not files:
        return bytes(data), {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = min(info.header_offset for info in archive.infolist())
    return bytes(data[:start]), files


def canonical(data: flatbuffer.Bytes) -> bytes:
    """The same model and the same packed files, with archive entries that are always the same.

    Raises:
        FlatError: the packed files cannot be read (a ValueError).
    """
    model, files = split(data)
    return pack(model, files)
