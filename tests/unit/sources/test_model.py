"""A recipe's label map and images, and what an archive holds, before any container starts."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image
from toy_project import add_recipe, make_project
from training_folder import CONFIG, LFS_POINTER

from kiln.core.errors import CheckpointError, KilnError, LabelMapError, UnsupportedModelError
from kiln.core.store import Store
from kiln.recipes.recipe import Recipe, load
from kiln.sources.fetcher import Options
from kiln.sources.model import acquire

FILES = {
    "pipeline.config": CONFIG,
    "checkpoint/ckpt-0.index": "index",
    "checkpoint/ckpt-0.data-00000-of-00001": "numbers",
    "model.tflite": "TFL3",
    "labels.pbtxt": "item { id: 1 name: 'cat' } item { id: 2 name: 'dog' }",
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def packed(tmp_path: Path) -> Callable[[Mapping[str, str], str], Recipe]:
    """A recipe of an archive with these files; its label map is beside it, or inside."""

    def make(files: Mapping[str, str], labels: str = "labels.pbtxt") -> Recipe:
        with zipfile.ZipFile(tmp_path / "toy.zip", "w") as file:
            for name, text in files.items():
                file.writestr(f"toy/{name}", text)
        project = make_project(tmp_path / "project")
        address = (tmp_path / "toy.zip").as_uri()
        path = add_recipe(project, "toy", address, variants='["float32", "prebuilt"]')
        text = path.read_text().replace("[labels]", 'prebuilt = "model.tflite"\n[labels]')
        if not labels:
            text = text.replace('file = "labels', 'in_source = "labels')
        path.write_text(f'{text}[calibration]\nimages = "photos"\n')
        (path.parent / "labels.pbtxt").write_text(labels)
        (path.parent / "photos").mkdir()
        Image.new("RGB", (8, 8)).save(path.parent / "photos" / "one.png")
        return load(path, project.models)

    return make


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("pipeline.config", CheckpointError),
        ("checkpoint/ckpt-0.index", CheckpointError),
        ("checkpoint/ckpt-0.data-00000-of-00001", CheckpointError),
        ("model.tflite", CheckpointError),
        ("labels.pbtxt", LabelMapError),
    ],
)
def test_an_archive_of_pointers(
    packed: Callable[..., Recipe], store: Store, name: str, error: type[KilnError]
) -> None:
    """Such as a forge packs of a repository whose large files are elsewhere."""
    recipe = packed({**FILES, name: LFS_POINTER}, labels="")
    with pytest.raises(error, match=r"in the archive of 'toy' is a Git LFS pointer") as caught:
        acquire(recipe, store)
    assert "git lfs pull" in caught.value.remedy


def test_pointers_that_nothing_needs(packed: Callable[..., Recipe], store: Store) -> None:
    acquire(packed({**FILES, "picture.png": LFS_POINTER}, labels=""), store)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("item { id: 1 name: 'cat' }", "class 2 will be shown as ???"),
        ("cat\ndog\n", "a plain list of names"),
    ],
)
def test_the_label_map_beside_an_archive(
    packed: Callable[..., Recipe], store: Store, labels: str, words: str
) -> None:
    notes: list[str] = []
    acquire(packed(FILES, labels), store, Options(on_note=notes.append))
    assert [note for note in notes if note.startswith("toy: ") and words in note]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("item { id: 9 name: 'cat' }", "ids up to 9, but the model has 2 classes"),
        ("cat\ndog\nemu\n", "a plain list with 3 lines"),
        ("item {", "line 1"),
        (LFS_POINTER, "Git LFS pointer"),
    ],
)
def test_a_label_map_that_does_not_fit_an_archive(
    packed: Callable[..., Recipe], store: Store, labels: str, words: str
) -> None:
    with pytest.raises(LabelMapError, match=f"toy: .*{words}"):
        acquire(packed(FILES, labels), store)


@pytest.mark.parametrize(
    ("extractor", "fits"),
    [("ssd_mobilenet_v2_keras", True), ("ssd_resnet50_v1_fpn_keras", False)],
)
def test_an_int8_input_that_the_archive_s_model_cannot_have(
    packed: Callable[..., Recipe], store: Store, extractor: str, fits: bool
) -> None:
    config = CONFIG.replace("ssd_mobilenet_v2_keras", extractor)
    recipe = packed({**FILES, "pipeline.config": config}, labels="")
    acquire(recipe, store)
    export = recipe.export.model_copy(update={"inference_io": "int8"})
    asked = recipe.model_copy(update={"export": export, "variants": ("int8",)})
    if fits:
        acquire(asked, store)
        return
    with pytest.raises(UnsupportedModelError, match=f"int8 input .*{extractor} normalises") as said:
        acquire(asked, store)
    assert "export.inference_io" in said.value.remedy
