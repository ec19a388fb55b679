"""Stage: compile an int8 file for an Ethos-U NPU with Arm's Vela.

Vela replaces the operators that the NPU has by calls of it, and leaves the others to the processor
beside it. It also estimates cycles and memory. Its output is compared with the file it was made of
(:mod:`stages.tflite.compiled`), because a compiler that swaps two outputs, or drops the labels, is
otherwise noticed on the device.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import os
import re
import runpy
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from stages.gates.result import Gate
from stages.protocol.failures import StageError
from stages.protocol.request import REQUIRED
from stages.tflite import compiled, flatbuffer, packed_files, tflite_model

ENVIRONMENT = "device"

PARAMS: dict[str, Any] = {
    "target": REQUIRED,  # as Vela calls it: "ethos-u65-256"
    "system_config": REQUIRED,  # of Vela's configuration: clock and memories of the chip
    "memory_mode": REQUIRED,  # which of them holds weights and activations
    "least_mapped": REQUIRED,  # 0..1: the smallest share of operators on the NPU
    "seconds": 600,  # that Vela may take
}

MODEL_FILE = "model.tflite"
GATE = "compiled"

_CONFIG = "Arm/vela.ini"  # comes with Vela
_LOG_END = 4000  # characters of its output that a failure repeats in the log
_MOST_REASONS = 12
_LOOK = 0.02  # seconds between two looks whether Vela has ended
_COUNTS = re.compile(r"^(CPU|NPU) operators = (\d+) ", re.M)
_LEFT = re.compile(r"^Warning \(supported operators\) operator: (\w+),.*\nReason: (.*)", re.M)
_MEMORIES = {
    "sram": "sram_memory_used",
    "dram": "dram_memory_used",
    "on_chip_flash": "on_chip_flash_memory_used",
    "off_chip_flash": "off_chip_flash_memory_used",
}
_SMALLER = (
    "Operators in float always stay there, and each change to and fro costs time. To have it "
    "anyway, lower least_mapped of that [[compile]] (`kiln compile`: --least-mapped); else leave "
    "it out."
)


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Compile ``inputs["model"]``, an annotated int8 file; write ``out/model.tflite``.

    Returns:
        Facts: ``compiler`` (name and version), ``target``, ``system_config``, ``memory_mode``,
        ``operators`` (``npu`` and ``cpu``: how many of the original's), ``left`` (those on the
        processor, by Vela's name for them), ``reasons`` (for that, as Vela says), ``calls`` (of
        the NPU, in the file), ``estimate`` (by Vela's own model: ``cycles``, ``clock`` in Hz,
        ``inferences_per_second``, ``macs``, and the bytes it needs of each kind of memory),
        ``restored`` (what Vela had dropped), ``bytes``, ``gates``.

    Raises:
        StageError: kinds ``unsupported-model`` (too little of it runs on the NPU, or it is no
            model to compile), ``compiler`` (Vela failed, took too long, or changed the model).
    """
    original = inputs["model"].read_bytes()
    _check_integer(original)
    target, seconds = params["target"], params["seconds"]
    emit.progress(0, 2, "compiling")
    with tempfile.TemporaryDirectory() as folder:
        written, said, figures = _vela(original, params, Path(folder), seconds)
    emit.progress(1, 2, "comparing")
    try:
        done = compiled.finished(original, written)
    except compiled.UnlikeError as error:
        raise _changed(target, str(error)) from error
    counts = {kind.lower(): int(number) for kind, number in _COUNTS.findall(said)}
    if set(counts) != {"cpu", "npu"} or not sum(counts.values()):
        raise _changed(target, "its report does not count operators")
    left = Counter(name for name, _ in _LEFT.findall(said))
    share = counts["npu"] / sum(counts.values())
    if share < params["least_mapped"]:
        raise StageError(
            "unsupported-model",
            f"Only {_percent(share)} of its operators ({counts['npu']} of {sum(counts.values())}) "
            f"run on {target}, and {_percent(params['least_mapped'])} are wanted. Left to the "
            f"processor: {_counted(left)}.",
            _SMALLER,
        )
    facts = {
        "compiler": {"name": "Vela", "version": importlib.metadata.version("ethos-u-vela")},
        "target": target,
        "system_config": params["system_config"],
        "memory_mode": params["memory_mode"],
        "operators": counts,
        "left": dict(sorted(left.items())),
        "reasons": _reasons(said),
        "calls": sum(done.calls.values()),
        "estimate": _estimate(figures, target),
        "restored": list(done.restored),
        "bytes": len(done.data),
    }
    gate = _gate(facts, share)
    (out / MODEL_FILE).write_bytes(done.data)
    return {**facts, "gates": [gate.as_json()]}


