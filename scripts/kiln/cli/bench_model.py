"""``kiln bench-model``: measure how long artefacts take on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kiln.cli.common import PATH, NumberRange, json_option, own_store, reporter_for
from kiln.cli.reporters import JsonReporter
from kiln.core.errors import UnsupportedModelError, UsageError
from kiln.core.output import table

if TYPE_CHECKING:
    from kiln.measure.latency import Artefact, Latency

_RUNS = 30


@click.command("bench-model", short_help="Time artefacts on this machine's CPU.")
@click.argument("names", nargs=-1, metavar="[MODEL|FILE.tflite]...")
@click.option("--dist", type=PATH, help="Where artefacts are [dist/].")
@click.option(
    "--variant", "variants", multiple=True, metavar="VARIANT", help="Only these; may be repeated."
)
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(1, 256),
    metavar="N",
    help="May be repeated [1, and all processors].",
)
@click.option(
    "--warmup", type=click.IntRange(0, 10_000), default=5, metavar="N", help="Uncounted rounds [5]."
)
@click.option("--runs", type=click.IntRange(1, 1_000_000), metavar="N", help=f"Rounds [{_RUNS}].")
@click.option(
    "--seconds",
    type=NumberRange(0, 86_400, min_open=True),
    metavar="S",
    help="Run rounds for this long instead, for each number of threads.",
)
@click.option("--save", is_flag=True, help="Also record the times in dist/latency.json.")
@json_option
def bench_model(
    names: tuple[str, ...],
    dist: Path | None,
    variants: tuple[str, ...],
    threads: tuple[int, ...],
    warmup: int,
    runs: int | None,
    seconds: float | None,
    save: bool,
    as_json: bool,
) -> None:
    """Time artefacts (all in dist/ when none is named) under LiteRT, in turns.

    They run in the image `device`, which is built if the engine lacks it.

    Inputs are noise, the same in every run. Rounds go over all files, so that a slow spell of the
    machine affects all of them alike: compare times of one run, not of different ones.
    """
    from kiln.core.machine import processors
    from kiln.measure import latency
    from kiln.project.folders import Project
    from kiln.release.index_page import refresh
    from kiln.signing.signer import own_signer

    if runs is not None and seconds is not None:
        raise UsageError("--runs and --seconds cannot be combined.", "Give one of them.")
    project = Project.find()
    target = (dist or project.root / "dist").absolute()
    artefacts = _artefacts(target, names, variants)
    if save and (stray := [item for item in artefacts if not item.path.is_relative_to(target)]):
        raise UsageError(
            f"{stray[0].path} is not in {target}, and --save only records files of that folder.",
            "Leave --save out, or name the folder with --dist.",
        )
    counts = list(dict.fromkeys(threads)) or sorted({1, processors()})
    load = os.getloadavg()[0] / processors()
    if load > latency.BUSY:
        note = (
            f"the machine is busy (load average {load:.1f} for each processor): ratios hold, "
            "times are longer than usual"
        )
        if as_json:
            JsonReporter().event("note", message=note)
        else:
            print(f"kiln: {note}", file=sys.stderr)
    with reporter_for(as_json) as reporter:
        measured = latency.measure(
            project,
            own_store(),
            artefacts,
            counts,
            warmup=warmup,
            runs=runs or _RUNS,
            seconds=seconds,
            on_event=reporter.event,
        )
    written = latency.save(target, measured.runs) if save and measured.runs else None
    if written:
        # Add the figures to the page and sign it again.
        refresh(target, own_signer(), measured=[written.name])
    if as_json:
        for item in measured.runs:
            JsonReporter().event("latency", **asdict(item))
    elif measured.runs:
        print(_table(measured.runs))
        first = measured.runs[0]
        print(f"\n{first.runtime} on {first.cpu}; {warmup} rounds of warm-up.")
        if written:
            print(f"Recorded in {written}.")
    if measured.failed:
        raise UnsupportedModelError(
            "\n".join(
                f"{path} cannot be timed: {reason}." for path, reason in measured.failed.items()
            ),
            "Build it again, or leave it out.",
        )


def _table(runs: Sequence[Latency]) -> str:
    head = ["model", "variant", "threads", "median ms", "p90", "min", "mean", "runs", "speed"]
    base = {(item.model, item.threads): item for item in runs if item.variant == "float32"}
    rows = []
    for item in runs:
        reference = base.get((item.model, item.threads))
        rows.append(
            [
                item.model if item.variant else item.file,
                item.variant,
                str(item.threads),
                *(
                    f"{value:.2f}" if value >= 1 else f"{value:.4f}"
                    for value in (item.median_ms, item.p90_ms, item.min_ms, item.mean_ms)
                ),
                str(item.runs),
                f"x{reference.median_ms / item.median_ms:.2f}" if reference else "",
            ]
        )
    return table(head, rows)


def _artefacts(dist: Path, names: Sequence[str], variants: Sequence[str]) -> list[Artefact]:
    """Return the files that the user means, each once.

    Raises:
        UsageError: a named file or model does not exist, or nothing matches.
    """
    import difflib

    from kiln.recipes.recipe import VARIANTS
    from kiln.signing.statement_names import artefact_file

    for variant in variants:
        if variant not in VARIANTS:
            raise UsageError(f"There is no variant {variant!r}.", f"Known: {', '.join(VARIANTS)}.")
    models = sorted(path.name for path in dist.glob("*/") if any(path.glob("*.tflite")))
    found: dict[Path, Artefact] = {}
    for name in names or models:
        if name.endswith(".tflite"):
            path = Path(name).absolute()
            if not path.is_file():
                raise UsageError(f"There is no file {name}.", "Name a .tflite file, or a model.")
            found[path] = _artefact(path, VARIANTS)
        elif name in models:
            for path in (dist / name / artefact_file(name, variant) for variant in VARIANTS):
                if path.is_file():
                    found[path] = _artefact(path, VARIANTS)
        else:
            near = difflib.get_close_matches(name, models, 1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise UsageError(
                f"There is no built model {name!r} in {dist}.",
                f"{hint}There: {', '.join(models) or 'none'}; `kiln build` makes them.",
            )
    chosen = [item for item in found.values() if not variants or item.variant in variants]
    if not chosen:
        raise UsageError(f"There is nothing to time in {dist}.", "`kiln build` makes artefacts.")
    return chosen


def _artefact(path: Path, variants: Sequence[str]) -> Artefact:
    """Tell a file's model and variant by the names that ``kiln build`` gives."""
    from kiln.measure.latency import Artefact

    model = path.parent.name
    variant = path.stem.removeprefix(f"{model}_")
    known = path.stem.startswith(f"{model}_") and variant in variants
    return Artefact(model, variant, path) if known else Artefact(path.stem, "", path)
