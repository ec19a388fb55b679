"""Collect the results of a model's checks (``checks.json``), and decide whether to publish.

The gates themselves are stages, in the image that made the artefact or, those of today's runtimes,
in the image ``device``. Here their results are combined and judged by what the recipe allows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kiln.core.errors import CheckFailedError, StageFailedError
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.core.untrusted import MalformedError, parse_json_object
from kiln.project import bounds
from kiln.recipes.check_steps import CHECK_FILE, check_id, library_id, runtime_ids
from kiln.recipes.plan import Output, Plan
from kiln.recipes.recipe import Recipe
from kiln.signing.statement_names import artefact_file

PREVIEWS = "previews"

PASSED, FAILED, ALLOWED, SKIPPED = "passed", "failed", "allowed", "skipped"

#: A gate's name in a recipe's ``allow``, where it differs from the gate's own.
ALLOWANCES = {"trained": "untrained-heads"}
_FEEDING, _STRUCTURE = "feeding", "structure"
_RAW = "anchors"  # a figure of the gate structure that only raw outputs have
_TELLING_COST = 0.02  # agreement that stretching must cost to be told: less is rounding
_RUNTIME, _RUNTIMES = "runtime-", "runtimes"

_NOTHING = "Nothing of the model was published."
_NOT_COMPILED = (
    "No file compiled from it was published. It has no layer in float; with keep_float_layers in "
    "that [[compile]], the published file is compiled."
)

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]*")


def allowance(gate: str) -> str:
    """Return a gate's name in a recipe's ``allow``.

    >>> allowance("runtime-litert"), allowance("trained"), allowance("parity")
    ('runtimes', 'untrained-heads', 'parity')
    """
    return _RUNTIMES if gate.startswith(_RUNTIME) else ALLOWANCES.get(gate, gate)


def preview_names(plan: Plan, results: Mapping[str, StageResult]) -> dict[str, str]:
    """Map each check image to its preview's path below the model's folder; empty without checks."""
    result = results.get("previews")
    if result is None:
        return {}
    names = sorted(result.facts["images"])
    return {
        name: f"{PREVIEWS}/{name if _SAFE.fullmatch(name) else f'image-{number}'}.jpg"
        for number, name in enumerate(names, 1)
    }


def gather(
    recipe: Recipe,
    plan: Plan,
    results: Mapping[str, StageResult],
    store: Store,
) -> dict[str, Any] | None:
    """Collect the gates' results for ``checks.json``.

    Returns:
        Plain data (``docs/checks.md``); None where nothing was checked.
    """
    if "previews" not in results:
        return None
    previews = preview_names(plan, results)
    variants: dict[str, Any] = {}
    source: dict[str, Any] = {}
    found_source, least = False, 0.0
    for variant, step_id in plan.artefacts.items():
        result = results[check_id(variant)]
        found = _read(result, store)
        blob = results[step_id].files["model.tflite"]
        variants[variant] = {
            "file": artefact_file(recipe.name, variant),
            "sha256": blob.sha256,
            **_judged(_gates(variant, plan, results, store), recipe.allow),
            "detections": found["detections"],
        }
        if found["source"] is not None:
            found_source, least = True, result.facts["score_threshold"]
            source.update(found["source"])
    reference = results.get("reference") or results.get("adopt")
    images = results["previews"].facts["images"]
    digests = plan.step("previews").inputs["images"]
    return {
        "schema": 1,
        "model": recipe.name,
        "score_threshold": least,
        "images": {
            name: {
                "sha256": digests.files[name],  # type: ignore[union-attr]
                **images[name],
                "preview": previews[name],
            }
            for name in sorted(images)
        },
        "source": {
            "checkpoint": reference.facts["checkpoint"] if reference else None,
            "detections": source if found_source else None,
        },
        "variants": variants,
    }


def _gates(
    name: str, plan: Plan, results: Mapping[str, StageResult], store: Store
) -> list[dict[str, Any]]:
    """Return what the steps that check a file found; ``name`` is its variant, or its form."""
    ids = [check_id(name), library_id(name), *runtime_ids(name)]
    found = (_read(results[step_id], store) for step_id in ids if step_id in plan.reports)
    return [gate for one in found for gate in one["gates"]]


def _read(result: StageResult, store: Store) -> dict[str, Any]:
    blob, most = result.files[CHECK_FILE], bounds.RECORD.most
    what = f"{CHECK_FILE} of a stage {result.stage}"
    try:
        if blob.size > most:
            raise MalformedError(f"is larger than {most:,} bytes")
        return parse_json_object(store.read(blob.sha256, what), size=most)
    except MalformedError as error:
        raise StageFailedError(f"{what} {error}.", "This is a bug in the stage's code.") from None


def with_compiled(
    report: Mapping[str, Any],
    recipe: Recipe,
    plan: Plan,
    results: Mapping[str, StageResult],
    store: Store,
) -> dict[str, Any]:
    """Add the files that were compiled for an NPU.

    No gate but their own can run them. Where a form that is not published was compiled, its gates
    are kept apart from theirs.
    """
    variants = dict(report["variants"])
    for name, step_id in plan.compiled.items():
        result = results[step_id]
        form = plan.unpublished.get(name)
        variants[name] = {
            "file": artefact_file(recipe.name, name),
            "sha256": result.files["model.tflite"].sha256,
            **_judged(result.facts["gates"], recipe.allow),
            "detections": {},
        }
        if form is not None:
            (model,) = plan.step(step_id).inputs.values()
            assert isinstance(model, Output)
            variants[name]["integer_form"] = {
                "sha256": results[model.step].files[model.path].sha256,
                **_judged(_gates(form, plan, results, store), recipe.allow),
            }
    return {**report, "variants": variants}


def judge_form(
    name: str, recipe: Recipe, plan: Plan, results: Mapping[str, StageResult], store: Store
) -> None:
    """Raise an error if the unpublished form that was compiled fails a gate.

    Args:
        name: of the compiled variant.

    Raises:
        CheckFailedError: a gate failed, and the recipe does not allow that.
    """
    form = plan.unpublished.get(name)
    if form is not None:
        judged = _judged(_gates(form, plan, results, store), recipe.allow)
        judge({"model": recipe.name, "variants": {form: judged}}, recipe, nothing=_NOT_COMPILED)


def _judged(gates: Sequence[Mapping[str, Any]], allow: Sequence[str]) -> dict[str, Any]:
    seen = [_allowed(gate, allow) for gate in gates]
    return {"gates": seen, "passed": all(gate["status"] in (PASSED, SKIPPED) for gate in seen)}


def _allowed(gate: Mapping[str, Any], allow: Sequence[str]) -> dict[str, Any]:
    allowed = gate["status"] == FAILED and allowance(gate["gate"]) in allow
    return {**gate, "status": ALLOWED} if allowed else dict(gate)


def failures(report: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Map variants to failed gates that the recipe does not allow; empty if there are none."""
    found = {
        variant: [gate for gate in entry["gates"] if gate["status"] == FAILED]
        for variant, entry in report["variants"].items()
    }
    return {variant: gates for variant, gates in found.items() if gates}


