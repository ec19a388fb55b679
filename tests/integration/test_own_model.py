"""From nothing but a training's folder to signed artefacts, in one command."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import zoo
from families import CLASSES, FAMILIES, LABEL_MAP
from support import FRONT, RECORDS, Kiln, Stages, Wanted

FAMILY = FAMILIES["ssd_mobilenet_v2"]
VARIANTS = ("float32", "dynamic")
NAME = "hafen_boote"

#: As a training on another machine leaves it: its own paths, and checkpoints that are gone.
STATE = """\
model_checkpoint_path: "/home/somebody/Häfen/training/ckpt-7"
all_model_checkpoint_paths: "/home/somebody/Häfen/training/ckpt-2"
all_model_checkpoint_paths: "/home/somebody/Häfen/training/ckpt-7"
all_model_checkpoint_paths: "/home/somebody/Häfen/training/ckpt-9"
"""

#: As trainings have them: with the background, and with a class that came later.
LABELS = f"item {{ id: 0 name: 'background' }}\n{LABEL_MAP}item {{ id: 7 name: 'zebra' }}\n"


@pytest.fixture(scope="module")
def checkpoint(
    stages: Stages, images_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What a training saved: model and optimizer, as ``checkpoint/ckpt-7.*``."""
    config = tmp_path_factory.mktemp("config") / "pipeline.config"
    config.write_text(FAMILY.config)
    params = {"seed": 3, "number": 7, "optimizer": True, "stand_out": 60}
    given = {"pipeline_config": config, "images": images_folder}
    ran = stages.run(Wanted("trained", "make_checkpoint", params, given))
    return zoo.files_of(ran["trained"], stages.store)


@pytest.fixture(scope="module")
def training(checkpoint: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training's folder: several checkpoints, all but one of them no good."""
    folder = tmp_path_factory.mktemp("runs") / "Häfen & Boote" / "training"
    folder.mkdir(parents=True)
    for path, data in checkpoint.items():
        name = Path(path).name
        (folder / name).write_bytes(data)
        if name.startswith("ckpt-7."):
            for number in (2, 9):
                (folder / name.replace("ckpt-7.", f"ckpt-{number}.")).write_bytes(data[::-1])
    (folder / "checkpoint").write_text(STATE, encoding="utf-8")
    (folder / "label_map.pbtxt").write_text(LABELS)
    (folder / "events.out.tfevents.1700000000.host").write_bytes(b"of no use here")
    return folder


@pytest.fixture(scope="module")
def options(training: Path) -> list[str | Path]:
    """The two arguments that cannot be left away, and fewer variants than usual."""
    given: list[str | Path] = [
        "--checkpoint",
        training,
        "--label-map",
        training / "label_map.pbtxt",
    ]
    for variant in VARIANTS:
        given += ["--variant", variant]
    return given


def _digests(kiln: Kiln, name: str) -> dict[str, str]:
    return {
        variant: hashlib.sha256(
            (kiln.dist / name / f"{name}_{variant}.tflite").read_bytes()
        ).hexdigest()
        for variant in VARIANTS
    }


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_mode)
        for path in [folder, *folder.iterdir()]
    }


