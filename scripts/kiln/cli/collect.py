"""``kiln collect`` and ``kiln notes``: make a release from parts, and write its notes."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kiln.cli.common import PATH, json_option
from kiln.cli.reporters import JsonReporter
from kiln.core.errors import UsageError
from kiln.core.output import table


@click.command(short_help="Make one release of parts.")
@click.argument("parts", nargs=-1, metavar="[PART]...", type=PATH)
@click.option("--dist", type=PATH, default=None, help="The release [dist/].")
@click.option(
    "--assets",
    type=PATH,
    default=None,
    metavar="DIR",
    help="Also write the release as flat files, one of them an archive of all.",
)
@click.option(
    "--policy",
    type=PATH,
    help="Trust file: who may have signed [your own key].",
)
@json_option
def collect(
    parts: tuple[Path, ...],
    dist: Path | None,
    assets: Path | None,
    policy: Path | None,
    as_json: bool,
) -> None:
    """Copy the models of PARTs, dist folders that were built and signed separately, into one.

    Each PART is verified first, and the whole at the end. Without a PART, only the assets of dist/
    are written.
    """
    from kiln.project.folders import Project
    from kiln.release.assets import write_assets
    from kiln.release.collect import collect as collect_parts
    from kiln.release.verify import verify_by
    from kiln.signing.keys import load_public_key
    from kiln.signing.signer import own_signer
    from kiln.signing.trust import trust_in_key
    from kiln.signing.trust_file import load_policy
    from kiln.statements.release_statement import release_id

    if not parts and assets is None:
        raise UsageError("There is nothing to collect.", "Name dist folders, or --assets.")
    trust = load_policy(policy) if policy is not None else trust_in_key(load_public_key(None))
    target = (dist or Project.find().root / "dist").absolute()
    if parts:
        done = collect_parts([part.absolute() for part in parts], target, own_signer(), trust)
        report = done.report
    else:
        report = verify_by(target, trust)
    written = [] if assets is None else write_assets(target, release_id(), assets.absolute())
    if as_json:
        for model in report.models:
            JsonReporter().event("collected", model=model.name, files=len(model.files))
        for path in written:
            JsonReporter().event("asset", file=str(path), size=path.stat().st_size)
        return
    rows = [[model.name, str(len(model.files))] for model in report.models]
    print(table(["model", "files"], rows))
    print(f"\n{target} verifies.")
    if written:
        print(f"{assets}: {len(written)} files.")


@click.command(short_help="Write a release's notes, as Markdown.")
@click.argument("dist", required=False, type=PATH)
def notes(dist: Path | None) -> None:
    """Print what is in DIST [dist/], how it was checked and how to verify it, as Markdown."""
    from kiln.project.folders import Project
    from kiln.release.notes import notes as write_notes
    from kiln.statements.release_statement import release_id

    folder = (dist or Project.find().root / "dist").absolute()
    print(write_notes(folder, release_id(), _workflow()), end="")


def _workflow() -> str:
    """Return the identity that this GitHub job signs with; empty elsewhere."""
    server, ref = (os.environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "WORKFLOW_REF"))
    return f"{server}/{ref}" if server and ref else ""
