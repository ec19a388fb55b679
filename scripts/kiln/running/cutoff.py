"""Find results again under the content of what their stages read (early cut-off).

A step's key holds the keys of the steps before it, so it changes when their code does. Often their
results do not: a comment was edited. So each result is also kept under its *content key*, the key
that the step would have if all that it reads came from the store: digests of files and values of
facts, instead of keys. That is known once the steps before it have run.

What this costs: steps that may be found this way cannot start together with those before them.
Where they are not found after all, they run in a second container, which imports TensorFlow again
(four to five seconds). So a step waits only if all of these hold; otherwise nothing changes, and
all steps of an image share a container:

- its key is not known, and the store has a result of the same stage code, parameters and files;
- of every step before it that runs now, the store has a result of the same parameters and files:
  only code changed. Another checkpoint or another option makes other bytes, and nobody waits;
- none of those was itself looked up by content in vain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kiln.core.digest import key_of
from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import Store
from kiln.recipes.steps import Files, Output, Plan, Step, stage_key

#: Content keys by what stays the same when only code changes.
_REF = "content-keys"

#: Content keys remembered of one step: those of the last edits, and of an edit that was undone.
_MOST = 16


def files_of(result: StageResult, path: str) -> dict[str, Blob]:
    """Return the files of a result at a path: ``""`` for a single file, or names below it."""
    if path in result.files:
        return {"": result.files[path]}
    prefix = f"{path}/"
    return {
        name.removeprefix(prefix): blob
        for name, blob in result.files.items()
        if name.startswith(prefix)
    }


def content_key(plan: Plan, step: Step, results: Mapping[str, StageResult]) -> str | None:
    """Return a step's key with the content of what it reads in place of other steps' keys.

    Args:
        results: of all steps that it reads from, by id.

    Returns:
        64 hex digits. None if the step has no such key: it reads from no other step (its own key is
        this one), a fact is missing, or the plan does not say what its keys are made of.
    """
    image = step.image or plan.identity
    if not step.upstream() or not image or not step.code.digest:
        return None
    params = dict(step.params)
    for name, fact in step.params_from.items():
        facts = results[fact.step].facts
        if fact.name not in facts:
            return None
        params[name] = facts[fact.name]
    inputs = {name: {"files": _digests(item, results)} for name, item in step.inputs.items()}
    return stage_key(step.stage, image, step.code.digest, params, {}, inputs)


def _digests(item: Files | Output, results: Mapping[str, StageResult]) -> dict[str, str]:
    if isinstance(item, Files):
        return dict(item.files)
    found = files_of(results[item.step], item.path)
    return {name: blob.sha256 for name, blob in found.items()}


def remember(
    store: Store, plan: Plan, step: Step, result: StageResult, results: Mapping[str, StageResult]
) -> None:
    """Keep a result under its content key, too; ``results`` as in :func:`content_key`."""
    name = _shape(plan, step)
    content = content_key(plan, step, results) or step.key
    if name is None:
        return
    if content != step.key:
        store.put_result(replace(result, key=content))
    entry = [step.code.digest, content]
    others = [other for other in _entries(store, name) if other != entry]
    store.set_ref(_REF, name, {"results": [entry, *others][:_MOST]})


def _shape(plan: Plan, step: Step) -> str | None:
    """Return the name of a step's ref: a digest of all but code, and what other steps make."""
    image = step.image or plan.identity
    if not image or not step.code.digest:
        return None
    inputs: dict[str, Any] = {
        name: {"files": dict(item.files)} if isinstance(item, Files) else {"path": item.path}
        for name, item in step.inputs.items()
    }
    said = {name: {"fact": fact.name} for name, fact in step.params_from.items()}
    return key_of(
        {
            "image": image,
            "stage": step.stage,
            "params": dict(step.params),
            "params_from": said,
            "inputs": inputs,
        }
    )


def _entries(store: Store, name: str) -> list[list[str]]:
    """Read the digests of code and the content keys under a name; what is damaged is left out."""
    found = (store.get_ref(_REF, name) or {}).get("results")
    return [
        entry
        for entry in (found if isinstance(found, list) else [])
        if isinstance(entry, list) and len(entry) == 2 and all(map(_is_digest, entry))
    ]


def _is_digest(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 64 and not set(text) - set("0123456789abcdef")


@dataclass
class CutOff:
    """The steps of one run that may be found by content.

    Args:
        plan: the plan that is run.
        known: ids of the steps whose results are recorded; of some, files are lost.
    """

    store: Store
    plan: Plan
    known: Collection[str]
    _in_vain: set[str] = field(default_factory=set)

    def waiting(self, todo: Sequence[Step]) -> set[str]:
        """Return the ids of the steps in ``todo`` that wait until those before them have run."""
        here = {step.id for step in todo}
        known_code: dict[str, set[str]] = {}
        for step in todo:
            if not step.upstream() & (self._in_vain | here - known_code.keys()):
                found = self._known_code(step)
                if found:
                    known_code[step.id] = found
        return {
            step.id
            for step in todo
            if step.upstream() & here
            and step.id not in self.known
            and step.code.digest in known_code.get(step.id, ())
        }

    def found(
        self, todo: Iterable[Step], results: Mapping[str, StageResult]
    ) -> Iterator[tuple[Step, StageResult]]:
        """Find the steps in ``todo`` whose results are in the store under their content.

        Each is recorded under its own key as well: the same record, with the duration and memory of
        the run that made it. What is found may be what another step in ``todo`` reads.
        """
        results = dict(results)
        left = {step.id for step in todo}
        for step in todo:
            if step.id in self.known or step.upstream() & left or not step.upstream():
                continue
            result = self._found(step, results)
            if result is None:
                if step.code.digest in self._known_code(step):  # so what it reads is new
                    self._in_vain.add(step.id)
                continue
            left.discard(step.id)
            results[step.id] = result
            yield step, result

    def _found(self, step: Step, results: Mapping[str, StageResult]) -> StageResult | None:
        content = content_key(self.plan, step, results)
        result = None if content is None else self.store.get_result(content)
        if result is None or result.stage != step.stage:
            return None
        digests = {blob.sha256 for blob in result.files.values()}
        if self.store.sound_among(digests) != digests:
            return None
        result = replace(result, key=step.key)
        self.store.put_result(result)
        return result

    def _known_code(self, step: Step) -> set[str]:
        """Return the digests of the code with which the store has results of a step."""
        name = _shape(self.plan, step)
        entries = [] if name is None else _entries(self.store, name)
        return {code for code, content in entries if self.store.get_result(content) is not None}
