"""Run native runtimes (LiteRT, MediaPipe) in a process of their own.

:mod:`kiln.checks.worker_process` runs this as a file (``python runtime_worker.py``) with the
interpreter that has the runtimes; it imports nothing of kiln. With ``--ahead`` it loads them before
it reads the request, so that an early start saves time. The request is JSON on standard input::

    {"stages": "folder that holds the package stages", "items": [{"task": ..., ...}, ...]}

Answers are JSON lines on the original standard output: ``{"begin": N}`` before item N is started
(which identifies the culprit of a crash), ``{"alive": N}`` in long work (``"at"``: the file it is
working on), ``{"end": N, "result": {...}}``. Output of libraries goes to standard error.

A result is ``{"runtime": name and version, ...}`` with ``detections`` or ``times``, or else one
of ``missing`` (the distribution to install), ``unimportable`` (what it lacks), ``unsafe`` (why it
must not run here), ``refused`` (the runtime's own message about the model) and ``failed`` (any
other failure, as text).

The process has no network: MediaPipe sends "metrics about the performance and utilization of the
APIs" to its maker; it has no switch for that, and builders did not consent. Where the kernel cannot
block the network, MediaPipe is not loaded.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import platform
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

LITERT, MEDIAPIPE = "ai-edge-litert", "mediapipe"
"""Distributions; also how results name the runtimes."""

_ENLARGED = 2048  # pixels: size of the picture for MediaPipe, see _enlarged
_MEDIAPIPE = ("mediapipe", "mediapipe.tasks.python.vision")
_SEED = 20  # for the input of latency measurements: arbitrary, but fixed

Alive = Callable[..., None]
"""Reports that work goes on; ``at``: the file in use, the culprit of a crash."""


class _RefusedError(Exception):
    """The runtime does not accept the model; the message is the runtime's."""


class _UnimportableError(Exception):
    """The runtime is installed but lacks something; the message says what."""


class _MissingError(Exception):
    """The runtime is not installed; the message is the distribution's name."""


def main() -> None:
    """Serve one request."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(**fields: Any) -> None:
        answers.write(json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n")
        answers.flush()

    open_reason = refuse_network()
    if "--ahead" in sys.argv:
        _load_ahead(open_reason)
    request = json.loads(sys.stdin.buffer.read())
    sys.path.insert(0, request["stages"])
    for number, item in enumerate(request["items"]):
        emit(begin=number)
        if open_reason and item["runtime"] == MEDIAPIPE:
            emit(end=number, result={"unsafe": open_reason})
            continue
        emit(end=number, result=_result(item, functools.partial(emit, alive=number)))


def _load_ahead(open_reason: str) -> None:
    """Load what items will need; a failure is reported by the item that needs it."""
    for name in ("PIL.Image", "ai_edge_litert.interpreter", *([] if open_reason else _MEDIAPIPE)):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _result(item: dict[str, Any], alive: Alive) -> dict[str, Any]:
    runtime = item["runtime"]
    try:
        name = f"{runtime} {_version(runtime)}"
    except _MissingError:
        return {"missing": runtime}
    try:
        return {"runtime": name, **_TASKS[item["task"], runtime](item, alive)}
    except _UnimportableError as error:
        return {"runtime": name, "unimportable": str(error)}
    except _RefusedError as error:
        return {"runtime": name, "refused": str(error)}
    except Exception as error:
        return {"runtime": name, "failed": _words(error)}


def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise _MissingError(distribution) from None


def _words(error: BaseException) -> str:
    """Format an exception as one line."""
    return " ".join(str(getattr(error, "message", error)).split()) or type(error).__name__


# --- no network ----------------------------------------------------------------------------

_SOCKET_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""By machine: ``AUDIT_ARCH_*`` of <linux/audit.h> and the number of socket(2)."""

_SET_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2  # <linux/prctl.h>, <linux/seccomp.h>
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # <linux/bpf_common.h>
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERRNO, _EACCES = 0x7FFF0000, 0x00050000, 13


