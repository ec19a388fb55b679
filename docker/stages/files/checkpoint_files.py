"""Find a TensorFlow 2 checkpoint in a folder by its files.

The ``checkpoint`` state file beside a checkpoint often names a folder of the machine it was trained
on, so only the last part of that path is used. TensorFlow is not needed here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional

from stages.protocol.failures import StageError

_STATE = re.compile(r'^\s*model_checkpoint_path:\s*"(?P<path>[^"]*)"', re.MULTILINE)
_SHARD = re.compile(r"\.data-(?P<number>\d{5})-of-(?P<total>\d{5})\Z")
_NUMBERED = re.compile(r"\d+")


def find_checkpoint(model_folder: Path) -> Path:
    """Return the prefix (path without ``.index``) of the checkpoint to use.

    It is in ``<model_folder>/checkpoint/`` (the zoo's layout) or in the folder itself. Of several
    checkpoints the state file's is used, else the one with the highest number.

    Raises:
        StageError: there is none, or one of its files is missing or empty.
    """
    inner = model_folder / "checkpoint"
    folder = inner if inner.is_dir() else model_folder
    prefixes = {path.name[: -len(".index")] for path in folder.glob("*.index") if path.is_file()}
    named = _state_names(folder)
    if named in prefixes:
        prefix = folder / str(named)
    elif prefixes:
        prefix = folder / max(sorted(prefixes), key=_numbers)
    else:
        raise StageError(
            "checkpoint",
            "There is no checkpoint in the model's folder"
            + (f" (its state file names {named!r}, which has no .index file)." if named else "."),
            "A model folder holds pipeline.config and checkpoint/ckpt-N.index with its"
            " ckpt-N.data-… files; unpack the archive again.",
        )
    _check_files(prefix)
    return prefix


def _state_names(folder: Path) -> Optional[str]:
    try:
        text = (folder / "checkpoint").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    match = _STATE.search(text)
    return re.split(r"[/\\]", match["path"])[-1] if match else None


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBERED.findall(name))


def _check_files(prefix: Path) -> None:
    shards = {}
    for path in prefix.parent.iterdir():
        match = _SHARD.search(path.name)
        if match and path.name[: match.start()] == prefix.name:
            shards[int(match["number"])] = (path, int(match["total"]))
    index = prefix.with_name(prefix.name + ".index")
    totals = {total for _, total in shards.values()}
    missing = ""
    if index.stat().st_size == 0:
        missing = f"{index.name} is empty"
    elif not shards:
        missing = f"{prefix.name}.data-00000-of-00001 is missing"
    elif len(totals) > 1:
        missing = f"{prefix.name} has .data files of different sets"
    else:
        total = totals.pop()
        absent = sorted(set(range(total)) - set(shards))
        if absent:
            missing = f"{prefix.name}.data-{absent[0]:05}-of-{total:05} is missing"
    if missing:
        raise StageError(
            "checkpoint",
            f"The checkpoint is not complete: {missing}.",
            "Unpack or download the model's archive again.",
        )
