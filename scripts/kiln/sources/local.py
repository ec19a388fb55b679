"""Find and verify a local checkpoint: the right one of a training, complete, as pinned.

Everything that can be checked without TensorFlow is checked here, before an image is needed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiln.core import git_lfs
from kiln.core.errors import CheckpointError, DigestMismatchError, LabelMapError
from kiln.project.stagecode import stage_module
from kiln.recipes import pipeline_config
from kiln.recipes.contents import Contents
from kiln.recipes.pipeline_config import told_by_stages
from kiln.recipes.source import LocalSource
from kiln.sources import checkpoint_index
from kiln.sources.fetcher import Fetched, Fetcher, Options
from kiln.sources.pins import mismatch

CONFIG = "pipeline.config"
_INDEX = ".index"
_SHARD = re.compile(r"\.data-(\d{5})-of-(\d{5})")
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")

_REMEDY = (
    "Name the folder that a training wrote its ckpt-N.index and ckpt-N.data-… files to, or one "
    "of its checkpoints, such as training/ckpt-7."
)
_INCOMPLETE = "Copy all of its files again, or name another checkpoint of the training."


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Args:
        prefix: path without ``.index``.
        files: its files, sorted by name.
        others: number of other checkpoints beside it.
    """

    prefix: Path
    files: tuple[Path, ...]
    others: int


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turn failed access to a user's files into a :class:`CheckpointError`.

    Raises:
        CheckpointError: a path cannot be accessed (no permission, a name too long, a loop of
            links).
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or 'A file'} cannot be read: {error.strerror or error}.",
            "Check the path, who owns it and who may read it.",
        ) from None


class LocalFetcher(Fetcher[LocalSource]):
    """Fetches a :class:`~kiln.recipes.source.LocalSource`."""

    def at_hand(self) -> bool:
        """Whether there is a complete checkpoint."""
        try:
            self._checkpoint()
        except CheckpointError:
            return False
        return True

    @reading()
    def fetch(self, options: Options) -> Fetched:
        """Take the chosen checkpoint's files, in the zoo's layout.

        The training's other checkpoints are left out, and so is its state file, which names
        folders of the machine it was trained on.

        Raises:
            CheckpointError: there is no complete checkpoint, or no configuration.
            UnsupportedModelError: the configuration's model cannot be converted.
            LabelMapError: the label map is invalid, or has another number of classes.
            DigestMismatchError: a file is not the pinned one.
        """
        recipe, source = self.recipe, self.source
        config = None
        if source.pipeline_config is not None:
            config = find_config(recipe.resolve(source.pipeline_config))
            pipeline = pipeline_config.read(config)
            pipeline_config.check_size(pipeline, recipe.export.image_size)
            labels = recipe.resolve(recipe.labels.file or "")
            options.tell(recipe.name, check_labels(labels, pipeline.num_classes))
        checkpoint = self._checkpoint()
        if checkpoint.others and recipe.resolve(source.checkpoint).is_dir():
            options.tell(recipe.name, [chosen(checkpoint)])
        found = {path.name: path for path in checkpoint.files}
        if config is not None:
            found[CONFIG] = config
        digests = {name: self.store.add_file(readable(path)) for name, path in found.items()}
        stored = {name: self.store.path(digest) for name, digest in digests.items()}
        _check_pins(recipe.name, source, stored, found)
        files = {
            name if name == CONFIG else f"checkpoint/{name}": digest
            for name, digest in sorted(digests.items())
        }
        record = {
            "kind": source.kind,
            "checkpoint": checkpoint.prefix.name,
            "pinned": {item.path for item in source.files} >= set(found),
            "files": dict(files),
        }
        return Fetched(Contents(checkpoint=files), record)

    def _checkpoint(self) -> Checkpoint:
        place = self.recipe.resolve(self.source.checkpoint)
        return find(place, tf1=self.recipe.image == "modelmaker")


