"""Names that no file system takes, wherever a command takes a path: a message, no traceback."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from tflite_files import fixture
from toy_project import add_recipe, make_project, small_archive

from kiln.cli import main
from kiln.core import errors
from kiln.core.errors import DiskFullError, SystemRefusedError
from kiln.core.files import system_guard
from kiln.project.folders import Project

LONG = "n" * 300
DEEP = "/" + "d/" * 2500 + "end"

#: ``@`` is the name; ``%`` a file that is in order.
COMMANDS = [
    "build toy --dist @",
    "build toy --archive @",
    "build --models-dir @",
    "build @",
    "plan toy --models-dir @",
    "verify @",
    "verify % --key @",
    "verify % --bundle @",
    "verify % --policy @",
    "verify % --identity me --issuer https://issuer.example --trusted-root @",
    "inspect @",
    "diff @ %",
    "diff % @",
    "page --dist @",
    "page --dist % --out @",
    "notes @",
    "collect @",
    "collect --dist @ %",
    "collect --assets @",
    "collect --policy @ %",
    "reproduce @",
    "reproduce % --key @",
    "reproduce % --policy @",
    "reproduce % --source @ --unverified",
    "reproduce % --inputs @ --unverified",
    "reproduce % --bundle @ --unverified",
    "reproduce % --image @ --unverified",
    "reproduce % --keep @ --unverified",
    "bench-model --dist @",
    "bench-model @.tflite",
    "accuracy toy --coco @",
    "accuracy toy --coco % --dist @",
    "accuracy toy --coco % --save @",
    "annotate @ --label-map % -o made.tflite",
    "annotate file.tflite --label-map @ --mean 0 --std 1 -o made.tflite",
    "annotate file.tflite --label-map % --mean 0 --std 1 -o @",
    "compile @ --target ethos-u65-256 -o made.tflite",
    "compile file.tflite --target ethos-u65-256 -o @",
    "compile file.tflite --target edgetpu --with @ -o made.tflite",
    "convert --checkpoint @ --label-map %",
    "convert --checkpoint % --label-map @",
    "convert --saved-model @ --label-map %",
    "convert --checkpoint % --label-map % --images @",
    "convert --checkpoint % --label-map % --calibration @",
    "convert --checkpoint % --label-map % --pipeline-config @",
    "convert --checkpoint % --label-map % --name @",
    "init --checkpoint @ --label-map %",
    "bundle create toy -o @",
    "bundle import @",
    "images load @",
    "images save odapi -o @",
    "keys init --out @",
]
#: Settings that name a path.
VARIABLES = [
    ("KILN_STORE", "build toy"),
    ("KILN_STORE", "doctor"),
    ("KILN_STORE", "clean"),
    ("KILN_PROJECT", "models"),
    ("KILN_SIGNING_KEY", "build toy"),
    ("KILN_SIGNING_KEY", "keys show"),
    ("KILN_SIGNING_KEY", "doctor"),
    ("XDG_CONFIG_HOME", "build toy"),
    ("XDG_CONFIG_HOME", "keys show"),
    ("XDG_CONFIG_HOME", "verify"),
    ("TFHUB_CACHE_DIR", "models"),
]
CODES = {cls.exit_code for cls in vars(errors).values() if hasattr(cls, "exit_code")}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    project = make_project(tmp_path / "project")
    add_recipe(project, "toy", small_archive(tmp_path / "toy.tar.gz"))
    (tmp_path / "file.tflite").write_bytes(fixture("toy_ssd"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("KILN_PROJECT", str(project.root))
    monkeypatch.setenv("KILN_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    for name in ("KILN_SIGNING_KEY", "KILN_SIGNING_KEY_PEM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The command in this process; its exit code. Whatever else it ends in, the test fails with."""
    monkeypatch.setattr(sys, "argv", ["kiln", *words])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def told(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    if code == 0:
        return err
    assert code in CODES
    message = err[err.index("kiln: ") :]
    assert len(message.splitlines()) >= 2, "no remedy"
    return message


@pytest.mark.parametrize("name", [LONG, DEEP], ids=["long", "deep"])
@pytest.mark.parametrize("command", COMMANDS)
def test_as_an_argument(
    root: Path,
    command: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = str(root / "file.tflite")
    words = [word.replace("@", name).replace("%", good) for word in command.split()]
    code = run(words, monkeypatch)
    err = told(code, capsys)
    assert code != 0
    assert "No such option" not in err and "unexpected extra argument" not in err


@pytest.mark.parametrize("name", [LONG, DEEP], ids=["long", "deep"])
@pytest.mark.parametrize(("variable", "command"), VARIABLES)
def test_as_a_setting(
    root: Path,
    variable: str,
    command: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, name)
    code = run(command.split(), monkeypatch)
    if command == "doctor":
        assert "PROBLEM" in capsys.readouterr().out
    else:
        told(code, capsys)


def test_a_model_that_meets_one_does_not_stop_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(root / "project")
    url = small_archive(root / "other.tar.gz")
    other = add_recipe(project, "other", url, variants='["float32", "int8"]')
    other.write_text(f'{other.read_text()}[calibration]\nimages = "{LONG}"\n')
    assert run(["build", "toy", "other", "--json"], monkeypatch) == 50
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    failed = {event["model"]: event for event in events if event["event"] == "failed"}
    assert {name: event["kind"] for name, event in failed.items()} == {
        "toy": "engine-unavailable",
        "other": "system",
    }
    assert "File name too long" in failed["other"]["message"]
    assert "shorter" in failed["other"]["remedy"]


def test_what_is_refused_is_named() -> None:
    with pytest.raises(SystemRefusedError) as caught, system_guard():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/x/\x1b[2J")
    assert caught.value.message == r"/x/\x1b[2J: Too many open files."
    assert "ulimit" in caught.value.remedy
    with pytest.raises(SystemRefusedError, match="/a and /b: Invalid cross-device"), system_guard():
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), "/a", None, "/b")
    with pytest.raises(SystemRefusedError, match="refused something: no words"), system_guard():
        raise OSError("no words")
    with pytest.raises(DiskFullError, match="MB free"), system_guard():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x")
    with pytest.raises(SystemRefusedError) as caught, system_guard():
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "n" * 9000)
    assert len(caught.value.message) < 300
    with pytest.raises(SystemRefusedError, match="Broken pipe"), system_guard():  # a socket's
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