def refuse_network() -> str:
    """Make socket(2) fail for all but local sockets, in this process and its children.

    A seccomp filter needs no rights and no namespace, which systems often restrict.

    Returns:
        Why that failed, or "" if it is done.
    """
    import ctypes

    machine = platform.machine()
    if sys.platform != "linux" or machine not in _SOCKET_CALLS:
        return f"{sys.platform} on {machine} cannot block its network access"
    architecture, number = _SOCKET_CALLS[machine]
    steps = [  # code, steps to skip if equal, if not, operand
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 0, 4, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_EQUAL, 0, 2, number),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_IF_EQUAL, 0, 1, socket.AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | _EACCES),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    done = libc.prctl(_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) == 0 and (
        libc.prctl(_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), program, zero, zero) == 0
    )
    if not done:
        error = os.strerror(ctypes.get_errno())
        return f"the kernel refused to block its network access ({error})"
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except PermissionError:
        return ""
    return "the kernel accepted the network filter but does not apply it"


# --- detections ----------------------------------------------------------------------------


def _detect_in_litert(item: dict[str, Any], alive: Alive) -> dict[str, Any]:
    from stages.detect import detector
    from stages.files import pixels
    from stages.protocol.failures import StageError

    _interpreter_class()
    try:
        model = detector.load(Path(item["model"]))
    except StageError as error:
        raise _RefusedError(_words(error)) from error
    found = {}
    for name, path in item["images"].items():
        found[name] = model.detect(pixels.load_rgb(Path(path)), item["score_threshold"])
        alive()
    return {"detections": found}


def _detect_in_mediapipe(item: dict[str, Any], alive: Alive) -> dict[str, Any]:
    from stages.tflite import tflite_meta, tflite_model

    data = Path(item["model"]).read_bytes()
    model = tflite_model.read(data)
    metadata = tflite_meta.read(model)
    labels: list[str] = []
    with contextlib.suppress(ValueError):  # leave the message to MediaPipe
        labels = tflite_meta.labels(data, metadata) if metadata else []
    _, height, width, _ = model.graph.tensors[model.graph.inputs[0]].shape
    try:
        import mediapipe as mp
        from mediapipe.tasks.python.core.base_options import BaseOptions
        from mediapipe.tasks.python.vision import ObjectDetector, ObjectDetectorOptions
    except (ImportError, OSError) as error:  # OSError: a missing system library
        raise _UnimportableError(_words(error)) from error
    try:
        detector = ObjectDetector.create_from_options(
            ObjectDetectorOptions(
                base_options=BaseOptions(model_asset_buffer=data),
                score_threshold=item["score_threshold"],
                max_results=-1,
            )
        )
    # A refusal comes as one of many error classes, by its reason. A plain OSError is not one: the
    # native part is loaded only now, and a system library may be missing.
    except Exception as error:
        if type(error) is OSError:
            raise _UnimportableError(_words(error)) from error
        raise _RefusedError(_words(error)) from error
    found = {}
    with detector:
        for name, path in item["images"].items():
            image = _enlarged(_input_picture(Path(path), item["ready"]), height, width)
            answer = detector.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=image))
            found[name] = [
                _as_ours(each, image.shape[0], image.shape[1], labels) for each in answer.detections
            ]
            alive()
    return {"detections": found}


def _input_picture(path: Path, ready: bool) -> Any:
    """Read a picture of the input's size: an array as the check stage fed it, or an image file."""
    import numpy as np

    from stages.files import pixels

    return np.load(path, allow_pickle=False) if ready else pixels.load_rgb(path)


