"""Read and write the embedded samples' weights: one ``.npz`` file of half-precision arrays.

Each array is one variable of a model, under the variable's object path below the model
(attribute names joined with ``/``), so the file depends neither on a framework's file format nor
on layer names that contain a counter.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

from stages.odapi import restoration
from stages.protocol.failures import StageError

VARIANCE = "moving_variance"
"""Last part of the path of a batch norm's variance."""

_NAMED = 5  # how many variables a message names


def variables(model: Any) -> dict[str, Any]:
    """Map a built model's TensorFlow variables by object path
    (:func:`stages.odapi.restoration.object_paths`)."""
    return restoration.object_paths(model)


def half(name: str, values: Any) -> Any:
    """Round ``values`` to float16.

    Args:
        name: of the variable, for the message.
        values: floating-point array.

    Raises:
        StageError: kind ``checkpoint``; a value is not finite in float16, or a variance is not
            above zero in it.
    """
    import numpy as np

    with np.errstate(over="ignore", under="ignore"):
        rounded = np.asarray(values).astype(np.float16)
    if not np.isfinite(rounded).all():
        raise _unfit(f"{name} has values that half precision cannot hold")
    if name.rpartition("/")[2] == VARIANCE and not (rounded > 0).all():
        raise _unfit(f"{name} has a variance that is zero or less in half precision")
    return rounded


def write(path: Path, values: dict[str, Any]) -> None:
    """Write arrays, rounded by :func:`half`, sorted by name; same values give the same bytes.

    Args:
        path: of the ``.npz`` file.
        values: object path -> floating-point array.

    Raises:
        StageError: see :func:`half`.
    """
    import numpy as np

    rounded = {name: half(name, values[name]) for name in sorted(values)}
    with path.open("wb") as file:  # a file object: numpy would append ".npz" to another name
        np.savez_compressed(file, **rounded)


def read(path: Path) -> dict[str, Any]:
    """Read the arrays of a file, widened to float32 (which changes no value).

    Raises:
        StageError: kind ``checkpoint``; the file is not one of :func:`write`'s, or damaged.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
        if not all(isinstance(array, np.ndarray) for array in values.values()):
            raise ValueError("it holds something that is no array")
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        RuntimeError,  # encrypted, or a compression that is not numpy's
        AttributeError,  # a single .npy array is not a context manager, in Python 3.9
        TypeError,  # the same in newer versions
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0].rstrip(".") if lines else type(error).__name__
        raise StageError(
            "checkpoint",
            f"The weights file {path.name} cannot be read: {reason}.",
            "It is damaged or truncated; get it from the project again.",
        ) from error
    for name, array in values.items():
        if array.dtype != np.float16:
            raise _unfit(f"{name} in {path.name} is {array.dtype}, not float16")
    return {name: half(name, array).astype(np.float32) for name, array in values.items()}


def assign(targets: dict[str, Any], values: dict[str, Any]) -> int:
    """Assign every variable its value, if both sides have the same names and shapes.

    Args:
        targets: object path -> variable (:func:`variables`).
        values: object path -> array (:func:`read`).

    Returns:
        How many parameters (numbers) were assigned.

    Raises:
        StageError: kind ``checkpoint``; the two do not fit. Nothing is assigned then.
    """
    missing = sorted(set(targets) - set(values))
    if missing:
        what = f"{len(missing)} of the model's {len(targets)} variables are not in them"
        raise _mismatch(what, missing)
    unused = sorted(set(values) - set(targets))
    if unused:
        raise _mismatch(f"{len(unused)} of them have no place in the model", unused)
    reshaped = [
        f"{name} (model {list(target.shape)}, weights {list(values[name].shape)})"
        for name, target in sorted(targets.items())
        if list(target.shape) != list(values[name].shape)
    ]
    if reshaped:
        raise _mismatch(f"{len(reshaped)} have another shape in the model", reshaped)
    for name, target in targets.items():
        target.assign(values[name])
    return sum(int(array.size) for array in values.values())


def _mismatch(what: str, names: list[str]) -> StageError:
    shown = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    return StageError(
        "checkpoint",
        f"The packed weights do not fit the model: {what}: {shown}.",
        "Weights and the model's description must belong together (same architecture, same"
        " number of classes).",
    )


def _unfit(reason: str) -> StageError:
    return StageError(
        "checkpoint",
        f"These cannot be packed weights: {reason}.",
        "Packed weights are finite float16 arrays with variances above zero; train the model with"
        " smaller weights or pack it again.",
    )
