"""``kiln page``: the release's page, written anew."""

from __future__ import annotations

from pathlib import Path

import click

from kiln.ui import JsonReporter


@click.command(short_help="Write the release's page, index.html.")
@click.option(
    "--dist", type=click.Path(path_type=Path), default=None, help="Where artefacts are [dist/]."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Write it there [DIST/index.html]."
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable events, one a line.")
def page(dist: Path | None, out: Path | None, as_json: bool) -> None:
    """Write the release's page: what is in dist/, how good it is, how to use and verify it."""
    from kiln.files import write_atomic
    from kiln.page.document import PAGE_FILE, render
    from kiln.project import Project

    folder = (dist or Project.find().root / "dist").absolute()
    target = (out or folder / PAGE_FILE).absolute()
    data = render(folder).encode("utf-8")
    write_atomic(target, data)
    if as_json:
        JsonReporter().event("page", file=str(target), size=len(data))
    else:
        print(f"{target}: {len(data):,} bytes")
