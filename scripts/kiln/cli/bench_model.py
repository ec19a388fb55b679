"""``kiln bench-model``: measure how long artefacts take on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kiln.cli.common import PATH, NumberRange, json_option, own_store, reporter_for
from kiln.cli.reporters import JsonReporter
from kiln.core.errors import UnsupportedModelError
from kiln.core.output import table

if TYPE_CHECKING:
    from kiln.measure.latency import Latency

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
    from kiln.measure.bench import Wanted, bench

    wanted = Wanted(names, dist, variants, threads, warmup, runs, seconds, save)
    with reporter_for(as_json) as reporter:
        measured = bench(wanted, own_store(), reporter.event)
    if as_json:
        for item in measured.runs:
            JsonReporter().event("latency", **asdict(item))
    elif measured.runs:
        print(_table(measured.runs))
        first = measured.runs[0]
        print(f"\n{first.runtime} on {first.cpu}; {warmup} rounds of warm-up.")
        if measured.saved:
            print(f"Recorded in {measured.saved}.")
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