def _check_integer(data: bytes) -> None:
    """Refuse what no compiler for an NPU takes, before one crashes on it."""
    try:
        model = tflite_model.read(packed_files.split(data)[0])
    except flatbuffer.FlatError as error:
        raise StageError("unsupported-model", f"The file to compile is {error}.") from error
    kinds = compiled.float_inputs(model.graph) if model.graph.inputs else ["missing"]
    if kinds:
        raise StageError(
            "unsupported-model",
            f"Its input is {', '.join(kinds)}; an NPU computes in whole numbers only.",
            "Compile the int8 file.",
        )


def _vela(
    original: bytes, params: dict[str, Any], folder: Path, seconds: float
) -> tuple[bytes, str, dict[str, str]]:
    """Run Vela; return the file it wrote, its output, and the row of its summary."""
    model, log = folder / MODEL_FILE, folder / "log"
    # Without the packed files, which it would drop without a word.
    model.write_bytes(packed_files.split(original)[0])
    target = params["target"]
    arguments = [
        str(model), "--output-dir", str(folder),
        "--accelerator-config", target, "--config", _CONFIG,
        "--system-config", params["system_config"], "--memory-mode", params["memory_mode"],
    ]  # fmt: skip
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _become_vela(arguments, log)
    code = _wait(child, seconds, target)
    said = log.read_text("utf-8", "replace")
    print(said, file=sys.stderr)
    if code != 0:
        raise _failed(target, code, said)
    written, summaries = folder / "model_vela.tflite", sorted(folder.glob("model_summary_*.csv"))
    if not written.is_file() or len(summaries) != 1:
        raise _changed(target, "it wrote no model, or no report")
    with summaries[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != 1:
        raise _changed(target, "its report is not of one model")
    return written.read_bytes(), said, rows[0]


def _become_vela(arguments: list[str], log: Path) -> NoReturn:
    """Run Vela in this process, which is a copy, and end it.

    A copy and no new interpreter: Vela then runs on the processor that this stage runs on, even if
    that is an emulated one, as in the proofs.
    """
    code = 1
    try:
        os.setsid()
        sink = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
        for stream in (1, 2):
            os.dup2(sink, stream)
        # As for a new program: what this process had changed of them is not Vela's.
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
        sys.argv = ["vela", *arguments]
        runpy.run_module("ethosu.vela", run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code)
    except BaseException:  # whatever it is: this copy must not return
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(child: int, seconds: float, target: str) -> int:
    """Wait for Vela; return its exit code, or minus the signal that ended it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_LOOK)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise StageError(
        "compiler",
        f"Vela was not finished with it for {target} after {seconds:g} s.",
        "Remove that [[compile]], or compile for another target.",
    )


def _estimate(row: dict[str, str], target: str) -> dict[str, Any]:
    try:
        return {
            "cycles": int(float(row["cycles_total"])),
            "clock": int(float(row["core_clock"])),
            "inferences_per_second": round(float(row["inferences_per_second"]), 3),
            "macs": int(float(row["nn_macs"])),
            **{name: int(float(row[column]) * 1024) for name, column in _MEMORIES.items()},
        }
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise _changed(target, f"its report cannot be read ({error})") from error


def _reasons(said: str) -> dict[str, int]:
    """Count Vela's reasons, without the names of tensors; the most frequent ones."""
    found = Counter(re.sub(r" \(.*\)$", "", reason.strip()) for _, reason in _LEFT.findall(said))
    return dict(sorted(found.most_common(_MOST_REASONS)))


def _gate(facts: dict[str, Any], share: float) -> Gate:
    operators, estimate = facts["operators"], facts["estimate"]
    return Gate(
        GATE,
        f"{_percent(share)} of {sum(operators.values())} operators run on {facts['target']}; "
        "input, outputs, labels and metadata are those of the file it was compiled from",
        figures={"mapped": round(share, 4), **operators, **estimate},
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _counted(names: Counter[str]) -> str:
    parts = [name if count == 1 else f"{count} {name}" for name, count in names.most_common()]
    return ", ".join(parts) or "it does not say which"


def _failed(target: str, code: int, said: str) -> StageError:
    lines = [line.strip() for line in said[-_LOG_END:].splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "it said nothing"
    how = f"crashed (signal {-code})" if code < 0 else f"failed (code {code})"
    return StageError(
        "compiler",
        f"Vela {how} on it for {target}: {last}",
        "Remove that [[compile]], or compile for another target; the stage's log has its output.",
    )


def _changed(target: str, why: str) -> StageError:
    return StageError(
        "compiler",
        f"What Vela made of it for {target} is not a compiled form of the int8 file: {why}.",
        "It is not published. Remove that [[compile]], or compile for another target.",
    )
