"""Compile a model's artefacts for NPUs; a target that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable

from kiln.core.errors import (
    CheckFailedError,
    CompilerError,
    KilnError,
    StageFailedError,
    StageOutOfMemoryError,
    StageOutputError,
    StageTimeoutError,
    UnsupportedModelError,
)
from kiln.recipes.plan import Plan

#: Failures that are about one file and one target. Others would stop every file.
_OF_ONE_FILE = (
    CheckFailedError,
    CompilerError,
    UnsupportedModelError,
    StageFailedError,
    StageOutOfMemoryError,
    StageOutputError,
    StageTimeoutError,
)


def compile_each(
    plan: Plan, run: Callable[[Plan], object], judge: Callable[[str], object]
) -> tuple[Plan, list[KilnError]]:
    """Run the steps that compile, one target at a time.

    Args:
        run: runs a plan and keeps its results.
        judge: raises an error if a compiled variant, by its name, is of a form that fails a check.

    Returns:
        The plan without the targets that failed, and their errors.

    Raises:
        KilnError: one that is not about a single target.
    """
    failed: dict[str, KilnError] = {}
    for name in plan.compiled:
        try:
            run(plan.without(plan.compiled.keys() - {name}))
            judge(name)
        except _OF_ONE_FILE as error:
            failed[name] = error
    return plan.without(failed), list(failed.values())


def as_one(failures: list[KilnError]) -> KilnError | None:
    """Return one error for all targets that failed; None where none did."""
    if not failures:
        return None
    first = failures[0]
    remedies = " ".join(dict.fromkeys(error.remedy for error in failures))
    return type(first)(
        "\n  ".join(error.message for error in failures),
        f"The model's other files were published. {remedies}",
    )