def judge(
    report: Mapping[str, Any], recipe: Recipe, where: str = "", nothing: str = _NOTHING
) -> None:
    """Raise an error unless all gates passed or may fail.

    Args:
        report: as :func:`gather` returns it.
        recipe: the model's.
        where: a file with the whole report, for the message.
        nothing: the sentence on what is not published.

    Raises:
        CheckFailedError: a gate failed, and the recipe does not allow that.
    """
    failed = failures(report)
    if not failed:
        return
    lines = [
        line
        for variant, gates in failed.items()
        for gate in gates
        for line in explained(variant, gate)
    ]
    count = sum(len(gates) for gates in failed.values())
    names = {allowance(gate["gate"]) for gates in failed.values() for gate in gates}
    raise CheckFailedError(
        f"{report['model']}: {count} check{'' if count == 1 else 's'} failed:\n  "
        + "\n  ".join(lines),
        f"{nothing} Fix the cause; or, to publish it anyway, "
        f"{recipe.how_to_allow(names)}." + (f" All findings: {where}" if where else ""),
    )


def explained(variant: str, gate: Mapping[str, Any]) -> list[str]:
    """Explain a failed gate in lines: expected, seen, and the likely cause."""
    lines = []
    for problem in gate["problems"]:
        lines.append(f"{variant}, {gate['gate']} ({problem['code']}):")
        for word in ("expected", "seen", "cause"):
            if problem[word]:
                lines.append(f"  {'likely cause' if word == 'cause' else word}: {problem[word]}")
    return lines


def one_line(report: Mapping[str, Any]) -> str:
    """Summarise the outcome in one line, for the progress of a build."""
    gates = [gate for entry in report["variants"].values() for gate in entry["gates"]]
    counts = {state: sum(gate["status"] == state for gate in gates) for state in (PASSED, SKIPPED)}
    allowed = sum(gate["status"] == ALLOWED for gate in gates)
    parts = [f"{counts[PASSED]} checks passed"]
    if allowed:
        parts.append(f"{allowed} failed, as allowed")
    if counts[SKIPPED]:
        parts.append(f"{counts[SKIPPED]} skipped")
    return f"{report['model']}: {', '.join(parts)}{_cost_of_stretching(report)}"


def _cost_of_stretching(report: Mapping[str, Any]) -> str:
    """Say what clients that stretch pictures lose, where they lose something.

    A stretched model may lose, too: its training sampled pictures in another way than clients do.
    """
    costs = []
    for entry in report["variants"].values():
        for gate in entry["gates"]:
            if gate["gate"] != _FEEDING:
                continue
            right, stretched = (gate["figures"].get(way) for way in ("described", "stretch"))
            if isinstance(right, float | int) and isinstance(stretched, float | int):
                costs.append((right - stretched, right, stretched))
    cost, right, stretched = max(costs, default=(0.0, 0.0, 0.0))
    if cost < _TELLING_COST:
        return ""
    fed = "stretched by an image library"
    if _RAW not in _figures_of(report, _STRUCTURE):
        fed = "as the Task Library and MediaPipe do: stretched, their own resizing"
    return (
        f"; agreement with its source: {right:.2f} fed as described, {stretched:.2f} {fed} "
        "(docs/feeding.md)"
    )


def _figures_of(report: Mapping[str, Any], name: str) -> set[str]:
    """Return the names of a gate's figures, of all files."""
    gates = (gate for entry in report["variants"].values() for gate in entry["gates"])
    return {figure for gate in gates if gate["gate"] == name for figure in gate["figures"]}
