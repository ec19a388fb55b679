"""Stage: measure how long files take under LiteRT's Interpreter, on the processor of this machine.

A measurement, not a function of its inputs: its result is never kept for another run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stages.device import apart, compiled_model
from stages.protocol.request import REQUIRED
from stages.steps import litert
from stages.tflite import tflite_model

ENVIRONMENT = "device"

PARAMS: dict[str, Any] = {
    "threads": REQUIRED,  # numbers of threads, one measurement each
    "warmup": 5,  # rounds that are not counted
    "runs": 30,  # rounds that are
    "seconds": None,  # instead: start rounds until so much time has passed (at least one)
}

_SEED = 20  # arbitrary, but fixed


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Time the files in ``inputs["models"]``, a folder, on inputs of seeded noise.

    Each number of threads is a measurement of its own: idle workers of a thread pool spin for a
    while, which would slow down the next file.

    Returns:
        Facts: ``runtime``, name and version; ``times``, a list of ``{"file", "threads", ...}`` with
        the figures of :func:`statistics_of`; ``failed``: file -> why it has no times.
    """
    compiled_model.load()  # once for all children
    left = sorted(inputs["models"].iterdir())
    found: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for done, threads in enumerate(params["threads"]):
        emit.progress(done, len(params["threads"]), f"{threads} thread{'s' * (threads > 1)}")
        times = _times(left, threads, params, failed)
        left = [path for path in left if path.name not in failed]
        found += [
            {"file": name, "threads": threads, **statistics_of(milliseconds)}
            for name, milliseconds in times.items()
        ]
    version = litert.version(litert.DISTRIBUTION)
    return {"runtime": f"{litert.DISTRIBUTION} {version}", "times": found, "failed": failed}


def statistics_of(times: Sequence[float]) -> dict[str, Any]:
    """Compute ``runs``, ``median_ms``, ``p90_ms`` (interpolated), ``min_ms``, ``mean_ms``.

    >>> statistics_of([4.0, 1.0, 2.0, 3.0, 10.0])["median_ms"]
    3.0
    """
    deciles = statistics.quantiles(times, n=10, method="inclusive") if len(times) > 1 else [*times]
    figures = {
        "median_ms": statistics.median(times),
        "p90_ms": deciles[-1],
        "min_ms": min(times),
        "mean_ms": statistics.fmean(times),
    }
    return {**{name: round(value, 4) for name, value in figures.items()}, "runs": len(times)}


def _times(
    paths: Sequence[Path], threads: int, params: dict[str, Any], failed: dict[str, str]
) -> dict[str, list[float]]:
    """Time the files that can be timed; add the others to ``failed``."""
    left = {path.name: path for path in paths}
    while left:

        def work(tell: apart.Tell, chosen: Sequence[Path] = tuple(left.values())) -> Any:
            return _rounds(chosen, threads, params, tell)

        answer = apart.run(work)
        if not isinstance(answer, apart.Died):
            failed.update(answer["not_timed"])
            times: dict[str, list[float]] = answer["times"]
            return times
        # The file it was working on is the culprit; without one, nothing more is known.
        for name in [answer.at] if answer.at in left else list(left):
            failed[name] = answer.reason
            del left[name]
    return {}


def _rounds(
    paths: Sequence[Path], threads: int, params: dict[str, Any], tell: Callable[[Any], None]
) -> dict[str, Any]:
    """Time all files round after round, one inference of each: a slow machine affects all alike.

    A first pass loads and sets up each file alone; a file that fails there is left out with its
    reason, the others go on.
    """
    ready: dict[str, Any] = {}
    times: dict[str, list[float]] = {}
    refused: dict[str, str] = {}
    for path in paths:
        tell(path.name)
        try:
            ready[path.name] = interpreter(path.read_bytes(), threads)
        except Exception as error:  # the runtime's own, of many classes
            refused[path.name] = " ".join(str(error).split()) or type(error).__name__
    for _ in range(params["warmup"]):
        for name, each in ready.items():
            tell(name)
            each.invoke()
    seconds = params["seconds"]
    end = None if seconds is None else time.monotonic() + seconds
    done = 0
    while ready and (done < params["runs"] if end is None else not done or time.monotonic() < end):
        for name, each in ready.items():
            start = time.perf_counter_ns()
            each.invoke()
            times.setdefault(name, []).append((time.perf_counter_ns() - start) / 1e6)
        done += 1
        tell(None)
    return {"times": times, "not_timed": refused}


def interpreter(data: bytes, threads: int) -> Any:
    """Return an interpreter whose inputs are filled with seeded noise of their own types.

    Raises:
        ValueError: the file is damaged, or an input has no fixed shape or an odd type.
    """
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    tflite_model.read(data)  # reports damage on which the interpreter may crash
    made = Interpreter(model_content=data, num_threads=threads)
    details = made.get_input_details()
    for detail in details:
        if any(size < 1 for size in detail["shape_signature"]):
            shape = [int(size) for size in detail["shape_signature"]]
            raise ValueError(f"its input {detail['name']} has no fixed shape ({shape})")
    made.allocate_tensors()
    random = np.random.default_rng(_SEED)
    for detail in details:
        dtype = np.dtype(detail["dtype"])
        if dtype.kind == "f":
            values = random.uniform(-1, 1, detail["shape"]).astype(dtype)
        elif dtype.kind in "iu":
            # Eight bits of noise in any integer type: larger numbers could be indices.
            low, high = (-128, 128) if dtype == np.int8 else (0, 256)
            values = random.integers(low, high, detail["shape"]).astype(dtype)
        else:
            raise ValueError(f"its input {detail['name']} is {dtype}: this type is not supported")
        made.set_tensor(detail["index"], values)
    return made
