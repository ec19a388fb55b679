"""``kiln page``: write the release's page again."""

from __future__ import annotations

from pathlib import Path

import click

from kiln.cli.common import PATH, json_option
from kiln.cli.reporters import JsonReporter
from kiln.core.errors import UsageError


@click.command(short_help="Write the release's page, index.html.")
@click.option("--dist", type=PATH, default=None, help="Where artefacts are [dist/].")
@click.option("--out", type=PATH, default=None, help="Write it there [DIST/index.html].")
@json_option
def page(dist: Path | None, out: Path | None, as_json: bool) -> None:
    """Write the release's page again, and sign it.

    It shows what is in dist/, how good it is, how to use and how to verify it.
    """
    from kiln.core.files import write_atomic
    from kiln.page.document import PAGE_FILE, render
    from kiln.project.folders import Project
    from kiln.release.index_page import refresh
    from kiln.signing.signer import own_signer

    folder = (dist or Project.find().root / "dist").absolute()
    target = (out or folder / PAGE_FILE).absolute()
    if out is not None:
        write_atomic(target, render(folder).encode("utf-8"))
    elif not refresh(folder, own_signer()) and not target.is_file():
        raise UsageError(f"There is no release in {folder}.", "`kiln build` makes one.")
    size = target.stat().st_size
    if as_json:
        JsonReporter().event("page", file=str(target), size=size)
    else:
        print(f"{target}: {size:,} bytes")
