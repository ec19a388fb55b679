"""Bad input: one message, its own exit code, nothing half-made, and the next run carries on."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zoo
from support import FRONT, SAMPLE, Kiln


@pytest.fixture
def models(tmp_path: Path, project: Path) -> zoo.Models:
    return zoo.Models(tmp_path / "models", project)


@pytest.fixture(scope="module")
def sound(zoo_files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with nothing wrong."""
    return zoo.pack(zoo_files, tmp_path_factory.mktemp("sound") / "sound.tar.gz")


@pytest.fixture
def refuse(shared: Kiln, models: zoo.Models) -> Callable[..., str]:
    """Build a model, expecting a failure that leaves nothing behind; returns the message."""

    def check(name: str, code: int, *words: str, options: tuple[str, ...] = ()) -> str:
        ended = shared("build", name, "--models-dir", models.folder, *options)
        message = ended.refused(code, *words)
        assert shared.published() == []
        assert shared.leftovers() == []
        return message

    return check


# --- archives --------------------------------------------------------------------------------


def _truncated(sound: Path, path: Path) -> None:
    path.write_bytes(sound.read_bytes()[: sound.stat().st_size // 2])


def _corrupt(sound: Path, path: Path) -> None:
    data = bytearray(sound.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = os.urandom(64)
    path.write_bytes(data)


def _empty(sound: Path, path: Path) -> None:
    path.write_bytes(b"")


def _page(sound: Path, path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>404 Not Found</title>\n" * 100)


def _other(sound: Path, path: Path) -> None:
    zoo.pack({"readme.txt": b"another archive altogether"}, path, top="something_else")


def _climbing(sound: Path, path: Path) -> None:
    zoo.pack_entry(tarfile.TarInfo(f"{zoo.TOP}/../../../escaped"), path, b"out")


def _absolute(sound: Path, path: Path) -> None:
    zoo.pack_entry(tarfile.TarInfo("/tmp/kiln-escaped"), path, b"out")


def _linked(sound: Path, path: Path) -> None:
    entry = tarfile.TarInfo(f"{zoo.TOP}/pipeline.config")
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    zoo.pack_entry(entry, path)


def _device(sound: Path, path: Path) -> None:
    entry = tarfile.TarInfo(f"{zoo.TOP}/checkpoint")
    entry.type, entry.devmajor, entry.devminor = tarfile.BLKTYPE, 8, 0
    zoo.pack_entry(entry, path)


def _pipe(sound: Path, path: Path) -> None:
    entry = tarfile.TarInfo(f"{zoo.TOP}/checkpoint")
    entry.type = tarfile.FIFOTYPE
    zoo.pack_entry(entry, path)


@pytest.mark.parametrize(
    "spoil",
    [_truncated, _corrupt, _empty, _page, _other, _climbing, _absolute, _linked, _device, _pipe],
)
@pytest.mark.parametrize("given", ["url", "--archive"])
def test_archives(
    spoil: Callable[[Path, Path], None],
    given: str,
    sound: Path,
    shared: Kiln,
    models: zoo.Models,
    refuse: Callable[..., str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.tar.gz"
    spoil(sound, path)
    name = f"bad{spoil.__name__}_{given.strip('-')}"
    models.add(name, path if given == "url" else "http://127.0.0.1:9/model.tar.gz")
    options = () if given == "url" else ("--archive", str(path))
    message = refuse(name, 13, options=options)
    assert name in message  # and not the name of a blob in the store
    assert not Path("/tmp/kiln-escaped").exists()
    # Nothing is remembered of it: the right file is taken afterwards.
    assert not (shared.store / "refs" / "archive" / f"{name}.json").exists()


def test_no_such_archive(models: zoo.Models, refuse: Callable[..., str], tmp_path: Path) -> None:
    models.add("absent", tmp_path / "absent.tar.gz")
    refuse("absent", 11, "absent", "--archive FILE")
    refuse("absent", 2, "nowhere.tar.gz", options=("--archive", str(tmp_path / "nowhere.tar.gz")))


def test_the_right_archive_after_a_wrong_one(
    shared: Kiln, models: zoo.Models, refuse: Callable[..., str], sound: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.tar.gz"
    _truncated(sound, path)
    models.add("again", path)
    refuse("again", 13)
    path.write_bytes(sound.read_bytes())
    shared("build", "again", "--models-dir", models.folder).ok()
    assert "again/again_float32.tflite" in shared.published()


# --- models ----------------------------------------------------------------------------------


def test_no_pipeline_config(
    models: zoo.Models, refuse: Callable[..., str], zoo_files: dict[str, bytes], tmp_path: Path
) -> None:
    files = {name: data for name, data in zoo_files.items() if name != "pipeline.config"}
    models.add("no_config", zoo.pack(files, tmp_path / "a.tar.gz"))
    refuse("no_config", 15, "no_config", "pipeline.config")


def test_unsupported_architecture(
    models: zoo.Models, refuse: Callable[..., str], zoo_files: dict[str, bytes], tmp_path: Path
) -> None:
    config = b"model { faster_rcnn { num_classes: 90 number_of_stages: 2 } }\n"
    files = {**zoo_files, "pipeline.config": config}
    models.add("rcnn", zoo.pack(files, tmp_path / "a.tar.gz"))
    refuse("rcnn", 14, "rcnn", "Faster R-CNN")


def test_garbage_for_a_pipeline_config(
    models: zoo.Models, refuse: Callable[..., str], zoo_files: dict[str, bytes], tmp_path: Path
) -> None:
    files = {**zoo_files, "pipeline.config": bytes(range(256))}
    models.add("garbage", zoo.pack(files, tmp_path / "a.tar.gz"))
    refuse("garbage", 14, "garbage", "pipeline.config")


def test_no_checkpoint(
    models: zoo.Models, refuse: Callable[..., str], zoo_files: dict[str, bytes], tmp_path: Path
) -> None:
    files = {"pipeline.config": zoo_files["pipeline.config"]}
    models.add("no_checkpoint", zoo.pack(files, tmp_path / "a.tar.gz"))
    refuse("no_checkpoint", 15, "no_checkpoint", ".index")


def test_half_a_checkpoint(
    models: zoo.Models, refuse: Callable[..., str], zoo_files: dict[str, bytes], tmp_path: Path
) -> None:
    files = {name: data for name, data in zoo_files.items() if name != zoo.DATA}
    models.add("no_data", zoo.pack(files, tmp_path / "a.tar.gz"))
    refuse("no_data", 15, "no_data", ".data-00000-of-00001 is missing")


def test_a_flipped_bit_in_the_checkpoint(
    models: zoo.Models, refuse: Callable[..., str], zoo_files: dict[str, bytes], tmp_path: Path
) -> None:
    """Packed well and damaged before: only the checkpoint's own checksums can tell."""
    data = bytearray(zoo_files[zoo.DATA])
    data[len(data) // 3] ^= 1
    models.add("flipped", zoo.pack({**zoo_files, zoo.DATA: bytes(data)}, tmp_path / "a.tar.gz"))
    refuse("flipped", 15, "flipped", "cannot be read")


def test_variables_missing(
    models: zoo.Models, refuse: Callable[..., str], partial_files: dict[str, bytes], tmp_path: Path
) -> None:
    """TensorFlow would restore what there is and leave the heads random."""
    models.add("partial", zoo.pack(partial_files, tmp_path / "a.tar.gz"))
    refuse("partial", 15, "partial", "variables are not in it", "_box_predictor")


def test_variables_of_other_shapes(
    models: zoo.Models, refuse: Callable[..., str], zoo_files: dict[str, bytes], tmp_path: Path
) -> None:
    config = zoo_files["pipeline.config"].replace(b"num_classes: 90", b"num_classes: 89")
    files = {**zoo_files, "pipeline.config": config}
    models.add("reshaped", zoo.pack(files, tmp_path / "a.tar.gz"))
    refuse("reshaped", 15, "reshaped", "num_classes")


# --- labels and images -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("too_many", 'item {{ id: {id} name: "n{id}" }}\n'),
        ("nonsense", "item { {{{ \n"),
        ("empty", "\n"),
    ],
)
def test_label_maps(
    what: str, text: str, models: zoo.Models, refuse: Callable[..., str], sound: Path
) -> None:
    if what == "too_many":
        text = "".join(text.format(id=number) for number in range(1, 192))
    (models.folder / "labels" / "wrong.pbtxt").write_text(text)
    models.add(what, sound, labels="wrong.pbtxt")
    refuse(what, 16, what)


def test_no_label_map(models: zoo.Models, refuse: Callable[..., str], sound: Path) -> None:
    models.add("unlabelled", sound, labels="absent.pbtxt")
    refuse("unlabelled", 16, "unlabelled", "absent.pbtxt")


def test_no_images(models: zoo.Models, refuse: Callable[..., str], sound: Path) -> None:
    folder = models.folder / "no_images"
    folder.mkdir()
    (folder / "README.txt").write_text("no image here")
    models.add("blind", sound, variants=("int8",), images="no_images")
    refuse("blind", 17, "blind", "no_images")
    models.add("blinder", sound, variants=("int8",), images="nowhere")
    refuse("blinder", 17, "blinder", "nowhere")


def test_an_image_that_is_none(models: zoo.Models, refuse: Callable[..., str], sound: Path) -> None:
    folder = models.folder / "odd"
    folder.mkdir()
    # Whole by its structure, so that only the stage's decoder can tell.
    data = bytearray((models.folder / "images" / "coffee.png").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 99] = bytes(99)
    (folder / "photo.png").write_bytes(data)
    models.add("cut_image", sound, variants=("int8",), images="odd")
    refuse("cut_image", 17, "cut_image", "photo.png")


# --- the command line and recipes ------------------------------------------------------------


def test_unknown_names(shared: Kiln) -> None:
    shared("build", "ssd_mobilnet_v2_oidv4").refused(2, "ssd_mobilnet_v2_oidv4", SAMPLE)
    shared("build", SAMPLE, "--variant", "float23").refused(2, "float23", "float32")
    shared("build", SAMPLE, "--colour").refused(2, "--colour")
    shared("build", SAMPLE, "--archive", "x.tar.gz").refused(2, SAMPLE, "embedded sample")
    assert shared.published() == []


def test_a_variant_the_recipe_lacks(
    models: zoo.Models, refuse: Callable[..., str], sound: Path
) -> None:
    models.add("few", sound)
    refuse("few", 2, "int8", "float32", options=("--variant", "int8"))


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("variants = ", "varaints = ", "variants"),
        ('architecture = "ssd"', 'architecture = "sdd"', "ssd"),
        ("schema = 1", "schema = 2", "schema"),
        ("[source]", "[source", "TOML"),
        ('checkpoint = "checkpoint"', 'checkpoint = "../up"', "source.checkpoint"),
        ('file = "../labels/', 'file = "../../../labels/', "labels.file"),
    ],
)
def test_broken_recipes(
    old: str, new: str, word: str, models: zoo.Models, refuse: Callable[..., str], sound: Path
) -> None:
    path = models.folder / models.add("broken", sound) / "recipe.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    refuse("broken", 10, "broken", word)


def test_one_bad_model_does_not_stop_the_others(
    shared: Kiln, models: zoo.Models, sound: Path, tmp_path: Path
) -> None:
    models.add("good", sound)
    models.add("bad", tmp_path / "absent.tar.gz")
    models.add("ugly", sound)
    (models.folder / "ugly" / "recipe.toml").write_text("schema = ")
    ended = shared("build", "--models-dir", models.folder)
    ended.refused(50, "bad", "ugly")
    for name, word in (("bad", "absent.tar.gz"), ("ugly", "TOML")):
        (line,) = [line for line in ended.err.splitlines() if f"FAILED {name}:" in line]
        assert word in line
    assert {name.split("/")[0] for name in shared.published()} == {*FRONT, "good"}
    assert shared("verify", shared.dist).code == 0
    assert shared.leftovers() == []


def test_a_dist_that_is_something_else(shared: Kiln, sample: object) -> None:
    shared.dist.mkdir()
    (shared.dist / "thesis.tex").write_text("precious")
    shared("build", SAMPLE).refused(2, "thesis.tex")
    assert shared.published() == ["thesis.tex"]


# --- full disks ------------------------------------------------------------------------------


@pytest.fixture
def disk(area: Path) -> Iterator[Callable[[str], Path]]:
    """Makes small real file systems."""
    mounted: list[Path] = []

    def make(size: str) -> Path:
        at = area / f"disk{len(mounted)}-{os.urandom(4).hex()}"
        at.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a tmpfs needs root")
        mounted.append(at)
        return at

    yield make
    for at in mounted:
        subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.mark.parametrize(
    ("size", "where"),
    [
        ("4m", "taking the weights in"),
        ("24m", "a stage writing its checkpoint"),
        ("55m", "a stage writing what it exports, or the store taking it"),
    ],
)
def test_store_on_a_full_disk(
    fresh: Kiln, disk: Callable[[str], Path], size: str, where: str
) -> None:
    kiln = fresh.but(store=disk(size) / "store")
    kiln("build", SAMPLE, "--variant", "float32").refused(31, "No space left", "KILN_STORE")
    assert kiln.leftovers() == []
    assert kiln.published() == []
    if size == "55m":  # more room, and the same store goes on
        mount = str(kiln.store.parent)
        subprocess.run(["mount", "-o", "remount,size=300m", mount], check=True)
        kiln("build", SAMPLE, "--variant", "float32").ok()


def test_dist_on_a_full_disk(shared: Kiln, sample: object, disk: Callable[[str], Path]) -> None:
    kiln = shared.but(dist=disk("30m") / "dist")
    kiln("build", SAMPLE).refused(31, "No space left")
    assert kiln.published() == []
    assert kiln.leftovers() == []
    kiln("build", SAMPLE, "--variant", "float32").ok()  # 20 MB fit
    before = kiln.published()
    kiln("build", SAMPLE).refused(31, "No space left")
    assert kiln.published() == before
    assert kiln("verify", kiln.dist).code == 0
