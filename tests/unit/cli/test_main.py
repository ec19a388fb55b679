"""The command as a user meets it: its own process, its exit code, what it prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from local_server import serving
from patience import PATIENCE, wait_until
from places import SCRIPTS
from toy_project import add_recipe, make_project, small_archive

from kiln.cli.main import cli
from kiln.project.folders import Project


class Kiln:
    """Runs the command against a small project, without an engine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project: Project = make_project(root / "project")
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SCRIPTS),
            "HOME": str(root / "home"),
            "KILN_PROJECT": str(self.project.root),
            "KILN_STORE": str(root / "store"),
            "DOCKER_HOST": "unix:///nonexistent",
            "NO_PROXY": "127.0.0.1",
        }

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "kiln.cli", *args],
            env=self.environment,
            cwd=self.root,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*args)
        out, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in out + err, err
        return subprocess.CompletedProcess(args, process.returncode, out, err)


@pytest.fixture
def kiln(tmp_path: Path) -> Kiln:
    return Kiln(tmp_path)


def commands() -> list[tuple[str, ...]]:
    """Every command and group, by its words."""
    found: list[tuple[str, ...]] = []

    def walk(group: click.Group, words: tuple[str, ...]) -> None:
        for name, command in group.commands.items():
            found.append((*words, name))
            if isinstance(command, click.Group):
                walk(command, (*words, name))

    walk(cli, ())
    return found


def test_every_command_explains_itself() -> None:
    assert ("images", "verify") in commands()
    for words in [(), *commands()]:
        command: click.Command = cli
        context = click.Context(cli, info_name="kiln")
        for word in words:
            assert isinstance(command, click.Group)
            command = command.commands[word]
            context = click.Context(command, parent=context, info_name=word)
        text = command.get_help(context)
        assert text.startswith(f"Usage: {' '.join(('kiln', *words))}")
        assert command.help and command.help[0].isupper(), words
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, (words, option.name)


@pytest.mark.parametrize("args", [("--help",), ("-h",), ("build", "--help"), ("images", "-h")])
def test_help_is_on_standard_output(kiln: Kiln, args: tuple[str, ...]) -> None:
    found = kiln(*args)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("Usage: ")


def test_a_bare_command_shows_its_help(kiln: Kiln) -> None:
    found = kiln()
    assert found.returncode == 2
    shown = found.stdout + found.stderr
    assert "Commands:" in shown
    assert "kiln: " not in shown


def test_the_version(kiln: Kiln) -> None:
    found = kiln("--version")
    assert (found.returncode, found.stdout.split()[:2]) == (0, ["kiln,", "version"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("build", "ssd_mobilnet"), "There is no model 'ssd_mobilnet'"),
        (("build", "ssd_mobilnet"), "Did you mean 'ssd_mobilenet'? Known: other, ssd_mobilenet."),
        (("build", "--variant", "int9"), "Did you mean 'int8'?"),
        (("build", "--archive", "x.tar.gz"), "--archive goes with exactly one model."),
        (("build", "--jobs", "0"), "'--jobs'"),
        (("build", "--jobs", "many"), "See `kiln build --help`."),
        (("build", "--samples"), "No recipe in"),
        (("bulid",), "No such command 'bulid'"),
        (("--frobnicate",), "See `kiln --help`."),
        (("images", "build", "odap"), "Did you mean 'odapi'?"),
        (("images", "list", "surprise"), "See `kiln images list --help`."),
        (("clean", "--store=yes"), "--store"),
    ],
)
def test_usage_errors_end_in_2_and_help(kiln: Kiln, args: tuple[str, ...], words: str) -> None:
    add_recipe(kiln.project, "ssd_mobilenet")
    add_recipe(kiln.project, "other")
    found = kiln(*args)
    assert (found.returncode, found.stdout) == (2, "")
    assert words in found.stderr
    assert found.stderr.startswith("kiln: ")


def test_outside_a_checkout_the_remedy_is_named(kiln: Kiln) -> None:
    kiln.environment["KILN_PROJECT"] = str(kiln.root / "nowhere")
    found = kiln("models")
    assert found.returncode == 2
    assert f"no tflite-kiln checkout at {kiln.root}/nowhere" in found.stderr
    assert "KILN_PROJECT" in found.stderr