def _enlarged(picture: Any, height: int, width: int) -> Any:
    """Repeat the pixels of a picture that has the input's size.

    MediaPipe's resizer (OpenCV's, without antialiasing) differs from TensorFlow's: on photographs
    it alone moves scores by up to 0.3 and hides whether the model is read correctly. And it
    stretches pictures, whatever the model's training did. A picture of K x K equal pixels for each
    input pixel passes any centred resizer unchanged: with K of 3, 4, 8 and 9 the scores of uint8
    models were TensorFlow's to the last bit. Pixels are repeated because MediaPipe returns boxes in
    whole pixels of the picture.

    Args:
        picture: uint8 array [height, width, 3].
        height: of the model's input.
        width: of the model's input.

    Returns:
        uint8 array [K * height, K * width, 3], contiguous (MediaPipe refuses others).

    Raises:
        ValueError: the picture is another one.
    """
    import numpy as np

    if picture.shape != (height, width, 3) or picture.dtype != np.uint8:
        raise ValueError(
            f"a picture is {picture.dtype} {list(picture.shape)}, not uint8 {[height, width, 3]}"
        )
    times = max(1, _ENLARGED // max(height, width))
    return np.ascontiguousarray(picture.repeat(times, 0).repeat(times, 1))


def _as_ours(detection: Any, height: int, width: int, labels: list[str]) -> dict[str, Any]:
    """Convert a detection of MediaPipe to the form of :mod:`stages.detect.detector`.

    It names the class by its label; only without a label by its index (from 0).
    """
    box, best = detection.bounding_box, detection.categories[0]
    label = best.category_name
    known = label in labels
    index = best.index if label is None else labels.index(label) if known else -1
    return {
        "box": [
            box.origin_y / height,
            box.origin_x / width,
            (box.origin_y + box.height) / height,
            (box.origin_x + box.width) / width,
        ],
        "score": best.score,
        "class_id": index + 1,
        "label": "???" if label is None else label,
    }


# --- latency -------------------------------------------------------------------------------


class _Timed(NamedTuple):
    """A loaded file and its times so far, in milliseconds."""

    interpreter: Any
    milliseconds: list[float]


def _time_in_litert(item: dict[str, Any], alive: Alive) -> dict[str, Any]:
    """Time all files round after round, one inference of each: a slow machine affects all alike.

    A first pass loads and sets up each file alone; a file that fails there is left out with its
    reason, the others go on.
    """
    timed: dict[str, _Timed] = {}
    refused: dict[str, str] = {}
    interpreter_class = _interpreter_class()
    for path in item["models"]:
        alive(at=path)
        try:
            timed[path] = _Timed(_ready(interpreter_class, Path(path), item["threads"]), [])
        except Exception as error:
            refused[path] = _words(error)
    for _ in range(item["warmup"]):
        for path, each in timed.items():
            alive(at=path)
            each.interpreter.invoke()
    end = time.monotonic() + item["seconds"] if item["seconds"] is not None else None
    done = 0
    while timed and (done < item["runs"] if end is None else done < 1 or time.monotonic() < end):
        for each in timed.values():
            start = time.perf_counter_ns()
            each.interpreter.invoke()
            each.milliseconds.append((time.perf_counter_ns() - start) / 1e6)
        done += 1
        alive()
    return {
        "times": {path: each.milliseconds for path, each in timed.items()},
        "not_timed": refused,
    }


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise _UnimportableError(_words(error)) from error
    return Interpreter


def _ready(interpreter_class: Any, path: Path, threads: int) -> Any:
    """Return an interpreter whose inputs are filled with seeded noise of their own types."""
    import numpy as np

    from stages.tflite import tflite_model

    data = path.read_bytes()
    tflite_model.read(data)  # reports damage on which the interpreter may crash
    interpreter = interpreter_class(model_content=data, num_threads=threads)
    details = interpreter.get_input_details()
    for detail in details:
        if any(size < 1 for size in detail["shape_signature"]):
            shape = [int(size) for size in detail["shape_signature"]]
            raise ValueError(f"its input {detail['name']} has no fixed shape ({shape})")
    interpreter.allocate_tensors()
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
        interpreter.set_tensor(detail["index"], values)
    return interpreter


_TASKS: dict[tuple[str, str], Callable[[dict[str, Any], Alive], dict[str, Any]]] = {
    ("detect", LITERT): _detect_in_litert,
    ("detect", MEDIAPIPE): _detect_in_mediapipe,
    ("time", LITERT): _time_in_litert,
}

if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the driver is gone
        main()
