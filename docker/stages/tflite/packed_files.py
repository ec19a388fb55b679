"""Pack files behind a ``.tflite`` so that the bytes depend only on the content.

tflite-support appends a zip archive with the local time in every entry. Readers on devices (Task
Library, MediaPipe) open that archive directly from memory and need stored, not compressed, entries;
they ignore everything else in an entry, so it is fixed here.
"""

from __future__ import annotations

import io
import zipfile

from stages.tflite import flatbuffer, tflite_model

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip archive can hold
_UNIX, _MODE = 3, 0o600 << 16  # as in tflite-support's own entries


def pack(model: flatbuffer.Bytes, files: dict[str, bytes]) -> bytes:
    """Append an archive of ``files`` to ``model``, in the order of their names.

    Args:
        model: a FlatBuffer without anything behind it.
        files: content by name; empty: nothing is appended.
    """
    stream = io.BytesIO(bytes(model))
    if files:
        # Mode "a" on data that is not an archive starts one at its end, with offsets counted from
        # the start of the file: what readers that search from the end expect.
        with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED, allowZip64=False) as archive:
            for name in sorted(files):
                info = zipfile.ZipInfo(name, _EPOCH)
                info.create_system, info.external_attr = _UNIX, _MODE
                info.compress_type = zipfile.ZIP_STORED
                archive.writestr(info, files[name])
    return stream.getvalue()


def split(data: flatbuffer.Bytes) -> tuple[bytes, dict[str, bytes]]:
    """Split a ``.tflite`` file into its FlatBuffer and the files packed behind it.

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
    """Repack the same model and files with canonical archive entries.

    Raises:
        FlatError: the packed files cannot be read (a ValueError).
    """
    model, files = split(data)
    return pack(model, files)
