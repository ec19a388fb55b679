"""``kiln cache``: move results to and from a remote cache, count and remove them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kiln.cli.common import json_option, models_dir_option, own_store, reporter_for, samples_option
from kiln.cli.reporters import JsonReporter
from kiln.core.errors import UsageError
from kiln.core.output import table

if TYPE_CHECKING:
    from kiln.cache.calls import Calls
    from kiln.cache.shared import SharedResults
    from kiln.cache.upkeep import Count
    from kiln.core.store import Store
    from kiln.recipes.plan import Plan

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d{1,9})([KMGT]?)(?:iB|B)?")
_AGE = re.compile(r"(\d{1,6})([hd])")


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Parse ``50G``: bytes with a binary unit."""
    match = _SIZE.fullmatch(value or "")
    if value is None or match is not None:
        return None if match is None else int(match[1]) * _UNITS[match[2]]
    raise click.BadParameter(f"{value!r} is not a size such as 500M or 50G.", ctx, param)


def _age(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Parse ``30d`` as seconds."""
    match = _AGE.fullmatch(value or "")
    if value is None or match is not None:
        return None if match is None else float(match[1]) * (3600 if match[2] == "h" else 86400)
    raise click.BadParameter(f"{value!r} is not an age such as 12h or 30d.", ctx, param)


@click.group(short_help="Results that machines share (KILN_CACHE).")
def cache() -> None:
    """Results of stages in the folder or bucket that KILN_CACHE names."""


@cache.command("push", short_help="Send results of this machine.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@samples_option
@models_dir_option
@json_option
def cache_push(
    models: tuple[str, ...], samples: bool, models_dir: Path | None, as_json: bool
) -> None:
    """Send the results of models to the cache: all that the store has when none is named."""
    with _opened(as_json) as (shared, store, note):
        key = shared.party.key
        if key is None:
            raise UsageError(
                "Results are signed with a key, and KILN_SIGN says keyless.", "Unset KILN_SIGN."
            )
        if models or samples:
            plans = _plans(store, models, samples, models_dir)
            keys = list(dict.fromkeys(step.key for plan in plans for step in plan.steps))
        else:
            keys = store.keys()
        there = {one for one, worker in _listed(shared) if worker == key.key_id}
        results = [store.get_result(one) for one in keys if one not in there]
        sendable = [result for result in results if result is not None]
        for number, result in enumerate(sendable, 1):
            shared.send(result)
            if number % 100 == 0:
                note(f"{number} of {len(sendable)} results sent")
        sent, already = shared.sent, len(there & set(keys))
    _say(
        as_json,
        f"{sent.results} results sent, with {sent.contents} contents ({sent.size / 1e6:,.1f} MB); "
        f"{already} were there already",
        what="pushed",
        results=sent.results,
        contents=sent.contents,
        size=sent.size,
        already=already,
    )


@cache.command("pull", short_help="Take results of models, and run nothing.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@samples_option
@models_dir_option
@json_option
def cache_pull(
    models: tuple[str, ...], samples: bool, models_dir: Path | None, as_json: bool
) -> None:
    """Copy results of models (of all recipes when none is named) from the cache into the store."""
    with _opened(as_json) as (shared, store, _):
        missing = 0
        shared.probe()
        for plan in _plans(store, models, samples, models_dir):
            shared.fetch(plan, plan.published(), plan.ids())
            missing += len(shared.lacking(plan))
        got = shared.received
    _say(
        as_json,
        f"{got.results} results taken, with {got.contents} contents ({got.size / 1e6:,.1f} MB); "
        f"a build would run {missing} stages",
        what="pulled",
        results=got.results,
        contents=got.contents,
        size=got.size,
        missing=missing,
    )


@cache.command("stat", short_help="Count what the cache holds.")
@json_option
def cache_stat(as_json: bool) -> None:
    """Count the results and contents of the cache, and the results by who signed them."""
    from kiln.cache.upkeep import statistics

    with _opened(as_json) as (shared, _, _):
        found = statistics(shared.cache, _patient(shared))
        names = {one.key_id: one.name for one in reversed(shared.party.trust.signers)}
    if as_json:
        workers = {worker: _count(count) for worker, count in sorted(found.workers.items())}
        JsonReporter().event(
            "cache",
            what="stat",
            results=_count(found.results),
            contents=_count(found.contents),
            workers=workers,
        )
        return
    rows = [
        ["results", *_shown(found.results)],
        *(
            [f"  of {names.get(worker, f'key {worker[:16]}, not trusted')}", *_shown(count)]
            for worker, count in sorted(found.workers.items())
        ),
        ["contents", *_shown(found.contents)],
    ]
    print(table(["", "number", "bytes"], rows))


@cache.command("gc", short_help="Remove what is old or too much.")
@click.option("--older-than", callback=_age, metavar="AGE", help="Results of that age: 12h, 30d.")
@click.option("--keep", callback=_size, metavar="SIZE", help="Then the oldest, down to 500M, 50G.")
@click.option(
    "--grace", callback=_age, metavar="AGE", default="1d", help="Nothing that is younger [1d]."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
def cache_gc(
    older_than: float | None, keep: int | None, grace: float, dry_run: bool, as_json: bool
) -> None:
    """Remove results from the cache by age and size, then contents that no result names.

    Without --older-than and --keep only such contents are removed. Others may use the cache
    meanwhile: what is younger than --grace stays.
    """
    from kiln.cache.upkeep import collect_garbage

    with _opened(as_json) as (shared, _, _):
        gone = collect_garbage(
            shared.cache,
            _patient(shared),
            older_than=older_than,
            at_most=keep,
            grace=grace,
            dry_run=dry_run,
        )
    verb = "would be removed" if dry_run else "removed"
    _say(
        as_json,
        f"{gone.results.number} results and {gone.contents.number} contents {verb} "
        f"({(gone.results.size + gone.contents.size) / 1e6:,.1f} MB); "
        f"{gone.remaining.number} objects remain ({gone.remaining.size / 1e6:,.1f} MB)",
        what="gc",
        dry_run=dry_run,
        results=_count(gone.results),
        contents=_count(gone.contents),
        remaining=_count(gone.remaining),
    )


@contextmanager
def _opened(as_json: bool) -> Iterator[tuple[SharedResults, Store, Callable[[str], None]]]:
    """Open the cache and the store.

    Raises:
        UsageError: ``KILN_CACHE`` is not set, or wrong.
    """
    from kiln.cache.opening import shared_results

    store = own_store()
    with reporter_for(as_json) as reporter:

        def note(text: str) -> None:
            reporter.event("note", message=text)

        shared = shared_results(store, note)
        if shared is None:
            raise UsageError(
                "KILN_CACHE is not set.", "Set it to an address such as s3://BUCKET/PREFIX."
            )
        yield shared, store, note


def _patient(shared: SharedResults) -> Calls:
    """Return calls for work that a person asked for: no end of patience, but for failures."""
    from kiln.cache.calls import Calls

    return Calls(shared.place, patience=None)


def _listed(shared: SharedResults) -> list[tuple[str, str]]:
    from kiln.cache.upkeep import LISTING

    return list(_patient(shared).one(shared.cache.results, LISTING))


def _plans(
    store: Store, models: tuple[str, ...], samples: bool, models_dir: Path | None
) -> Iterator[Plan]:
    """Yield the plans of the chosen recipes."""
    from kiln.building.dry_run import plan_of
    from kiln.images.lock import locked_image
    from kiln.project.folders import Project
    from kiln.recipes.recipe import discover
    from kiln.recipes.selection import select

    project = Project.find()
    folder = (models_dir or project.models).absolute()
    for recipe in select(folder, discover(folder), models, samples=samples).unbroken():
        identity = locked_image(project.docker, recipe.image).identity
        yield plan_of(project, store, recipe, recipe.variants, identity)


def _shown(count: Count) -> list[str]:
    return [f"{count.number:,}", f"{count.size:,}"]


def _count(count: Count) -> dict[str, int]:
    return {"number": count.number, "size": count.size}


def _say(as_json: bool, text: str, **fields: Any) -> None:
    if as_json:
        JsonReporter().event("cache", **fields)
    else:
        print(text)
