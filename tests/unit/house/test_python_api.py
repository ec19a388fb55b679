"""`import kiln`: the five public functions, and docs/python.md against them."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from small_release import MODELS, make_release
from training_folder import CONFIG, LABELS, save

import kiln
from kiln.cli.annotate import annotate_command
from kiln.cli.convert import convert as convert_command
from kiln.core.errors import (
    CheckpointError,
    UnsupportedModelError,
    UsageError,
    VerificationError,
)
from kiln.signing.keys import SigningKey

FIXTURES = ROOT / "tests" / "fixtures"
PAGE = ROOT / "docs" / "python.md"


@pytest.fixture
def release(key: SigningKey, tmp_path: Path) -> Path:
    """A folder with a release, its key, and the fixtures: where the page's examples run."""
    make_release(tmp_path / "dist", key, 7)
    (tmp_path / "publisher.pub").write_bytes(key.public_pem)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "fixtures").symlink_to(FIXTURES)
    return tmp_path


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A training's folder, as far as it is looked at before a container starts."""
    save(tmp_path / "training", "ckpt-1")
    (tmp_path / "training" / "pipeline.config").write_text(CONFIG)
    (tmp_path / "training" / "labels.pbtxt").write_text(LABELS)
    return tmp_path / "training"


def test_the_page_s_examples_run(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(release)
    ended = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert (ended.failed, ended.attempted > 10) == (0, True)


def test_the_docstrings_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    ended = doctest.testmod(kiln)
    assert (ended.failed, ended.attempted >= 4) == (0, True)


@pytest.mark.parametrize("function", [kiln.convert, kiln.annotate])
def test_the_page_s_calls_fit_the_functions(function: Callable[..., object]) -> None:
    """The conversion is run by tests/integration/test_wheel.py: these need no engine."""
    name = f"kiln.{function.__name__}"
    (block,) = re.findall(
        rf"```python\n(import kiln\n\nmade = {name}\(.*?)```", PAGE.read_text(), re.DOTALL
    )
    calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    (call,) = [node for node in calls if ast.unparse(node.func) == name]
    names = {str(item.arg): None for item in call.keywords}
    inspect.signature(function).bind(*call.args, **names)


def test_the_page_names_what_is_public() -> None:
    text = PAGE.read_text("utf-8")
    named = set(re.findall(r"`kiln\.(\w+)`", text)) | {"__version__"}
    assert named == set(kiln.__all__)
    for name in ("Annotated", "Conversion", "Difference", "Inspection", "Verified"):
        (row,) = [line for line in text.splitlines() if f"`kiln.{name}`" in line]
        cells = row.split("|")[3]
        for member in re.findall(r"`(\w+)", cells.partition("(`")[0]):
            fields = getattr(kiln, name).__dataclass_fields__
            assert member in fields or hasattr(getattr(kiln, name), member), (name, member)


def test_importing_it_is_cheap_and_all_names_are_there() -> None:
    code = (
        "import sys, kiln; print(*sorted(name for name in sys.modules if name.startswith('kiln')));"
        "print(*(set(sys.modules) & {'click', 'docker', 'pydantic', 'sigstore', 'requests'}));"
        "print(all(getattr(kiln, name) for name in kiln.__all__))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == [
        "kiln kiln.core kiln.core.errors kiln.core.version",
        "",
        "True",
    ]
    with pytest.raises(AttributeError, match="nothing"):
        kiln.nothing  # noqa: B018


def test_failures_are_kilns_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        kiln.inspect(tmp_path / "missing.tflite")
    (tmp_path / "text.tflite").write_text("text")
    with pytest.raises(UnsupportedModelError):
        kiln.inspect(str(tmp_path / "text.tflite"))
    with pytest.raises(kiln.KilnError):
        kiln.diff(tmp_path / "text.tflite", FIXTURES / "toy_ssd.tflite")
    with pytest.raises(VerificationError):
        kiln.verify(tmp_path, key=_key(tmp_path))
    with pytest.raises(UsageError, match="need each other"):
        kiln.verify(tmp_path, identity="somebody")
    with pytest.raises(kiln.KilnError) as caught:
        kiln.inspect(tmp_path / ("x" * 5000))
    assert caught.value.remedy


def _key(folder: Path) -> Path:
    from kiln.signing.keys import load_or_create_key

    path = folder / "some.pub"
    path.write_bytes(load_or_create_key(folder / "keys" / "some.pem").public_pem)
    return path


def test_a_release_in_every_form(release: Path) -> None:
    trusted = release / "publisher.pub"
    whole = kiln.verify(release / "dist", key=trusted)
    assert whole.models == tuple(sorted(MODELS))
    there = {path.relative_to(release / "dist").as_posix(): path.stat().st_size
             for path in (release / "dist").glob("*/**/*") if path.is_file()}  # fmt: skip
    assert {file.path: file.size for file in whole.files} == there
    with zipfile.ZipFile(release / "release.zip", "w") as archive:
        for path in sorted((release / "dist").rglob("*")):
            if path.is_file():
                archive.write(path, Path("dist") / path.relative_to(release / "dist"))
    assert kiln.verify(release / "release.zip", key=trusted) == whole
    one = kiln.verify(release / "dist" / "beta" / "beta_int8.tflite", key=str(trusted))
    assert (one.release, one.models) == ("", ("beta",))
    (file,) = one.files
    same = next(item for item in whole.files if item.path == "beta/beta_int8.tflite")
    assert (file.path, file.sha256) == ("beta_int8.tflite", same.sha256)


def test_each_option_of_the_command_is_an_argument() -> None:
    options = {option.opts[-1].lstrip("-").replace("-", "_") for option in convert_command.params}
    options -= {"keep_failed", "json", "variant", "float_layer", "dist"}
    several = {"variants", "float_layers"}
    parameters = set(inspect.signature(kiln.convert).parameters)
    assert parameters == options | several | {"output", "on_event"}
    options = {option.opts[-1].lstrip("-").replace("-", "_") for option in annotate_command.params}
    parameters = set(inspect.signature(kiln.annotate).parameters)
    assert parameters == options - {"json"} | {"on_event"}


def test_a_conversion_that_cannot_be(tmp_path: Path) -> None:
    labels = tmp_path / "labels.pbtxt"
    labels.write_text("item { id: 1 name: 'a' }")
    with pytest.raises(CheckpointError):
        kiln.convert(tmp_path / "none", label_map=labels, output=tmp_path / "out",
                     model_maker="efficientdet_lite0")  # fmt: skip
    with pytest.raises(UsageError, match="no model to convert"):
        kiln.convert(label_map=labels, output=tmp_path / "out")
    with pytest.raises(UsageError, match="is not a folder"):
        kiln.convert(tmp_path, label_map=labels, output=labels)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"score_threshold": float("nan")}, "--score-threshold nan is not a number"),
        ({"nms_score_threshold": float("inf")}, "--nms-score-threshold inf is not a number"),
        ({"nms_iou_threshold": 0}, "A value cannot be: export.nms_iou_threshold: should be gre"),
        ({"max_detections": 0}, "A value cannot be: export.max_detections: should be greater"),
        ({"image_size": (0, 10)}, r"A value cannot be: 2 problems:\n  export.image_size\[0\]"),
        ({"mean": 1e39, "std": 1}, r"--mean '1e\+39' is not one number"),
        ({"mean": 1, "std": [1, 1, 0]}, "--std '1,1,0' is not one number"),
    ],
)
def test_numbers_that_cannot_be(
    training: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    """The command refuses them as options; no scratch recipe of kiln's own is named."""
    labels = training / "labels.pbtxt"
    with pytest.raises(UsageError, match=f"^{words}") as caught:
        kiln.convert(training, label_map=labels, output=tmp_path / "out", **options)
    assert "recipe.toml" not in str(caught.value)


def test_an_annotation_that_cannot_be(tmp_path: Path) -> None:
    bare, made = FIXTURES / "toy_ssd.tflite", tmp_path / "made.tflite"
    labels = FIXTURES / "toy_labels.pbtxt"
    for options, words in (
        ({}, "how pixels are scaled"),
        ({"mean": 127.5}, "need each other"),
        ({"mean": 127.5, "std": 127.5, "fit": "letterbox"}, "needs --fill"),
        ({"mean": [1, 2], "std": 1}, "or three"),
        ({"images": tmp_path}, "need --checkpoint"),
    ):
        with pytest.raises(UsageError, match=words):
            kiln.annotate(bare, label_map=labels, output=made, **options)  # type: ignore[arg-type]
    assert not made.exists()
