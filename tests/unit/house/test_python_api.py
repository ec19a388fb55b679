"""`import kiln`: the public functions, and docs/python.md against them."""

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
from click import Command
from places import ROOT
from recipe_texts import GOOD, write
from small_release import MODELS, make_release
from training_folder import CONFIG, LABELS, save

import kiln
from kiln.cli.annotate import annotate_command
from kiln.cli.bench_model import bench_model as bench_command
from kiln.cli.compile import compile_command
from kiln.cli.convert import convert as convert_command
from kiln.cli.explain_int8 import explain_int8 as explain_command
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


@pytest.mark.parametrize(
    "function",
    [kiln.convert, kiln.annotate, kiln.compile, kiln.bench_model, kiln.explain_int8],
    ids=lambda function: function.__name__,
)
def test_the_page_s_calls_fit_the_functions(function: Callable[..., object]) -> None:
    """The conversion is run by tests/integration/test_wheel.py: these need no engine."""
    name = f"kiln.{function.__name__}"
    (block,) = re.findall(
        rf"```python\n(import kiln\n\n\w+ = {name}\(.*?)```", PAGE.read_text(), re.DOTALL
    )
    calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    (call,) = [node for node in calls if ast.unparse(node.func) == name]
    names = {str(item.arg): None for item in call.keywords}
    inspect.signature(function).bind(*call.args, **names)


def test_the_page_names_what_is_public() -> None:
    text = PAGE.read_text("utf-8")
    named = set(re.findall(r"`kiln\.(\w+)`", text)) | {"__version__"}
    assert named == set(kiln.__all__)
    for name in sorted(item for item in kiln.__all__ if item[0].isupper()):
        if name == "KilnError":  # said below the table
            continue
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


@pytest.mark.parametrize(
    ("function", "command", "renamed", "left_out"),
    [
        (kiln.compile, compile_command, {"with": "compiler"}, set()),
        (kiln.bench_model, bench_command, {"variant": "variants"}, set()),
        # Only for people: the result has all layers, and draws them.
        (kiln.explain_int8, explain_command, {}, {"layers", "svg"}),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_each_option_of_the_other_commands_is_an_argument(
    function: Callable[..., object],
    command: Command,
    renamed: dict[str, str],
    left_out: set[str],
) -> None:
    words = (option.opts[-1].lstrip("-").replace("-", "_") for option in command.params)
    options = {renamed.get(word, word) for word in words} - {"json", *left_out}
    assert set(inspect.signature(function).parameters) == options | {"on_event"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "ethos"}, "Name one of them"),
        ({"target": "x", "compiler": "nowhere/at all"}, "There is no compiler nowhere/at all"),
        ({"target": "ethos-u65-256", "least_mapped": 2}, "--least-mapped 2 cannot be"),
        ({"target": "ethos-u65-256", "timeout": float("nan")}, "--timeout nan cannot be"),
        ({"target": "ethos-u65-256"}, "NPU computes in whole numbers"),
    ],
)
def test_a_compilation_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    monkeypatch.setenv("KILN_STORE", str(tmp_path / "store"))
    made = tmp_path / "made.tflite"
    with pytest.raises(kiln.KilnError) as caught:
        kiln.compile(FIXTURES / "toy_ssd.tflite", output=made, **options)
    assert words in str(caught.value)
    assert not made.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": ["none.tflite"]}, "There is no file none.tflite"),
        ({"names": ["none"]}, "There is no built model 'none'"),
        ({"threads": [0]}, "--threads 0 cannot be"),
        ({"runs": 0}, "--runs 0 cannot be"),
        ({"seconds": float("nan")}, "--seconds nan cannot be"),
        ({"seconds": 1, "runs": 1}, "cannot be combined"),
        ({"names": [FIXTURES / "toy_ssd.tflite"], "save": True}, "--save only records files"),
    ],
)
def test_what_cannot_be_timed(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        kiln.bench_model(dist=tmp_path, **options)


def test_what_cannot_be_explained(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace('"dynamic", "int8"', '"dynamic"'))
    with pytest.raises(UsageError, match="has no variant 'int8'"):
        kiln.explain_int8("toy", models_dir=tmp_path / "models")
    with pytest.raises(UsageError, match="toys"):
        kiln.explain_int8("toys", models_dir=tmp_path / "models")


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
