from __future__ import annotations

import signal

import pytest

from kiln.core import errors
from kiln.core.errors import KilnError, StageFailedError, UsageError, error_for_kind
from stages.protocol.failures import KINDS, StageError

CLASSES = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, KilnError) and cls is not KilnError
]


def test_every_failure_has_an_exit_code_and_a_kind_of_its_own() -> None:
    codes = {cls.exit_code: cls.__name__ for cls in [KilnError, *CLASSES]}
    kinds = {cls.kind: cls.__name__ for cls in [KilnError, *CLASSES]}
    assert len(codes) == len(kinds) == len(CLASSES) + 1
    # 0 is success; shells use 126 and more, 128 + N for a program that signal N ended.
    signals = {128 + signal.SIGINT: "CancelledError", 128 + signal.SIGPIPE: "OutputClosedError"}
    assert {code: name for code, name in codes.items() if not 0 < code < 126} == signals


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_kind_leads_back_to_its_class(cls: type[KilnError]) -> None:
    assert error_for_kind(cls.kind) is cls


@pytest.mark.parametrize("kind", ["", "error", "Label-Map", "KilnError"])
def test_an_unknown_kind_is_a_failed_stage(kind: str) -> None:
    assert error_for_kind(kind) is StageFailedError


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_driver_knows_every_kind_that_stages_report(kind: str) -> None:
    assert error_for_kind(kind).kind == kind


def test_stages_cannot_invent_kinds() -> None:
    with pytest.raises(ValueError, match="unknown failure kind 'bad-luck'"):
        StageError("bad-luck", "Something happened.")


def test_text_is_what_happened_then_what_to_do() -> None:
    assert str(UsageError("No.", "Say yes.")) == "No. Say yes."
    assert str(UsageError("No.")) == "No."
