"""``kiln accuracy``: measure AP on a data set, and print a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kiln.cli.common import (
    PATH,
    archive_option,
    json_option,
    models_dir_option,
    own_store,
    reporter_for,
)
from kiln.core.errors import UsageError
from kiln.core.output import table

if TYPE_CHECKING:
    from kiln.measure.bootstrap import Interval
    from kiln.measure.report import Measured, Report
    from kiln.signing.signer import Signer


@click.command(short_help="Measure AP before and after conversion on COCO.")
@click.argument("model")
@click.option(
    "--coco",
    "data_set",
    type=PATH,
    required=True,
    metavar="DIR",
    help="A data set in the layout of COCO val2017.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="VARIANT",
    help="Only these artefacts (and the source); may be repeated.",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    metavar="N",
    help="Only the first N images by file name [all].",
)
@click.option(
    "--dist",
    type=PATH,
    help="Measure the files published there instead of converting.",
)
@click.option(
    "--alias",
    "given_aliases",
    multiple=True,
    metavar="NAME=NAME",
    help="A class's name in the model, and in the data set; may be repeated.",
)
@click.option(
    "--fit",
    type=click.Choice(["letterbox", "stretch"]),
    help="How images get into an artefact's input [as its own description says].",
)
@archive_option
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Containers at a time [as many as there are processors].",
)
@click.option(
    "--chunk",
    type=click.IntRange(1),
    metavar="N",
    help="Images between two points where an interrupted run can resume [250].",
)
@click.option("--save", type=PATH, metavar="FILE", help="Write JSON there.")
@click.option(
    "--record",
    is_flag=True,
    help="Measure published files; record the result in accuracy.json there and on the page.",
)
@models_dir_option
@json_option
def accuracy(
    model: str,
    data_set: Path,
    variants: tuple[str, ...],
    images: int | None,
    dist: Path | None,
    given_aliases: tuple[str, ...],
    fit: str | None,
    archive: Path | None,
    jobs: int | None,
    chunk: int | None,
    save: Path | None,
    record: bool,
    models_dir: Path | None,
    as_json: bool,
) -> None:
    """Measure COCO's AP of MODEL before conversion and of each artefact, on the same images.

    Intervals show what other images of the same kind would have given. Results are kept: an
    interrupted run resumes. Where the recipe states the expected AP, a deviation is a failure.
    """
    from kiln.building.build import Builder
    from kiln.core.files import write_atomic
    from kiln.core.suggest import refuse_unknown
    from kiln.measure import accuracy_record, aliases, coco, scoring
    from kiln.measure.accuracy import CHUNK, Accuracy
    from kiln.measure.detection_runs import default_jobs
    from kiln.project.folders import Project
    from kiln.recipes.recipe import VARIANTS, discover
    from kiln.recipes.selection import select
    from kiln.release.index_page import refresh

    scoring.require()
    project = Project.find()
    folder = (models_dir or project.models).absolute()
    refuse_unknown("variant", variants, VARIANTS)
    same_class = aliases.parse(given_aliases)
    (recipe,) = select(folder, discover(folder), (model,)).unbroken()
    if save is not None and (save.is_dir() or not save.absolute().parent.is_dir()):
        raise UsageError(
            f"{save.absolute()} cannot be written: it is a folder, or there is none to hold it.",
            "Name a file in a folder that exists.",
        )
    target = (dist or project.root / "dist").absolute()
    signer = _ready_to_record(target) if record else None
    data = coco.read(data_set.absolute())
    store = own_store()
    with reporter_for(as_json) as reporter:
        builder = Builder(project, store, target, reporter.event)
        measuring = Accuracy(
            builder,
            target if dist or record else None,
            chunk=chunk or CHUNK,
            jobs=jobs or default_jobs(),
            aliases=same_class,
            fit=fit,
        )
        report = measuring.measure(
            recipe,
            data,
            [variant for variant in VARIANTS if variant in variants],
            archive=archive,
            images=images,
        )
        for item in report.measured:
            reporter.event("accuracy", **_fields(report, item))
    if not as_json:
        print(_text(report))
    if save is not None:
        text = json.dumps(report.as_json(), indent=1)
        try:
            write_atomic(save.absolute(), text.encode() + b"\n")
        except OSError as error:
            raise UsageError(
                f"{save.absolute()} cannot be written: {error.strerror or error}.",
                "Name another file; the measurements are kept.",
            ) from error
    report.judge()
    if signer is not None:
        written = accuracy_record.save(target, report.entries())
        # Add the figures to the page and sign it again.
        refresh(target, signer, measured=[written.name])
        if not as_json:
            print(f"\nRecorded in {written}.")


def _ready_to_record(dist: Path) -> Signer:
    """Return the signer; report problems with it or ``dist`` before hours of work."""
    from kiln.measure import accuracy_record
    from kiln.release import publish
    from kiln.signing.signer import own_signer

    publish.check_target(dist)
    accuracy_record.load(dist)
    return own_signer()


def _fields(report: Report, item: Measured) -> dict[str, Any]:
    difference = item.difference
    return {
        "model": report.model,
        "what": item.what,
        "ap": item.scores.ap,
        "ap50": item.scores.ap50,
        "ap75": item.scores.ap75,
        "ar100": item.scores.ar100,
        "intervals": item.intervals_as_json(),
        "images": report.images,
        "categories": report.categories,
        "difference": None if difference is None else difference.ap,
        "difference_interval": None if difference is None else difference.as_json()["interval"],
        "noise": None if difference is None else difference.noise,
        "to_float32": None if item.to_float32 is None else item.to_float32.as_json(),
        "expected": item.expected,
    }


def _text(report: Report) -> str:
    """Return the table of figures, and below it what they mean."""
    head = [
        report.model, "AP", "90 % interval", "AP50", "AP75", "AR100",
        "to source", "90 % interval", "expected",
    ]  # fmt: skip
    rows = []
    for item in report.measured:
        scores, difference = item.scores, item.difference
        expected = "-" if item.expected is None else f"{item.expected:.3f} ± {report.tolerance:g}"
        rows.append(
            [
                item.what,
                f"{scores.ap:.4f}",
                _interval(item.intervals.get("ap"), _unsigned),
                *(f"{value:.4f}" for value in (scores.ap50, scores.ap75, scores.ar100)),
                "-" if difference is None else _signed(difference.ap, 4),
                "-" if difference is None else _interval(difference.interval, _signed),
                expected,
            ]
        )
    if all(item.expected is None for item in report.measured):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return "\n".join([table(head, rows), "", *report.remarks()])


def _interval(interval: Interval | None, write: Callable[[float, int], str]) -> str:
    return "-" if interval is None else f"{write(interval.low, 3)} to {write(interval.high, 3)}"


def _unsigned(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def _signed(value: float, digits: int) -> str:
    """Write a difference; never "-0.000"."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"
