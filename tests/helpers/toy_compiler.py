"""Compilers of somebody else, and who stands where the engine would run them.

`HostEngine` runs a container's command on this machine, with the container's places replaced by
the folders that are mounted there. What a real container keeps out is for the integration tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kiln.core.errors import KilnError
from kiln.running.limits import Limits, Outcome

#: What a compiler does: a body in Python that may use ``source``, ``target_file`` and ``target``.
ANSWER = 'target_file.write_bytes((here / "answer.tflite").read_bytes())'

_HEAD = """#!{python}
import os, pathlib, sys, time
here = pathlib.Path(__file__).parent
source, target_file, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
"""


def make_compiler(
    folder: Path, answer: bytes, does: str = ANSWER, *, python: str = "/usr/bin/env python3"
) -> Path:
    """Make a folder with a program ``compile`` that does this."""
    folder.mkdir(parents=True)
    program = folder / "compile"
    program.write_text(_HEAD.format(python=python) + does + "\n", "utf-8")
    program.chmod(0o700)  # nobody but the user: the container's user is another
    (folder / "answer.tflite").write_bytes(answer)
    return folder


class HostEngine:
    """Runs commands here, as a container's."""

    rootless = False

    def __init__(self) -> None:
        self.images: list[str] = []

    def run(
        self,
        image: str,
        command: Sequence[str],
        *,
        mounts: Mapping[Path, tuple[str, str]],
        limits: Limits,
        watch: Any,
        on_stdout: Any,
        **_: Any,
    ) -> Outcome:
        self.images.append(image)
        here = [self._here(part, mounts) for part in command]
        try:
            ended = subprocess.run(
                here, capture_output=True, timeout=limits.timeout, check=False, env=_environment()
            )
        except subprocess.TimeoutExpired:
            return Outcome(137, False, True, "")
        self._give(mounts)
        on_stdout(ended.stdout)
        try:
            watch()
        except KilnError as error:
            return Outcome(137, False, False, "", error)
        return Outcome(ended.returncode, False, False, ended.stderr.decode())

    @staticmethod
    def _here(part: str, mounts: Mapping[Path, tuple[str, str]]) -> str:
        for path, (place, _) in mounts.items():
            if part.startswith(f"{place}/"):
                return f"{path}{part.removeprefix(place)}"
        return part

    @staticmethod
    def _give(mounts: Mapping[Path, tuple[str, str]]) -> None:
        """What was written belongs to the container's user."""
        (out,) = (path for path, (place, _) in mounts.items() if place == "/out")
        about = out.stat()
        for folder, _, files in os.walk(out):
            for name in files:
                os.chown(Path(folder, name), about.st_uid, about.st_gid, follow_symlinks=False)


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"}
