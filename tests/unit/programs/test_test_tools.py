"""What ``make test`` offers in its first line: ``scripts/setup/test-tools.sh --offer``."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from places import ROOT

from kiln.sources.debian import read_lock

LIBRARIES = "libEGL.so.1 libGLESv2.so.2"


class Machine:
    """A checkout and a system with nothing but what the script asks for."""

    def __init__(self, root: Path) -> None:
        self.checkout, self.programs = root / "checkout", root / "bin"
        (self.checkout / "scripts" / "setup").mkdir(parents=True)
        self.programs.mkdir()
        for name in ("test-tools.sh", "test-tools.lock"):
            shutil.copy(ROOT / "scripts" / "setup" / name, self.checkout / "scripts" / "setup")
        for name in ("dirname", "grep", "sed", "sh"):
            found = shutil.which(name)
            assert found is not None
            (self.programs / name).symlink_to(found)
        self.has("apt-get", "id", "ldconfig")

    def has(self, *names: str, said: str = "0") -> None:
        for name in names:
            self._write(self.programs / name, said)

    def tool(self, name: str) -> None:
        self._write(self.checkout / ".tools" / name, "")

    def _write(self, path: Path, said: str) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho '{said}'\n")
        path.chmod(0o755)

    def offer(self) -> str:
        ended = subprocess.run(
            [self.checkout / "scripts" / "setup" / "test-tools.sh", "--offer"],
            env={"PATH": str(self.programs)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ended.stderr == ""
        return ended.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_is_not_there(machine: Machine) -> None:
    said = machine.offer()
    assert said.count("\n") == 1
    assert "chromium libegl1 libgles2 podman runc cosign docker-registry" in said
    assert "`make test-tools`" in said


def test_what_is_there_is_not_named(machine: Machine) -> None:
    pins = [pin.name for pin in read_lock(ROOT / "scripts" / "setup" / "test-tools.lock")]
    machine.has("google-chrome", "podman", "runc")
    machine.has("ldconfig", said=LIBRARIES)
    machine.tool(pins[0])
    assert f"need {' '.join(pins[1:])} will be skipped" in machine.offer()
    for name in pins:
        machine.tool(name)
    assert machine.offer() == ""


def test_who_cannot_install_is_told_nothing(machine: Machine) -> None:
    (machine.programs / "apt-get").unlink()
    assert machine.offer() == ""
    machine.has("apt-get")
    machine.has("id", said="1000")
    assert machine.offer() == ""


def test_it_is_the_first_thing_that_make_test_does() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(r"^test: test-offer ", text, re.MULTILINE)
    assert re.search(
        r"^test-offer: .*\n\t@scripts/setup/test-tools.sh --offer$", text, re.MULTILINE
    )
