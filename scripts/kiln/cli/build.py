"""Run the builder for ``kiln build`` and ``kiln convert``, and print the results."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiln.cli.common import reporter_for
from kiln.core.output import table

if TYPE_CHECKING:
    from kiln.cluster.address import ClusterAddress
    from kiln.core.store import Store
    from kiln.project.folders import Project
    from kiln.recipes.recipe import Variant
    from kiln.recipes.selection import Selection


def run_build(
    project: Project,
    store: Store,
    chosen: Selection,
    variants: Sequence[Variant],
    dist: Path,
    *,
    archive: Path | None = None,
    jobs: int | None = None,
    keep_failed: bool = False,
    as_json: bool = False,
    notes: Sequence[str] = (),
    shown_dist: Path | None = None,
    cluster: ClusterAddress | None = None,
) -> None:
    """Build models and print the results.

    Args:
        chosen: the models' recipes.
        variants: which ones; all of each recipe when empty.
        notes: shown at the start.
        shown_dist: how the user named ``dist``, for the printed command; ``None``: not named.
        cluster: where stages run, if not on this machine.

    Raises:
        KilnError: the only model's failure, or :class:`~kiln.core.errors.PartialBuildError`.
    """
    from kiln.building.build import Builder, failure_of
    from kiln.building.timing import Timings
    from kiln.release.layout import PAGE_FILE
    from kiln.signing.keys import KEY_VARIABLE, default_key_path

    new_key = not os.environ.get(KEY_VARIABLE) and not default_key_path().exists()
    start = time.monotonic()
    timings = Timings()

    with contextlib.ExitStack() as stack:
        reporter = stack.enter_context(reporter_for(as_json))
        for note in notes:
            reporter.event("note", message=note)

        def on_event(event: str, **fields: Any) -> None:
            timings.event(event, **fields)
            reporter.event(event, **fields)

        noted = {f"{model}: {note}" for model in chosen.names for note in notes}
        elsewhere = None
        if cluster is not None:
            from kiln.cluster.driver import Cluster

            tell = functools.partial(reporter.event, "note")
            elsewhere = stack.enter_context(
                Cluster(cluster, project, store, lambda text: tell(message=text))
            )
        builder = Builder(project, store, dist, on_event, keep_failed, noted, elsewhere)
        builds = builder.build(chosen, variants, archive=archive, jobs=jobs)
        for item in builds:
            for artefact in item.artefacts:
                reporter.event(
                    "artefact",
                    model=item.model,
                    variant=artefact.variant,
                    file=f"{item.model}/{artefact.file}",
                    sha256=artefact.sha256,
                    size=artefact.size,
                    changed=item.changed,
                )
    if not as_json:
        rows = [
            [item.model, a.variant, f"{a.size:,}", a.sha256[:16], "new" if item.changed else "same"]
            for item in builds
            for a in item.artefacts
        ]
        if times := timings.report():
            print(f"{times}\n")
        if rows:
            print(table(["model", "variant", "bytes", "sha256", ""], rows))
            ran = sum(item.stages_run for item in builds)
            count = f"{len(rows)} signed artefact{'' if len(rows) == 1 else 's'}"
            print(f"\n{count} in {dist} ({ran} stages run, {time.monotonic() - start:.1f} s).")
            if new_key and default_key_path().exists():
                print(f"Signed with a new key: {default_key_path()}")
            where = "" if shown_dist is None else f" {shlex.quote(str(shown_dist))}"
            print(f"Check them with: {myself()} verify{where}")
            print(f"Look at them in: {dist / PAGE_FILE}")
    error = failure_of(builds)
    if error is not None:
        raise error


def myself() -> str:
    """Return the command to run this program again; it may not be on the PATH."""
    given = sys.argv[0]
    at_hand = Path(given).name != "kiln" or shutil.which("kiln") == given
    return "kiln" if at_hand else shlex.quote(given)
