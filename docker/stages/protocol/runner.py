"""Run the stages of a request in order, in one process where possible.

One process means one TensorFlow import for a whole model. Only stages of the other environment run
in a separate process (the same runner, with ``--only``), one for all consecutive ones. Where a
request allows more processes, stages run beside each other (:mod:`stages.protocol.parallel`).

A finished stage leaves ``<out>/<id>/files/`` and, written last, ``<out>/<id>/result.json``; a
folder without ``result.json`` is not a result.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import itertools
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Optional

from stages.protocol import parallel
from stages.protocol import request as requests
from stages.protocol.events import Emitter, EventStream, claim_stdin, claim_stdout
from stages.protocol.failures import StageError, death_of

EXIT_OK = 0
EXIT_FAILED = 3
"""Exit code after a stage failed and reported it in a ``failed`` event."""

_IN, _OUT, _METADATA_PYTHON = "/in", "/out", "/opt/metadata/bin/python"
_ENVIRONMENTS = ("main", "metadata", "device")


def main(only: Optional[Sequence[str]] = None) -> int:
    """Run a request in this process: all its stages, or ``only`` some of them.

    Where things are comes from ``KILN_IN``, ``KILN_OUT`` and ``KILN_METADATA_PYTHON``; their
    defaults are the places inside an image.

    Returns:
        0, or 3 after a stage failed (the ``failed`` event says which and why).
    """
    in_root, out_root = _places()
    stream = EventStream(claim_stdout())
    try:
        request = requests.load(in_root / "request.json")
        steps = request.steps if only is None else tuple(map(request.step, only))
        modules = {step.id: _stage_module(step.stage) for step in steps}
    except StageError as error:
        _report(stream, only[0] if only else "", error)
        return EXIT_FAILED

    if only is None and request.processes > 1 and len(steps) > 1:
        pythons = {id_: _python_of(module) for id_, module in modules.items()}
        try:
            done = parallel.Schedule(request, pythons, sys.executable, stream).run()
        except OSError as error:
            _report(stream, steps[0].id, error)
            return EXIT_FAILED
        return EXIT_OK if done else EXIT_FAILED

    def elsewhere(step: requests.Step) -> bool:
        return only is None and _python_of(modules[step.id]) != sys.executable

    for away, group in itertools.groupby(steps, elsewhere):
        if away:
            code = _run_elsewhere(list(group), out_root, stream)
            if code != EXIT_OK:
                return code
            continue
        for step in group:
            code = _run_here(request, step, modules[step.id], in_root, out_root, stream)
            if code != EXIT_OK:
                return code
    return EXIT_OK


def serve() -> int:
    """Run stages of the request in this process, as their ids come on standard input.

    Returns:
        0 at its end, or 3 after a stage failed.
    """
    in_root, out_root = _places()
    stream = EventStream(claim_stdout())
    commands = claim_stdin()
    request = requests.load(in_root / "request.json")
    for line in commands:
        step = request.step(line.strip())
        code = _run_here(request, step, _stage_module(step.stage), in_root, out_root, stream)
        if code != EXIT_OK:
            return code
    return EXIT_OK


def _places() -> tuple[Path, Path]:
    """Return the folders of inputs and of results."""
    return Path(os.environ.get("KILN_IN", _IN)), Path(os.environ.get("KILN_OUT", _OUT))


def _python_of(module: ModuleType) -> str:
    """Return the interpreter that runs a stage."""
    elsewhere = module.ENVIRONMENT == "metadata" and not _shared()
    return _metadata_python() if elsewhere else sys.executable


def _stage_module(name: str) -> ModuleType:
    unknown = StageError("stage-failed", f"There is no stage called {name!r}.", "This is a bug.")
    if not (Path(__file__).parents[1] / "steps" / f"{name}.py").is_file():
        raise unknown
    module = importlib.import_module(f"stages.steps.{name}")
    if getattr(module, "ENVIRONMENT", None) not in _ENVIRONMENTS or not hasattr(module, "run"):
        raise unknown
    return module


def _run_here(
    request: requests.Request,
    step: requests.Step,
    module: ModuleType,
    in_root: Path,
    out_root: Path,
    stream: EventStream,
) -> int:
    stream.send("started", step.id)
    start = time.monotonic()
    _reset_peak_rss()
    try:
        given = requests.facts_as_params(step, out_root)
        params = requests.complete_params(given, getattr(module, "PARAMS", {}), step.stage)
        inputs = request.resolve(step, in_root, out_root)
        folder = out_root / step.id
        files = folder / "files"
        files.mkdir(parents=True)
        facts = module.run(params, inputs, files, Emitter(stream, step.id))
        seconds, peak = round(time.monotonic() - start, 3), _peak_rss()
        _write_result(
            folder, {"status": "ok", "facts": facts, "seconds": seconds, "peak_rss": peak}
        )
    except Exception as error:  # a stage must never end in a bare traceback
        if not isinstance(error, StageError):
            traceback.print_exc()
        _report(stream, step.id, error)
        return EXIT_FAILED
    sys.stdout.flush()  # to the log: this process may be ended when it has told its last event
    stream.send("finished", step.id, seconds=seconds, peak_rss=peak)
    return EXIT_OK


def _metadata_python() -> str:
    return os.environ.get("KILN_METADATA_PYTHON", _METADATA_PYTHON)


def _shared() -> bool:
    """Whether both environments are this one: Model Maker's has tflite-support beside TensorFlow,
    so a separate process would only import both again."""
    return _metadata_python() == sys.executable  # not resolved: all lead to Debian's python3


def _run_elsewhere(steps: list[requests.Step], out_root: Path, stream: EventStream) -> int:
    python = _metadata_python()
    package_root = Path(__file__).resolve().parents[2]
    try:
        code = subprocess.run(
            [python, "-m", "stages", *(part for step in steps for part in ("--only", step.id))],
            stdin=subprocess.DEVNULL,
            stdout=stream.descriptor,
            cwd=package_root,
            check=False,
        ).returncode
    except OSError as error:
        _report(stream, steps[0].id, error)
        return EXIT_FAILED
    if code not in (EXIT_OK, EXIT_FAILED):
        # A dead process does not say where it died: the first stage without a result is it.
        dead = [step.id for step in steps if not (out_root / step.id / "result.json").exists()]
        _report(stream, dead[0] if dead else steps[-1].id, death_of(code))
        return EXIT_FAILED
    return code


def _report(stream: EventStream, stage_id: str, error: Exception) -> None:
    if isinstance(error, StageError):
        kind, message, remedy = error.kind, error.message, error.remedy
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        kind, message = "disk-full", f"No space left while writing {error.filename or 'a file'}."
        remedy = "Free some space and run the command again."
    elif isinstance(error, MemoryError):
        kind, message = "stage-out-of-memory", "The stage ran out of memory."
        remedy = "Give it more memory and run the command again."
    else:
        lines = [line for line in str(error).splitlines() if line.strip()]
        last = lines[-1].strip() if lines else ""
        kind, message = "stage-failed", f"{type(error).__name__}: {last}" if last else repr(error)
        remedy = "The stage's log holds the whole traceback."
    stream.send("failed", stage_id, kind=kind, message=message, remedy=remedy)


def _write_result(folder: Path, result: dict[str, Any]) -> None:
    # Last of all, and by rename: this file makes the folder a result.
    part = folder / ".result.json.part"
    with part.open("w", encoding="utf-8") as file:
        json.dump(result, file, indent=1, sort_keys=True, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.rename(folder / "result.json")


def _reset_peak_rss() -> None:
    # Linux: writing 5 resets the high-water mark, so that each stage has its own peak. Where that
    # is not allowed, the figure is the peak of the process so far.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_rss() -> int:
    """Return peak resident memory in bytes since :func:`_reset_peak_rss`; 0 if unknown."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
