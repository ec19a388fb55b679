"""``kiln verify``: verify a release, its archive, or one artefact, by whom the user trusts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kiln.cli.common import PATH, json_option
from kiln.cli.reporters import JsonReporter
from kiln.core.errors import UsageError
from kiln.core.output import table

if TYPE_CHECKING:
    from kiln.release.single_file import VerifiedFile
    from kiln.release.verify import VerifyReport


@click.command("verify", short_help="Check a release: signatures, sums, file lists.")
@click.argument("target", required=False, type=PATH)
@click.option("--key", type=PATH, help="Trusted public key [your own].")
@click.option("--identity", metavar="ID", help="Trusted identity instead of a key (* allowed).")
@click.option("--issuer", metavar="URL", help="The issuer of that identity.")
@click.option("--policy", type=PATH, help="Trust file: who may sign what (docs/trust.md).")
@click.option("--trusted-root", type=PATH, help="Keys behind identities [sigstore's public ones].")
@click.option("--bundle", "bundles", type=PATH, multiple=True, help="A single file's bundle.")
@click.option("--ignore-git", is_flag=True, help="Pass over git's own files: .git, .gitignore, …")
@click.option("--all", "all_files", is_flag=True, help="List every file, not only the models.")
@json_option
def verify(
    target: Path | None,
    key: Path | None,
    identity: str | None,
    issuer: str | None,
    policy: Path | None,
    trusted_root: Path | None,
    bundles: tuple[Path, ...],
    ignore_git: bool,
    all_files: bool,
    as_json: bool,
) -> None:
    """Check signatures, digests, provenance and that nothing was added, in TARGET [dist/].

    TARGET is a release folder, an archive of one (.tar, .tar.gz, .tgz, .zip), or one .tflite file
    with its bundles beside it. The network is not used.
    """
    from kiln.project.folders import Project
    from kiln.release import single_file
    from kiln.release.verify import verify_by
    from kiln.signing.trust_options import choose_trust

    place = (target or Project.find().root / "dist").absolute()
    single = place.is_file() and not single_file.is_archive(place)
    if bundles and not single:
        raise UsageError(
            "--bundle only applies to a single file.", "A folder's bundles are inside it."
        )
    trust = choose_trust(key, identity, issuer, policy, trusted_root)
    if single:
        _show_file(single_file.verify_file(place, trust, bundles), as_json)
    elif place.is_file():
        with single_file.unpacked(place) as folder:
            _show_release(verify_by(folder, trust, ignore_git), all_files, as_json)
    else:
        _show_release(verify_by(place, trust, ignore_git), all_files, as_json)


def _show_release(report: VerifyReport, all_files: bool, as_json: bool) -> None:
    if as_json:
        for model in report.models:
            for item in model.files:
                JsonReporter().event(
                    "verified",
                    model=model.name,
                    file=item.path.removeprefix(f"{model.name}/"),
                    sha256=item.sha256,
                    signers=list(report.signers),
                )
        for path in report.ignored:
            JsonReporter().event("ignored", path=path)
        return
    print(_table_of_files(report) if all_files else _table_of_models(report))
    count = len(report.models)
    what = f"{count} model{'' if count == 1 else 's'} of the release {report.release!r}"
    signed = f"{what}, signed by {' and '.join(report.signers)}"
    print(f"\nAll good: {signed}, nothing changed, missing or added.")
    if report.ignored:
        print(f"Not looked at (--ignore-git): {', '.join(report.ignored)}.")


def _table_of_models(report: VerifyReport) -> str:
    rows = []
    for model in report.models:
        artefacts = sum(item.path.endswith(".tflite") for item in model.files)
        size = sum(item.size for item in model.files)
        rows.append([model.name, str(artefacts), str(len(model.files)), f"{size:,}"])
    return table(["model", "artefacts", "files", "bytes"], rows)


def _table_of_files(report: VerifyReport) -> str:
    rows = [
        [model.name, item.path.removeprefix(f"{model.name}/"), f"{item.size:,}", item.sha256[:16]]
        for model in report.models
        for item in model.files
    ]
    return table(["model", "file", "bytes", "sha256"], rows)


def _show_file(found: VerifiedFile, as_json: bool) -> None:
    name = found.path.name
    if as_json:
        JsonReporter().event(
            "verified",
            model=found.model,
            file=name,
            sha256=found.sha256,
            result=found.result or None,
            signers=list(found.signers),
        )
        return
    row = [found.model, name, f"{found.size:,}", found.sha256[:16]]
    print(table(["model", "file", "bytes", "sha256"], [row]))
    tests = f", its checks {found.result}" if found.result else ", no test result beside it"
    print(f"\nAll good: {name} is what its provenance says{tests}; signed by "
          f"{' and '.join(found.signers)}.")  # fmt: skip
