"""Look up a plan's results in the store, and decide which steps must run.

A result has two parts that can be lost separately: the record of a stage (facts, digests of its
files), and the files. A build's record needs the first for every step; the second is needed for
files that are published or read by steps that run now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from kiln.core.stage_result import StageResult
from kiln.core.store import DamagedContentError, Store
from kiln.recipes.steps import Files, Output, Plan, Step


@dataclass(frozen=True)
class Known:
    """The part of a plan that the store has.

    Args:
        results: by step id, for every step with a record; files of some may be lost.
        whole: ids of those whose files are there, too.
        todo: the steps that must run, in order.
    """

    results: dict[str, StageResult]
    whole: frozenset[str]
    todo: tuple[Step, ...]


def look_up(
    plan: Plan,
    store: Store,
    files: Collection[str],
    facts: Iterable[str] = (),
    *,
    read: bool = True,
    lent: Collection[str] = (),
) -> Known:
    """Look up a plan in the store.

    Args:
        files: ids of the steps whose files are wanted.
        facts: ids of steps that only need a record.
        read: also read the files that will be used; a damaged one is discarded and counts as
            lost. Otherwise only sizes are compared, and nothing is changed.
        lent: digests of inputs that do not come from the store.

    Raises:
        DamagedContentError: an input that no step makes was damaged.
    """
    found = {step.id: store.remembered(step.key) for step in plan.steps}
    results = {step_id: result for step_id, result in found.items() if result is not None}
    whole = {step_id for step_id, result in results.items() if store.holds(result)}
    wanted = [*files, *(step_id for step_id in facts if step_id not in results)]
    checked: set[str] = set(lent)
    while True:
        todo = plan.closure(wanted, whole)
        if not read:
            break
        running = {step.id for step in todo}
        used = [*_published(files, results), *_inputs(todo, results)]
        used = [(step_id, digest) for step_id, digest in used if step_id not in running]
        checked |= store.sound_among({digest for _, digest in used} - checked)
        damaged = {step_id for step_id, digest in used if digest not in checked}
        if not damaged:
            _check_sources(todo, store, checked)
            break
        whole -= damaged
    return Known(results, frozenset(whole), tuple(todo))


def _published(
    files: Iterable[str], results: Mapping[str, StageResult]
) -> Iterator[tuple[str, str]]:
    for step_id in files:
        if step_id in results:
            yield from ((step_id, blob.sha256) for blob in results[step_id].files.values())


def _inputs(todo: Iterable[Step], results: Mapping[str, StageResult]) -> Iterator[tuple[str, str]]:
    """Yield what steps read of others' files: the id of the producing step, and the content."""
    for step in todo:
        for item in step.inputs.values():
            if isinstance(item, Output) and item.step in results:
                for path, blob in results[item.step].files.items():
                    if path == item.path or path.startswith(f"{item.path}/"):
                        yield item.step, blob.sha256


def _check_sources(todo: Iterable[Step], store: Store, checked: set[str]) -> None:
    used = {
        digest: "/".join(filter(None, (step.id, name, path)))
        for step in todo
        for name, item in step.inputs.items()
        for path, digest in (item.files.items() if isinstance(item, Files) else ())
        # A missing input is reported when the step's inputs are laid out.
        if store.has(digest)
    }
    checked |= store.sound_among(used.keys() - checked)
    for digest, what in used.items():
        if digest not in checked:
            raise DamagedContentError(digest, what)