def test_models_lists_recipes(kiln: Kiln) -> None:
    add_recipe(kiln.project, "toy", sample=True)
    head, row = kiln("models").stdout.splitlines()
    assert head.split() == [
        *("model", "architecture", "kind", "image", "source", "variants", "last", "build")
    ]
    assert row.split() == [
        "toy",
        "ssd",
        "sample",
        "odapi",
        "archive,",
        "not",
        "downloaded",
        "float32",
        "-",
    ]
    (event,) = events(kiln("models", "--json"))
    assert event == {
        "event": "model",
        "model": "toy",
        "title": "A toy",
        "architecture": "ssd",
        "image": "odapi",
        "source": "archive",
        "at_hand": False,
        "variants": ["float32"],
        "kind": "sample",
        "last": None,
    }


def test_models_tells_how_the_last_build_ended(kiln: Kiln) -> None:
    address = small_archive(kiln.root / "toy.tar.gz")
    add_recipe(kiln.project, "toy", address)
    assert kiln("build", "toy").returncode == 20  # no engine
    (event,) = events(kiln("models", "--json"))
    assert event["at_hand"], "the archive was fetched before the engine was missed"
    assert (event["last"]["ok"], event["last"]["kind"]) == (False, "engine-unavailable")
    assert abs(event["last"]["when"] - time.time()) < 600
    shown = kiln("models").stdout
    assert "archive, available" in shown
    assert "failed: engine-unavailable" in shown


def events(found: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_a_broken_recipe_is_one_message(kiln: Kiln) -> None:
    add_recipe(kiln.project, "toy").write_text("schema = 1\nnam = 'toy'\n")
    found = kiln("build", "toy")
    assert found.returncode == 10
    assert "toy/recipe.toml" in found.stderr
    assert "(did you mean 'name'?)" in found.stderr


def test_a_broken_recipe_does_not_hide_the_others(kiln: Kiln) -> None:
    for name in ("apart", "wrong"):
        add_recipe(kiln.project, name).write_text("schema = 1\n")
    add_recipe(kiln.project, "sound")
    found = kiln("models")
    assert found.returncode == 10
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["model", "sound"]
    assert "apart/recipe.toml" in found.stderr and "wrong/recipe.toml" in found.stderr


def test_json_errors_are_events_too(kiln: Kiln) -> None:
    found = kiln("build", "toy", "--json")
    assert (found.returncode, found.stderr) == (2, "")
    [event] = events(found)
    assert (event["event"], event["kind"], event["exit_code"]) == ("error", "usage", 2)
    assert event["message"] == "There is no model 'toy'."


def test_the_only_model_s_failure_is_told_once(kiln: Kiln) -> None:
    add_recipe(kiln.project, "one")
    found = kiln("build", "--json")
    assert found.returncode == 11
    assert [(event["event"], event["kind"]) for event in events(found)] == [
        ("error", "source-unavailable")
    ]
    assert kiln("build").stderr.count("Cannot download") == 1


def test_two_models_that_fail_are_a_partial_build(kiln: Kiln) -> None:
    add_recipe(kiln.project, "one")
    add_recipe(kiln.project, "two")
    found = kiln("build", "--json", "--jobs", "2")
    assert found.returncode == 50
    kinds = [(event["event"], event["kind"]) for event in events(found)]
    assert kinds == [("failed", "source-unavailable")] * 2 + [("error", "partial-build")]


def test_a_changed_image_definition_says_how_to_go_on(kiln: Kiln) -> None:
    add_recipe(kiln.project, "toy")
    (kiln.project.docker / "install.py").write_text("print(2)\n")
    found = kiln("build", "toy")
    assert found.returncode == 23
    assert "kiln images build odapi --update-lock" in found.stderr


def test_no_engine_is_one_message(kiln: Kiln) -> None:
    found = kiln("images", "list")
    assert found.returncode == 20
    assert "unix:///nonexistent (no such socket)" in found.stderr
    assert "make engine" in found.stderr


def test_clean_works_without_an_engine(kiln: Kiln) -> None:
    assert kiln("clean").stdout == "scratch folders: 0 removed\n"
    [one, two] = events(kiln("clean", "--store", "--json"))
    assert one == {"event": "cleaned", "what": "scratch folders", "count": 0}
    assert two["what"] == "stored files"


def test_doctor_names_the_missing_engine_and_fails(kiln: Kiln) -> None:
    add_recipe(kiln.project, "toy")
    found = kiln("doctor", "--json")
    findings = {event["what"]: event for event in events(found)}
    assert findings["engine"]["state"] == "PROBLEM"
    assert "make engine" in findings["engine"]["remedy"]
    assert findings["recipes"]["detail"] == "1 readable"
    assert findings["image locks"]["detail"] == "odapi, device match their sources"
    assert findings["signing key"]["state"] == "note"
    assert "images" not in findings  # nobody to ask
    others = {what for what, item in findings.items() if item["state"] == "PROBLEM"} - {"engine"}
    assert others <= {"disk"}
    assert found.returncode == (31 if others else 20)


def test_doctor_as_text(kiln: Kiln) -> None:
    found = kiln("doctor")
    assert found.returncode in (20, 31)
    lines = found.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("PROBLEM  engine:"))
    assert lines[at + 1].startswith("         -> Start Docker (")


