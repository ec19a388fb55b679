"""The stage runner in a process of its own, with stages made for tests beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from patience import PATIENCE

import stages

PLUMBING = ("__init__.py", "__main__.py", "protocol", "steps/__init__.py")

STAGES = {
    "good": """
import os, sys
ENVIRONMENT = "main"
PARAMS = {"n": 1}
def run(params, inputs, out, emit):
    print("library chatter")
    os.write(1, b"more chatter\\n")
    emit.progress(1, 2, "half")
    emit.warning("careful")
    (out / "n.txt").write_text(str(params["n"]))
    return {"n": params["n"], "pid": os.getpid()}
""",
    "elsewhere": """
import os
ENVIRONMENT = "metadata"
def run(params, inputs, out, emit):
    return {"text": inputs["text"].read_text(), "pid": os.getpid()}
""",
    "known_failure": """
from stages.protocol.failures import StageError
ENVIRONMENT = "main"
def run(params, inputs, out, emit):
    raise StageError("checkpoint", "It is torn.", "Get another.")
""",
    "crash": """
ENVIRONMENT = "main"
def run(params, inputs, out, emit):
    raise ZeroDivisionError("first\\nlast line")
""",
    "full": """
import errno
ENVIRONMENT = "main"
def run(params, inputs, out, emit):
    raise OSError(errno.ENOSPC, "No space left on device", "model.tflite")
""",
    "killed": """
import os, signal
ENVIRONMENT = "metadata"
def run(params, inputs, out, emit):
    os.kill(os.getpid(), signal.SIGKILL)
""",
    "meeting": """
import os, time
from stages.protocol.request import REQUIRED
ENVIRONMENT = "main"
PARAMS = {"other": REQUIRED}
def run(params, inputs, out, emit):
    (out / "n.txt").write_text("")
    until = time.monotonic() + 60
    while not (out.parents[1] / params["other"]).exists():
        if time.monotonic() > until:
            raise RuntimeError("nobody came")
        time.sleep(0.01)
    return {"pid": os.getpid()}
""",
    "failing_after": """
import time
from stages.protocol.failures import StageError
from stages.protocol.request import REQUIRED
ENVIRONMENT = "main"
PARAMS = {"other": REQUIRED}
def run(params, inputs, out, emit):
    while not (out.parents[1] / params["other"]).exists():
        time.sleep(0.01)
    time.sleep(0.3)
    raise StageError("label-map", "It is empty.", "Fill it.")
""",
    "endless": """
import time
ENVIRONMENT = "main"
def run(params, inputs, out, emit):
    (out / "n.txt").write_text("")
    time.sleep(3600)
""",
    "reader": """
import sys
ENVIRONMENT = "main"
def run(params, inputs, out, emit):
    return {"read": sys.stdin.read()}
""",
    "bad_facts": """
ENVIRONMENT = "main"
def run(params, inputs, out, emit):
    return {"n": float("nan")}
""",
}


class Machine:
    """A copied package with the test's stages, and its /in and /out."""

    def __init__(self, root: Path, processes: Any = None) -> None:
        self.root = root
        self.processes = processes
        package = root / "kiln" / "stages"
        package.mkdir(parents=True)
        source = Path(stages.__file__).parent
        for name in PLUMBING:
            target = package / name
            target.parent.mkdir(exist_ok=True)
            copy = shutil.copytree if (source / name).is_dir() else shutil.copy
            copy(source / name, target)
        for name, code in STAGES.items():
            (package / "steps" / f"{name}.py").write_text(code)
        (root / "in").mkdir()
        (root / "out").mkdir()
        # The other environment's interpreter: the same one, under a path of its own.
        self.metadata_python = str(root / "python")
        Path(self.metadata_python).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        Path(self.metadata_python).chmod(0o755)

    def run(self, *steps: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        """Run a request; returns the exit code and the events (every line must be one)."""
        request: dict[str, Any] = {"protocol": 1, "stages": steps}
        if self.processes is not None:
            request["processes"] = self.processes
        (self.root / "in/request.json").write_text(json.dumps(request))
        done = subprocess.run(
            [sys.executable, "-m", "stages"],
            cwd=self.root / "kiln",
            env={
                "PATH": os.environ["PATH"],
                "KILN_IN": str(self.root / "in"),
                "KILN_OUT": str(self.root / "out"),
                "KILN_METADATA_PYTHON": self.metadata_python,
            },
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.stderr = done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    def result(self, step: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.root / "out" / step / "result.json").read_text())
        return loaded
