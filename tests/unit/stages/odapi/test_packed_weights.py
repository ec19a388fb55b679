from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.odapi import packed_weights
from stages.protocol.failures import StageError

VALUES = {
    "head/kernel": np.linspace(-3, 3, 24, dtype=np.float32).reshape(1, 2, 3, 4),
    "head/bias": np.array([0.1, -4.6], np.float32),
    "norm/moving_variance": np.array([0.25, 4.0], np.float32),
}


class Variable:
    """What :func:`packed_weights.assign` needs of a variable: a shape, and ``assign``."""

    def __init__(self, *shape: int) -> None:
        self.value = np.zeros(shape, np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def assign(self, value: Any) -> None:
        self.value = np.array(value)


def targets() -> dict[str, Any]:
    return {name: Variable(*array.shape) for name, array in VALUES.items()}


def written(path: Path, values: dict[str, Any]) -> Path:
    packed_weights.write(path, values)
    return path


def test_what_is_read_is_what_was_written_rounded_to_half(tmp_path: Path) -> None:
    found = packed_weights.read(written(tmp_path / "weights.npz", VALUES))
    assert set(found) == set(VALUES)
    for name, array in VALUES.items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], array.astype(np.float16).astype(np.float32))
    # 0.1 is no float16: rounding took place, and writing again changes nothing more.
    assert found["head/bias"][0] != np.float32(0.1)
    again = packed_weights.read(written(tmp_path / "again.npz", found))
    assert all(np.array_equal(again[name], found[name]) for name in VALUES)


def test_the_same_values_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    one = written(tmp_path / "one.npz", VALUES)
    other = written(tmp_path / "other.npz", dict(reversed(list(VALUES.items()))))
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_name_without_suffix_stays_as_it_is(tmp_path: Path) -> None:
    written(tmp_path / "weights", VALUES)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("head/kernel", [70000.0], "half precision cannot hold"),
        ("head/kernel", [float("nan")], "half precision cannot hold"),
        ("norm/moving_variance", [1.0, 1e-9], "variance that is zero"),
        ("norm/moving_variance", [-1.0], "variance that is zero"),
        ("moving_variance", [0.0], "variance that is zero"),
    ],
)
def test_what_half_precision_cannot_hold_is_refused(
    tmp_path: Path, name: str, values: list[float], reason: str
) -> None:
    path = tmp_path / "weights.npz"
    with pytest.raises(StageError, match=reason) as caught:
        packed_weights.write(path, {name: np.array(values, np.float32)})
    assert name in caught.value.message
    assert not path.exists()


def test_a_small_value_that_is_no_variance_may_become_zero() -> None:
    assert packed_weights.half("head/kernel", np.array([1e-9], np.float32)).tolist() == [0.0]


def _truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    # Inside the first array's compressed data: behind its local header.
    place = data.index(b".npy") + 40
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def _single_array(_: bytes) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3, np.float16))
    return stream.getvalue()


def _pickled(_: bytes) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{"head/bias": np.array([{}], dtype=object)})
    return stream.getvalue()


def _no_array(_: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("head/bias.npy", "not an array")
    return stream.getvalue()


@pytest.mark.parametrize(
    "damage",
    [_truncated, _flipped, _single_array, _pickled, _no_array, lambda _: b"", lambda _: b"text"],
    ids=["truncated", "flipped", "single", "pickled", "no-array", "empty", "text"],
)
def test_other_files_are_refused(tmp_path: Path, damage: Any) -> None:
    path = written(tmp_path / "weights.npz", VALUES)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StageError, match=r"weights\.npz") as caught:
        packed_weights.read(path)
    assert caught.value.kind == "checkpoint"
    assert caught.value.remedy


def test_other_precisions_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "weights.npz", **{"head/bias": np.zeros(2, np.float32)})
    with pytest.raises(StageError, match=r"head/bias in weights\.npz is float32"):
        packed_weights.read(tmp_path / "weights.npz")


def test_a_stored_variance_of_zero_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, **{"norm/moving_variance": np.zeros(2, np.float16)})
    with pytest.raises(StageError, match="variance that is zero"):
        packed_weights.read(path)


def test_every_variable_gets_its_value() -> None:
    variables = targets()
    assert packed_weights.assign(variables, VALUES) == 24 + 2 + 2
    for name, variable in variables.items():
        assert np.array_equal(variable.value, VALUES[name])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda values: values.pop("head/bias"), "1 of the model's 3 variables .*: head/bias"),
        (lambda values: values.update(extra=np.zeros(1)), "no place in the model: extra"),
        (
            lambda values: values.update({"head/bias": np.zeros(3)}),
            r"head/bias \(model \[2\], weights \[3\]\)",
        ),
    ],
    ids=["missing", "unused", "reshaped"],
)
def test_weights_that_do_not_fit_change_nothing(change: Any, reason: str) -> None:
    variables, values = targets(), dict(VALUES)
    change(values)
    with pytest.raises(StageError, match=reason):
        packed_weights.assign(variables, values)
    assert not any(variable.value.any() for variable in variables.values())


def test_a_message_names_only_some_of_many() -> None:
    many = {f"layer{number}/kernel": Variable(1) for number in range(30)}
    with pytest.raises(StageError) as caught:
        packed_weights.assign(many, {})
    assert caught.value.message.count("kernel") == 5
    assert "30 of the model's 30" in caught.value.message
