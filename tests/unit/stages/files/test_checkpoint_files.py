"""stages.files.checkpoint_files: which checkpoint of a folder is meant, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.files.checkpoint_files import find_checkpoint
from stages.protocol.failures import StageError


def _write(folder: Path, *names: str, state: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    if state is not None:
        (folder / "checkpoint").write_text(f'model_checkpoint_path: "{state}"\n')


WHOLE = ("ckpt-0.index", "ckpt-0.data-00000-of-00001")


@pytest.mark.parametrize("where", ["checkpoint", "."])
def test_both_layouts(tmp_path: Path, where: str) -> None:
    _write(tmp_path / where, *WHOLE, state="ckpt-0")
    assert find_checkpoint(tmp_path) == tmp_path / where / "ckpt-0"


@pytest.mark.parametrize("state", ["/home/trainer/run/ckpt-3", "C:\\run\\ckpt-3", "ckpt-3"])
def test_the_state_file_s_folder_does_not_matter(tmp_path: Path, state: str) -> None:
    _write(tmp_path / "checkpoint", "ckpt-3.index", "ckpt-3.data-00000-of-00001", state=state)
    _write(tmp_path / "checkpoint", "ckpt-12.index", "ckpt-12.data-00000-of-00001")
    assert find_checkpoint(tmp_path).name == "ckpt-3"


@pytest.mark.parametrize("state", [None, "/elsewhere/ckpt-99"])
def test_without_a_usable_state_the_highest_number_wins(tmp_path: Path, state: str | None) -> None:
    _write(tmp_path / "checkpoint", *WHOLE, state=state)
    _write(tmp_path / "checkpoint", "ckpt-9.index", "ckpt-9.data-00000-of-00001")
    _write(tmp_path / "checkpoint", "ckpt-12.index", "ckpt-12.data-00000-of-00001")
    assert find_checkpoint(tmp_path).name == "ckpt-12"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no checkpoint"),
        (("ckpt-0.data-00000-of-00001",), "no checkpoint"),
        (("ckpt-0.index",), "ckpt-0.data-00000-of-00001 is missing"),
        (("ckpt-0.index", "ckpt-0.data-00000-of-00002"), "ckpt-0.data-00001-of-00002 is missing"),
        ((*WHOLE, "ckpt-0.data-00001-of-00002"), "different sets"),
    ],
)
def test_partial_checkpoints(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    _write(tmp_path / "checkpoint", *names, state="ckpt-0")
    with pytest.raises(StageError, match=message) as caught:
        find_checkpoint(tmp_path)
    assert caught.value.kind == "checkpoint"


def test_an_empty_index(tmp_path: Path) -> None:
    _write(tmp_path / "checkpoint", *WHOLE)
    (tmp_path / "checkpoint/ckpt-0.index").write_bytes(b"")
    with pytest.raises(StageError, match="empty"):
        find_checkpoint(tmp_path)
