"""The stand-ins for what Model Maker imports and detection export never touches, and its locks."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from places import ROOT

from kiln.sources.pypi import read_lock
from stages.lite import model_maker
from stages.odapi import tensorflow_setup
from stages.protocol.failures import StageError

FOLDER = ROOT / "docker" / "modelmaker"


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """None of the packages is there, whatever this machine has; and none is left behind."""
    before = dict(sys.modules)
    monkeypatch.setattr(model_maker, "ABSENT", {"kilnabsent": "nothing at all"})
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def test_imports_as_upstream_writes_them() -> None:
    with model_maker.stand_ins():
        import kilnabsent as short
        import kilnabsent.deep.down
        from kilnabsent.callbacks import Callback
    assert short is sys.modules["kilnabsent"]
    assert sys.modules["kilnabsent.deep.down"] is kilnabsent.deep.down
    assert model_maker.stand_ins_in_use() == ["kilnabsent"]
    assert "kilnabsent.callbacks.Callback" in repr(Callback)

    class Derived(Callback):
        pass

    assert not isinstance(3, Derived)  # classes can be asked about, only not made use of


@pytest.mark.parametrize("use", ["function", "attribute", "subclass", "module"])
def test_use_says_what_is_missing(use: str) -> None:
    with model_maker.stand_ins():
        module = importlib.import_module("kilnabsent.part")
    derived = type("Derived", (module.thing,), {})
    called = {
        "function": lambda: module.thing(1, two=2),
        "attribute": lambda: module.thing.inner.method(),
        "subclass": lambda: derived("argument"),
        "module": lambda: sys.modules["kilnabsent"].other(),
    }[use]
    with pytest.raises(StageError) as caught:
        called()
    origin = {
        "function": "kilnabsent.part.thing",
        "attribute": "kilnabsent.part.thing.inner.method",
        "subclass": "kilnabsent.part.thing",
        "module": "kilnabsent.other",
    }[use]
    assert f"used {origin}, but kilnabsent (nothing at all) is not installed" in str(caught.value)
    assert caught.value.remedy


def test_only_listed_packages_and_only_meanwhile() -> None:
    with model_maker.stand_ins(), pytest.raises(ModuleNotFoundError):
        importlib.import_module("kilnother")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("kilnabsent")
    with pytest.raises(ZeroDivisionError), model_maker.stand_ins():
        raise ZeroDivisionError
    assert not [f for f in sys.meta_path if type(f).__module__ == model_maker.__name__]


def test_installed_package_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kilnabsent").mkdir()
    (tmp_path / "kilnabsent" / "__init__.py").write_text("value = 5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with model_maker.stand_ins():
        assert importlib.import_module("kilnabsent").value == 5
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("kilnabsent.part")
    assert model_maker.stand_ins_in_use() == []


def test_environment_without_model_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_setup, "load", lambda: None)
    monkeypatch.setattr(model_maker, "_ROOT", "kilnother.lite.model_maker")
    with pytest.raises(StageError, match="no module 'kilnother'") as caught:
        model_maker.load()
    assert "modelmaker" in caught.value.remedy


def test_batch_norm_is_left_to_keras() -> None:
    class Keras:
        def call(self, inputs: int, training: bool | None = None) -> int:
            return inputs + 1

    class Theirs(Keras):
        def call(self, inputs: int, mask: object = None, training: bool | None = None) -> int:
            return super().call(inputs, mask=mask, training=training)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="mask"):
        Theirs().call(1)
    for _ in range(2):  # a second time finds nothing to do
        model_maker._repair_batch_norm(SimpleNamespace(BatchNormalization=Theirs))
        assert Theirs().call(1) == 2


def test_locks_agree() -> None:
    """The same versions and files in both, or comparing their exports would say nothing."""
    full = {pin.name: pin for pin in read_lock(FOLDER / "full.lock")}
    ours = {pin.name: pin for pin in read_lock(FOLDER / "requirements.lock")}
    assert ours.items() < full.items()


def test_overrides_say_something() -> None:
    """Each leaves out what would otherwise be installed (TensorFlow is there by another name)."""
    text = (FOLDER / "overrides.txt").read_text("utf-8")
    left_out = set(re.findall(r"^([a-z0-9-]+) ; sys_platform == 'never'$", text, re.MULTILINE))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(left_out) == len(lines)
    assert left_out - {pin.name for pin in read_lock(FOLDER / "full.lock")} == {"tensorflow"}
    assert not left_out & {pin.name for pin in read_lock(FOLDER / "requirements.lock")}
