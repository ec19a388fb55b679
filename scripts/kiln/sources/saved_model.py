"""Find and verify a local SavedModel: a complete folder whose files match their pins.

Only files are handled here; the stage reads the graph
(``docker/stages/saved/saved_model_graph.py``).
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kiln.core import git_lfs
from kiln.core.errors import CheckpointError, DigestMismatchError
from kiln.recipes import pipeline_config
from kiln.recipes.contents import Contents
from kiln.recipes.recipe import Architecture
from kiln.recipes.source import SavedModelSource
from kiln.sources.fetcher import Fetched, Fetcher, Options
from kiln.sources.local import CONFIG, check_labels, find_config, readable, reading, whole
from kiln.sources.pins import mismatch

GRAPH = "saved_model.pb"
VARIABLES = "variables/variables"

#: Written by kiln's own export beside its graph (``docker/stages/steps/export.py``).
FACTS = "assets.extra/export.json"

#: Name of the placeholder for TFLite's detection operator; a CenterNet has none.
_POSTPROCESS = b"TFLite_Detection_PostProcess"

_REMEDY = (
    f"Name the folder that holds {GRAPH} and the folder 'variables', as "
    "export_tflite_graph_tf2.py or Model Maker's export wrote it."
)


@dataclass(frozen=True)
class SavedModel:
    """An exported SavedModel.

    Args:
        folder: holds ``saved_model.pb``.
        files: the files that TensorFlow reads: path inside -> file.
    """

    folder: Path
    files: Mapping[str, Path]

    @property
    def architecture(self) -> Architecture:
        """Its architecture as a recipe calls it, guessed from the bytes of its graph."""
        with self.files[GRAPH].open("rb") as file:
            if not self.files[GRAPH].stat().st_size:
                return "ssd"
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return "ssd" if data.find(_POSTPROCESS) >= 0 else "centernet"


@reading()
def find_saved_model(path: Path) -> SavedModel:
    """Find the SavedModel at ``path``: its folder, its ``saved_model.pb``, or the folder above.

    Only the files that TensorFlow reads are taken, and the facts that kiln's own export writes;
    other files, such as notes, do not influence the result.

    Raises:
        CheckpointError: there is none, it is incomplete or not readable, or one of its files is a
            Git LFS pointer, or a link that leads out of the folder.
    """
    folder = path.parent if path.name == GRAPH and path.is_file() else path
    if not (folder / GRAPH).is_file() and (folder / "saved_model" / GRAPH).is_file():
        folder = folder / "saved_model"
    if not (folder / GRAPH).is_file():
        raise _none(path)
    readable(folder)
    variables = folder / VARIABLES
    if not variables.with_name("variables.index").is_file():
        raise CheckpointError(
            f"The SavedModel {folder} is not complete: {VARIABLES}.index is missing.",
            "Copy the whole folder again; the weights are in its folder 'variables'.",
        )
    found = {GRAPH: folder / GRAPH}
    found |= {f"variables/{file.name}": file for file in whole(variables, "SavedModel")}
    assets = folder / "assets"
    if assets.is_dir():
        found |= {
            item.relative_to(folder).as_posix(): item
            for item in sorted(assets.rglob("*"))
            if item.is_file()
        }
    if (folder / FACTS).is_file():
        found[FACTS] = folder / FACTS
    _refuse_links_out(folder, found)
    for item in found.values():
        git_lfs.refuse_pointer(readable(item), CheckpointError, str(item))
    return SavedModel(folder, {name: readable(item) for name, item in sorted(found.items())})


def _refuse_links_out(folder: Path, files: Mapping[str, Path]) -> None:
    """Refuse links that lead out of a SavedModel's folder.

    Its graph can read every file in it. With such a link, an untrusted SavedModel could read any
    file of this machine.
    """
    root = folder.resolve()
    for path in files.values():
        if not path.resolve().is_relative_to(root):
            raise CheckpointError(
                f"{path} is a link that leads out of the SavedModel's folder, to {path.resolve()}.",
                "A graph can read its files, so only what is in the folder is taken. If you know "
                "what the link leads to, copy the folder together with it (cp -rL).",
            )


class SavedModelFetcher(Fetcher[SavedModelSource]):
    """Fetches a :class:`~kiln.recipes.source.SavedModelSource`."""

    def at_hand(self) -> bool:
        """Whether there is a complete SavedModel."""
        try:
            find_saved_model(self.recipe.resolve(self.source.path))
        except CheckpointError:
            return False
        return True

    @reading()
    def fetch(self, options: Options) -> Fetched:
        """Take the files of the SavedModel, and its configuration.

        Raises:
            CheckpointError: there is no complete SavedModel, or no configuration where one is
                named.
            UnsupportedModelError: the configuration's model cannot be converted.
            LabelMapError: the label map is invalid, or has another number of classes.
            DigestMismatchError: a file is not the pinned one.
        """
        recipe, source = self.recipe, self.source
        found = dict(find_saved_model(recipe.resolve(source.path)).files)
        if source.pipeline_config is not None:
            found[CONFIG] = find_config(recipe.resolve(source.pipeline_config))
            pipeline = pipeline_config.read(found[CONFIG])
            labels = recipe.resolve(recipe.labels.file or "")
            options.tell(recipe.name, check_labels(labels, pipeline.num_classes))
        files = {name: self.store.add_file(path) for name, path in sorted(found.items())}
        for pinned in source.files:
            # Check the stored copy: the user's file could change after the check.
            digest = files.get(pinned.path)
            problem = mismatch(pinned, self.store.path(digest)) if digest else "it is not there"
            if problem:
                raise DigestMismatchError(
                    f"{pinned.path} of the SavedModel is not the file that the recipe of "
                    f"{recipe.name!r} pins: {problem}.",
                    "Restore the file; or, if the change is meant, run `kiln init --force` again, "
                    "which pins what is there now.",
                )
        pinned_all = {item.path for item in source.files} >= set(files)
        config = files.pop(CONFIG, None)
        record = {
            "kind": source.kind,
            "pinned": pinned_all,
            "pipeline_config": config,
            "files": dict(files),
        }
        return Fetched(Contents(saved_model=files, config=config), record)


def _none(path: Path) -> CheckpointError:
    if not path.exists():
        return CheckpointError(f"There is no folder {path}.", _REMEDY)
    if not path.is_dir():
        return CheckpointError(f"{path} is a file, not the folder of a SavedModel.", _REMEDY)
    if (path / "saved_model.pbtxt").is_file():
        return CheckpointError(
            f"{path} holds a SavedModel as text (saved_model.pbtxt), which is for people to read.",
            _REMEDY,
        )
    indices = sorted(
        item.name for place in (path, path / "checkpoint") for item in place.glob("*.index")
    )
    if indices:
        return CheckpointError(
            f"{path} holds a checkpoint ({indices[-1]}), not a SavedModel.",
            "Name it with --checkpoint: a checkpoint is the better source.",
        )
    return CheckpointError(f"There is no SavedModel in {path} (no {GRAPH}).", _REMEDY)
