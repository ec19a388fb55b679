"""What Git leaves in place of a file without Git LFS is told from the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_folder import LFS_POINTER

from kiln.core import git_lfs
from kiln.core.archive import unpack
from kiln.core.errors import ArchiveError, LabelMapError, UnsupportedModelError
from kiln.tflite import reading

HASH = "4d7a" * 16


@pytest.mark.parametrize(
    "text",
    [
        LFS_POINTER,
        LFS_POINTER.replace("\n", "\r\n"),
        f"version https://hawser.example.org/spec/v1\noid sha256:{HASH}\nsize 0\n",
        f"version http://x.example.org/v/2\next-0-foo sha256:{HASH}\noid sha256:{HASH}\nsize 1\n",
    ],
)
def test_pointers(text: str, tmp_path: Path) -> None:
    assert git_lfs.is_pointer(text.encode())
    path = tmp_path / "labels.pbtxt"
    path.write_text(text, newline="")
    with pytest.raises(LabelMapError, match=r"labels\.pbtxt is a Git LFS pointer, not") as caught:
        git_lfs.refuse_pointer(path, LabelMapError)
    assert "git lfs pull" in caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version 1\n",
        "version https://git-lfs.example.org/spec/v1\n",
        f"version https://x.example.org\noid sha256:{HASH[:-1]}\nsize 1\n",
        f"version https://x.example.org\noid sha256:{HASH}\n",
        f"# notes\n{LFS_POINTER}",
        f"{LFS_POINTER}item {{ id: 1 }}",
        LFS_POINTER + " " * git_lfs.MAX_BYTES,
    ],
)
def test_other_files(text: str, tmp_path: Path) -> None:
    path = tmp_path / "any"
    path.write_text(text)
    git_lfs.refuse_pointer(path, LabelMapError)


def test_a_pointer_for_a_tflite_file(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_text(LFS_POINTER)
    with pytest.raises(UnsupportedModelError, match=r"model\.tflite is a Git LFS pointer"):
        reading.load(path)


def test_a_pointer_for_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_text(LFS_POINTER)
    with pytest.raises(ArchiveError, match=r"model\.tar\.gz is a Git LFS pointer"):
        unpack(path, tmp_path / "out")