def test_doctor_goes_on_after_every_problem(kiln: Kiln) -> None:
    add_recipe(kiln.project, "toy").write_text("nonsense")
    (kiln.project.docker / "images.lock").write_text("nonsense")
    kiln.environment["KILN_STORE"] = "/proc/no"
    found = kiln("doctor", "--json")
    states = {event["what"]: event["state"] for event in events(found)}
    for what in ("store", "recipes", "image locks", "engine"):
        assert states[what] == "PROBLEM", what
    assert found.returncode == 30  # the first one's


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_build_ends_soon_and_leaves_nothing(kiln: Kiln, stop: signal.Signals) -> None:
    with serving() as site:
        site.files["toy.tar.gz"] = bytes(64 << 20)
        site.delay = 0.5  # half an hour in all
        add_recipe(kiln.project, "toy", site.url("toy.tar.gz"))
        add_recipe(kiln.project, "next", site.url("toy.tar.gz"))
        process = kiln.start("build", "--jobs", "1")
        try:
            wait_until(lambda: site.asked)
            time.sleep(0.3)
            process.send_signal(stop)
            _, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "kiln: Stopped." in err
    assert list((kiln.root / "store" / "tmp").iterdir()) == []
    assert len(site.asked) == 1  # the next model was not begun
    dist = kiln.project.root / "dist"
    assert not dist.exists() or not any(dist.iterdir())


def test_doctor_does_not_ask_for_the_key_s_password(kiln: Kiln) -> None:
    kiln.environment["KILN_SIGNING_KEY_PASSWORD"] = "secret"
    assert events(kiln("keys", "init", "--json"))[0]["encrypted"] is True
    del kiln.environment["KILN_SIGNING_KEY_PASSWORD"]
    findings = {event["what"]: event for event in events(kiln("doctor", "--json"))}
    assert findings["signing key"]["state"] == "note"
    assert "locked" in findings["signing key"]["detail"]


def test_doctor_says_where_others_could_exchange_the_key(kiln: Kiln) -> None:
    home = kiln.root / "home"
    home.mkdir()
    home.chmod(0o777)

    def finding() -> dict[str, Any]:
        found = {event["what"]: event for event in events(kiln("doctor", "--json"))}
        return found["signing key"]

    for _ in range(2):  # without a key, and with one
        said = finding()
        assert said["state"] == "PROBLEM"
        assert f"{home} of the signing key" in said["detail"]
        assert f"chmod go-w {home}" in said["remedy"]
        home.chmod(0o755)
        kiln("keys", "init", "--no-password")  # (the second time there is one)
        assert finding()["state"] == "ok"
        home.chmod(0o777)
    assert kiln("keys", "show").returncode == 40