@reading()
def find(path: Path, *, tf1: bool = False) -> Checkpoint:
    """Find the checkpoint at ``path``: a prefix, or a folder that holds one or several.

    Of several, take the one that TensorFlow's state file names, in whatever folder, else the one
    with the highest number (:func:`stages.files.checkpoint_files.find_checkpoint`).

    Args:
        path: the folder or prefix.
        tf1: whether to accept a checkpoint of TensorFlow 1 (automl's).

    Raises:
        CheckpointError: there is none, it is incomplete, or it is something else; the message
            says what.
    """
    if path.is_dir():
        readable(path)
        _refuse_other_folders(path)
        try:
            with told_by_stages(f"{path}: "):
                prefix: Path = stage_module("files.checkpoint_files").find_checkpoint(path)
        except CheckpointError as error:  # its remedy is for archives
            raise CheckpointError(error.message, _INCOMPLETE) from None
    elif _with(path, _INDEX).is_file():
        prefix = path
    else:
        raise _no_prefix(path)
    if prefix.name == "variables" and (prefix.parent.parent / "saved_model.pb").is_file():
        raise _is_saved_model(prefix.parent.parent)
    if _with(prefix, ".meta").is_file() and not tf1:
        raise CheckpointError(
            f"{prefix} is a checkpoint of TensorFlow 1 (it has a .meta file).",
            "Only models of the TensorFlow 2 Object Detection API can be converted; train the "
            "model with it, or convert with TensorFlow 1's own tools.",
        )
    others = sum(1 for item in prefix.parent.glob(f"*{_INDEX}")) - 1
    return Checkpoint(prefix, whole(prefix), others)


def chosen(checkpoint: Checkpoint) -> str:
    """Describe which of several checkpoints was taken."""
    folder, name, others = checkpoint.prefix.parent, checkpoint.prefix.name, checkpoint.others
    left = f"{others} other{'' if others == 1 else 's'} in {folder}"
    return f"taking checkpoint {name}, and none of the {left}"


def find_config(path: Path) -> Path:
    """Find the ``pipeline.config`` at ``path``: a file, or a folder that holds one.

    Raises:
        CheckpointError: there is none, it is not readable, or is a Git LFS pointer.
    """
    config = path / CONFIG if path.is_dir() else path
    if not config.is_file():
        raise CheckpointError(
            f"There is no pipeline.config at {path}.",
            "Name the pipeline.config that the model was trained with; exported models have a "
            "copy of it beside their checkpoint.",
        )
    found = readable(config)
    git_lfs.refuse_pointer(found, CheckpointError, str(config))
    return found


@reading()
def check_labels(path: Path, num_classes: int | None) -> tuple[str, ...]:
    """Read a label map, and check it against the model's number of classes if that is known.

    Returns:
        What the user should know: how a file in another form was understood, and classes that
        label map and model do not have in common.

    Raises:
        LabelMapError: it does not exist, is not a label map, is another model's, or is a Git LFS
            pointer.
    """
    if not path.is_file():
        raise LabelMapError(
            f"There is no label map {path}.",
            "Name the label map (.pbtxt) that the model was trained with.",
        )
    git_lfs.refuse_pointer(path, LabelMapError)
    labelmap = stage_module("files.labelmap")
    with told_by_stages():
        read = labelmap.load(path, num_classes)
        fit = None if num_classes is None else labelmap.fit(read.items, num_classes, str(path))
    return tuple(text for text in (read.note, *(fit.warnings if fit else ())) if text)


def readable(path: Path) -> Path:
    """Return ``path`` with links resolved.

    Raises:
        CheckpointError: it is not readable.
    """
    wanted = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
    if not os.access(path, wanted):
        raise CheckpointError(f"{path} cannot be read.", "Check who owns it and who may read it.")
    return path.resolve()


def whole(prefix: Path, what: str = "checkpoint") -> tuple[Path, ...]:
    """List the files of a checkpoint: all of its shards, and its index.

    Args:
        prefix: path without ``.index``.
        what: what messages call it.

    Raises:
        CheckpointError: one is missing, empty, cut short, or a Git LFS pointer.
    """
    index = _with(prefix, _INDEX)
    shards: dict[str, Path] = {}
    for path in prefix.parent.iterdir():
        if path.name.startswith(prefix.name) and path.is_file():
            shards[path.name[len(prefix.name) :]] = path
    found = {name: match for name in shards if (match := _SHARD.fullmatch(name))}
    totals = {int(match[2]) for match in found.values()}
    total = max(totals, default=1)
    wanted = [f".data-{number:05}-of-{total:05}" for number in range(total)]
    missing = [name for name in wanted if name not in shards]
    for path in (index, *(shards[name] for name in sorted(found))):
        git_lfs.refuse_pointer(path, CheckpointError)
    if index.stat().st_size == 0:
        problem = f"{index.name} is empty"
    elif missing:
        problem = f"{prefix.name}{missing[0]} is missing"
    elif not checkpoint_index.is_table(index):
        problem = f"{index.name} is damaged or cut short (it does not end as an index does)"
    else:
        files = tuple(shards[name] for name in wanted)
        problem = _cut_short(files, checkpoint_index.least_sizes(index))
        if not problem:
            return (*files, index)
    raise CheckpointError(
        f"The {what} {prefix} is not complete: {problem}.",
        _INCOMPLETE if what == "checkpoint" else "Copy the whole folder again.",
    )


