"""What a released folder holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiln.core.listing import list_tree, printable


def test_files_and_oddities_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"x")
    (tmp_path / ".hidden").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "new\nline").write_bytes(b"x")
    (tmp_path / "back\\slash").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_bytes(b"x")
    found = list_tree(tmp_path)
    assert found.files == {
        ".hidden": tmp_path / ".hidden",
        "a/b/file": tmp_path / "a" / "b" / "file",
    }
    assert set(found.odd) == {
        "empty",
        "link",
        "dangling",
        "pipe",
        "new\nline",
        "back\\slash",
        "\udcff",
    }
    assert "empty folder" in found.odd["empty"]
    assert "symbolic link" in found.odd["link"]
    assert "neither" in found.odd["pipe"]
    assert "UTF-8" in found.odd["\udcff"]


def test_an_empty_root_is_no_oddity(tmp_path: Path) -> None:
    assert list_tree(tmp_path).odd == {}
    with pytest.raises(FileNotFoundError):
        list_tree(tmp_path / "nowhere")


def test_names_are_printed_without_control_characters() -> None:
    assert printable("grün/x y") == "grün/x y"
    assert printable("a\x1b[31m\udcff\n") == r"a\x1b[31m\udcff\n"