@pytest.fixture(scope="module")
def converted(
    session_kiln: Kiln,
    training: Path,
    options: list[str | Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Kiln:
    """The one command; the training's folder may not be written to, and is not."""
    kiln = session_kiln.but(dist=tmp_path_factory.mktemp("converted") / "my release")
    training.chmod(0o555)
    before = _state(training)
    try:
        ended = kiln("convert", *options, "-o", kiln.dist).ok()
        assert _state(training) == before
    finally:
        training.chmod(0o755)
    assert "taking checkpoint ckpt-7, and none of the 2 others" in ended.err
    assert ended.err.count("it can never find 'zebra' (id 7)") == 1
    assert "signed artefacts in" in ended.out
    return kiln


def test_one_command(converted: Kiln) -> None:
    names = [f"{NAME}_{variant}.tflite" for variant in sorted(VARIANTS)]
    assert converted.published() == sorted(
        [*FRONT, *(f"{NAME}/{name}" for name in [*names, *RECORDS])]
    )
    assert converted("verify", converted.dist).code == 0
    assert converted.leftovers() == []
    labels = (converted.dist / NAME / "labelmap.txt").read_text("utf-8").splitlines()
    assert labels == list(CLASSES)
    text = (converted.dist / NAME / "conversion.json").read_text("utf-8")
    record = json.loads(text)
    (note,) = record["label_notes"]
    assert "'zebra' (id 7)" in note
    assert record["stages"]["annotate-float32"]["facts"]["label_notes"] == [note]
    assert record["source"]["kind"] == "local"
    assert record["source"]["checkpoint"] == "ckpt-7"
    assert sorted(record["source"]["files"]) == [
        "checkpoint/ckpt-7.data-00000-of-00001",
        "checkpoint/ckpt-7.index",
        "pipeline.config",
    ]
    assert "training" not in text  # a release says nothing of the machine it was made on


def test_no_folder_of_this_machine_is_in_it(converted: Kiln, training: Path) -> None:
    """Neither in a statement nor in the recipe in source.tar."""
    seen = 0
    for path in (item for item in converted.dist.rglob("*") if item.is_file()):
        data = path.read_bytes()
        if path.name.endswith(".sigstore.json"):
            data = base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"])
            seen += b'checkpoint = \\"ckpt-7\\"' in data
        assert training.parent.name.encode() not in data, path
        assert training.parent.parent.name.encode() not in data, path
    assert seen == len(VARIANTS)


def test_again_changes_nothing(converted: Kiln, options: list[str | Path]) -> None:
    before = (converted.dist / NAME / "model.sig").read_bytes()
    assert "0 stages run" in converted("convert", *options, "-o", converted.dist).ok().out
    assert (converted.dist / NAME / "model.sig").read_bytes() == before


def test_the_same_bytes_through_an_archive(
    converted: Kiln, fresh: Kiln, checkpoint: dict[str, bytes], project: Path, tmp_path: Path
) -> None:
    """Packed with the training's own state file, and all of it made again."""
    archive = zoo.pack({**checkpoint, "checkpoint/checkpoint": STATE.encode()}, tmp_path / "a.tgz")
    models = zoo.Models(tmp_path / "models", project)
    (models.folder / "labels" / "mine.pbtxt").write_text(LABEL_MAP)
    path = models.folder / models.add(NAME, archive, variants=VARIANTS, labels="mine.pbtxt")
    text = (path / "recipe.toml").read_text()
    for line in ("title", "description", "licence", "author", "version"):
        (old,) = [item for item in text.splitlines() if item.startswith(f"{line} =")]
        text = text.replace(old, f"{line} = {json.dumps(_said(line))}")
    (path / "recipe.toml").write_text(text)
    ended = fresh("build", NAME, "--models-dir", models.folder).ok()
    assert "0 stages run" not in ended.out
    assert _digests(fresh, NAME) == _digests(converted, NAME)


def _said(key: str) -> str:
    """What ``kiln convert`` says where nothing was given."""
    description = f"An object detector, from the checkpoint of {NAME}."
    known = {"licence": "NOASSERTION", "author": "unknown", "version": "1"}
    return {"title": NAME, "description": description, **known}[key]


def test_the_same_bytes_through_init(
    converted: Kiln, options: list[str | Path], training: Path, tmp_path: Path
) -> None:
    kiln = converted.but(dist=tmp_path / "dist")
    kiln("init", *options, "-o", tmp_path / "models" / NAME).ok()
    kiln("build", "--models-dir", tmp_path / "models").ok()
    assert _digests(kiln, NAME) == _digests(converted, NAME)
    # The training goes on: what was pinned is still what is built.
    state = training / "checkpoint"
    state.write_text(STATE.replace("training/ckpt-7", "training/ckpt-9"), encoding="utf-8")
    try:
        kiln("build", "--models-dir", tmp_path / "models").ok()
        assert _digests(kiln, NAME) == _digests(converted, NAME)
    finally:
        state.write_text(STATE, encoding="utf-8")
    # And a damaged file is told by its name.
    index = training / "ckpt-7.index"
    data = index.read_bytes()
    index.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    try:
        kiln("build", "--models-dir", tmp_path / "models").refused(12, "ckpt-7.index", "kiln init")
    finally:
        index.write_bytes(data)


def test_through_links(
    converted: Kiln, options: list[str | Path], training: Path, tmp_path: Path
) -> None:
    """A folder of links to files elsewhere, itself behind a link: nothing to run again."""
    (tmp_path / "real").mkdir()
    for path in training.iterdir():
        (tmp_path / "real" / path.name).symlink_to(path)
    (tmp_path / "latest").symlink_to("real")
    kiln = converted.but(dist=tmp_path / "dist")
    given = [
        "--checkpoint",
        tmp_path / "latest",
        "--label-map",
        tmp_path / "latest/label_map.pbtxt",
    ]
    ended = kiln("convert", *given, *options[4:], "--name", NAME, "-o", kiln.dist).ok()
    assert "0 stages run" in ended.out
    assert _digests(kiln, NAME) == _digests(converted, NAME)


# --- what is wrong, as it is met ---------------------------------------------------------------


def _as_it_is(folder: Path) -> None:
    pass


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _absent(folder: Path) -> None:
    shutil.rmtree(folder)


def _half_a_file(folder: Path) -> None:
    path = folder / "ckpt-7.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _faster_rcnn(folder: Path) -> None:
    text = "model { faster_rcnn { num_classes: 6 number_of_stages: 2 } }\n"
    (folder / "pipeline.config").write_text(text)


def _other_classes(folder: Path) -> None:
    with (folder / "label_map.pbtxt").open("a") as file:
        file.writelines(f"item {{ id: {number} name: 'zebra' }}\n" for number in range(8, 15))


def _saved_model(folder: Path) -> None:
    for path in folder.glob("ckpt-*"):
        path.unlink()
    (folder / "saved_model.pb").write_bytes(b"graph")


@pytest.mark.parametrize(
    ("spoil", "more", "code", "words"),
    [
        (_absent, (), 15, ["neither a folder nor a checkpoint"]),
        (_empty, (), 15, ["is empty"]),
        (_saved_model, (), 15, ["is a SavedModel, not a checkpoint"]),
        (_half_a_file, (), 15, ["data-00000-of-00001 is cut short"]),
        (_faster_rcnn, (), 14, ["Faster R-CNN cannot be converted", "crops"]),
        (_other_classes, (), 16, ["14 items", "6 classes"]),
        (_as_it_is, ("--variant", "int8"), 2, ["int8", "--calibration"]),
        (_as_it_is, ("--calibration", "/proc/self/fd"), 17, ["no images in /proc/self/fd"]),
        (_as_it_is, ("--image-size", "300"), 2, ["not an image size"]),
    ],
    ids=lambda item: item.__name__.strip("_") if callable(item) else "",
)
def test_bad_input(
    spoil: Callable[[Path], None],
    more: tuple[str, ...],
    code: int,
    words: list[str],
    shared: Kiln,
    training: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "training run"
    shutil.copytree(training, folder)
    labels = tmp_path / "labels.pbtxt"
    spoil(folder)
    if (folder / "label_map.pbtxt").exists():
        shutil.copy(folder / "label_map.pbtxt", labels)
    else:
        labels.write_text(LABEL_MAP)
    config = training / "pipeline.config"
    config = folder / "pipeline.config" if (folder / "pipeline.config").exists() else config
    given = ["--checkpoint", folder, "--label-map", labels, "--pipeline-config", config, *more]
    shared("convert", *given, "-o", shared.dist).refused(code, *words)
    assert shared.published() == []
    assert shared.leftovers() == []


def test_a_folder_that_is_something_else(shared: Kiln, options: list[str | Path]) -> None:
    shared.dist.mkdir()
    (shared.dist / "thesis.tex").write_text("precious")
    shared("convert", *options, "-o", shared.dist).refused(2, "thesis.tex")
    assert shared.published() == ["thesis.tex"]