def _cut_short(files: Sequence[Path], least: Mapping[int, int]) -> str:
    """Describe the first data file that ends before what its index has in it; empty: none."""
    for number, path in enumerate(files):
        size, wanted = path.stat().st_size, least.get(number, 0)
        if size < wanted:
            return f"{path.name} is cut short: it has {size:,} bytes of at least {wanted:,}"
    return ""


def _check_pins(
    model: str, source: LocalSource, stored: Mapping[str, Path], found: Mapping[str, Path]
) -> None:
    for pinned in source.files:
        if pinned.path not in found:
            raise DigestMismatchError(
                f"The recipe of {model!r} pins {pinned.path}, which is not there: found "
                f"{', '.join(sorted(found))}.",
                _pin_remedy(),
            )
        # Check the stored copy: the user's file could change after the check.
        problem = mismatch(pinned, stored[pinned.path])
        if problem:
            raise DigestMismatchError(
                f"{found[pinned.path]} is not the file that the recipe of {model!r} pins: "
                f"{problem}.",
                _pin_remedy(),
            )


def _pin_remedy() -> str:
    return (
        "Restore the file; or, if the change is meant, run `kiln init --force` again, which pins "
        "what is there now."
    )


def _refuse_other_folders(folder: Path) -> None:
    """Refuse a folder without a checkpoint, naming what it holds instead.

    Raises:
        CheckpointError: the folder holds no checkpoint.
    """
    places = [place for place in (folder, folder / "checkpoint") if place.is_dir()]
    if any(path.is_file() for place in places for path in place.glob(f"*{_INDEX}")):
        return
    for place in (folder, folder / "saved_model"):
        if (place / "saved_model.pb").is_file():
            raise _is_saved_model(place)
    names = sorted(path.name for place in places for path in place.iterdir())
    kinds = {
        "frozen_inference_graph.pb": "a frozen graph of TensorFlow 1",
        ".h5": "weights in Keras' HDF5 format",
        ".keras": "a model in Keras' own format",
        ".tflite": "a model that is converted already",
        ".pb": "a frozen graph",
    }
    for ending, what in kinds.items():
        for name in names:
            if name.endswith(ending):
                raise CheckpointError(f"{folder} holds no checkpoint but {what}: {name}.", _REMEDY)
    if not names:
        raise CheckpointError(f"{folder} is empty: there is no checkpoint in it.", _REMEDY)
    some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    raise CheckpointError(
        f"There is no checkpoint in {folder} (no .index file; it holds {some}).", _REMEDY
    )


def _no_prefix(path: Path) -> CheckpointError:
    if path.is_file():
        if path.name.lower().endswith(_ARCHIVES):
            return CheckpointError(
                f"{path} is an archive, not a checkpoint.",
                "Unpack it and name the folder; or write a recipe with a source of kind "
                '"archive" (docs/recipes.md), which takes it as it is.',
            )
        return CheckpointError(f"{path} is a file, not a checkpoint.", _REMEDY)
    return CheckpointError(
        f"There is neither a folder nor a checkpoint {path} (no {path.name}.index).", _REMEDY
    )


def _is_saved_model(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{folder} is a SavedModel, not a checkpoint.",
        "Name the checkpoint it was exported from: exporter_main_v2.py keeps a copy in the folder "
        "'checkpoint' beside 'saved_model'. Where there is nothing but a SavedModel, exported for "
        "TFLite or by Model Maker, name it with --saved-model.",
    )


def _with(prefix: Path, ending: str) -> Path:
    return prefix.with_name(prefix.name + ending)
