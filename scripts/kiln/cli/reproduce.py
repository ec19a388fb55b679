"""``kiln reproduce``: rebuild a release's artefacts, and compare the bytes."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kiln.cli.common import PATH, json_option, reporter_for
from kiln.cli.reporters import JsonReporter, TextReporter
from kiln.core.errors import CannotReproduceError, NotReproducedError, UsageError, VerificationError
from kiln.core.output import table, tolerant_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kiln.project.folders import Project
    from kiln.reproduce.targets import Open
    from kiln.reproduce.verdict import Verdict
    from kiln.running.limits import Limits

#: Seconds; longer timeouts overflow a timer.
_MAX_TIME = 10**9


@click.command("reproduce", short_help="Make a release again, and compare the bytes.")
@click.argument("target", type=PATH)
@click.option("--model", "models", multiple=True, metavar="MODEL", help="Only this; repeatable.")
@click.option(
    "--variant", "variants", multiple=True, metavar="VARIANT", help="Only this; likewise."
)
@click.option("--bundle", type=PATH, metavar="FILE", help="A bundle to import first.")
@click.option(
    "--image", "archives", type=PATH, multiple=True, metavar="FILE", help="An archived image."
)
@click.option("--source", type=PATH, metavar="FILE", help="source.tar, if it is not in place.")
@click.option(
    "--inputs", "folders", type=PATH, multiple=True, metavar="DIR", help="A folder with inputs."
)
@click.option("--key", type=PATH, help="Trusted public key [your own].")
@click.option("--policy", type=PATH, help="Trust file: who may sign what (docs/trust.md).")
@click.option("--unverified", is_flag=True, help="Do not verify signatures.")
@click.option("--keep", type=PATH, metavar="DIR", help="Keep rebuilt files that differ.")
@click.option(
    "--memory", metavar="SIZE", help="Memory limit of a container, whatever is recorded [8 GiB]."
)
@click.option("--timeout", metavar="TIME", help="Time limit, likewise [1 h].")
@click.option(
    "--build-strangers-image",
    "strangers_image",
    is_flag=True,
    help="If the image is not available, run the release's own installer as root in a build "
    "container, without a network, to build it.",
)
@json_option
def reproduce(
    target: Path,
    models: tuple[str, ...],
    variants: tuple[str, ...],
    bundle: Path | None,
    archives: tuple[Path, ...],
    source: Path | None,
    folders: tuple[Path, ...],
    key: Path | None,
    policy: Path | None,
    unverified: bool,
    keep: Path | None,
    memory: str | None,
    timeout: str | None,
    strangers_image: bool,
    as_json: bool,
) -> None:
    """Rebuild the artefacts of TARGET from their provenance, and compare them byte by byte.

    TARGET is a release (folder or archive), a model's folder in it, an artefact, or a provenance
    file.
    Exit code 0: all are identical; 42: one differs; 43: one cannot be rebuilt.
    """
    from kiln.core.store import Store
    from kiln.release import single_file
    from kiln.reproduce.rerun import Reproducer
    from kiln.reproduce.targets import chosen, recorded_in

    if source is not None and not source.is_file():
        raise UsageError(f"There is no file {source}.", "Correct --source.")
    for path in archives:
        if not path.is_file():
            raise UsageError(f"There is no file {path}.", "Correct --image.")
    most = _most(memory, timeout)
    with contextlib.ExitStack() as stack:
        place = target.absolute()
        if place.is_file() and single_file.is_archive(place):
            place = stack.enter_context(single_file.unpacked(place))
        opened = _opener(place, key, policy, unverified)
        artefacts = chosen(recorded_in(place, opened), models, variants)
        if source is not None and len({item.source for item in artefacts}) > 1:
            raise UsageError("--source goes with one model.", "Name it with --model.")
        store = Store(Store.default_root())
        store.sweep()
        reporter = stack.enter_context(reporter_for(as_json))
        if unverified:
            reporter.event("note", message="signatures are not verified: this release is untrusted")
        if bundle is not None:
            _import(bundle, store, reporter)
        reproducer = Reproducer(
            store,
            _checkout(),
            reporter.event,
            folders=[folder.absolute() for folder in folders],
            source=None if source is None else source.resolve(),
            archives=[path.absolute() for path in archives],
            keep=None if keep is None else keep.absolute(),
            strangers_image=strangers_image,
            most=most,
        )
        verdicts = reproducer.run(artefacts)
    if not as_json:
        _show(verdicts)
    _judge(verdicts)
    if not as_json:
        print(f"\nAll identical: {len(verdicts)} made again, byte for byte.")


def _most(memory: str | None, timeout: str | None) -> Limits:
    """Return the limits of a container.

    Raises:
        UsageError: an option is not a size or a time.
    """
    from kiln.recipes.values import parse_duration, parse_size
    from kiln.running.limits import Limits

    most = Limits()
    try:
        if memory is not None:
            most = replace(most, memory=parse_size(memory))
        if timeout is not None:
            most = replace(most, timeout=float(min(parse_duration(timeout), _MAX_TIME)))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{error}.", "Examples: --memory 16GiB, --timeout 2h.") from None
    return most


def _opener(target: Path, key: Path | None, policy: Path | None, unverified: bool) -> Open | None:
    from kiln.core.untrusted import MalformedError, read_file
    from kiln.project import bounds
    from kiln.release.layout import KEY_FILE
    from kiln.signing.keys import load_public_key
    from kiln.signing.trust import PROVENANCE, trust_in_key
    from kiln.signing.trust_file import load_policy

    if sum((key is not None, policy is not None, unverified)) > 1:
        raise UsageError("--key, --policy and --unverified cannot be combined.", "Choose one.")
    if unverified:
        return None
    trust = load_policy(policy) if policy is not None else trust_in_key(load_public_key(key))
    for folder in (target, *target.parents[:3]):  # for signers known by key id only
        with contextlib.suppress(OSError, MalformedError):
            trust.offer_key(read_file(folder / KEY_FILE, bounds.KEY.most))

    def opened(data: bytes, model: str, name: str) -> dict[str, Any]:
        statement = trust.open(data, PROVENANCE, model, name)
        if unmet := trust.requirements.unmet_by_provenance(statement):
            raise VerificationError(
                f"The artefact of {name} {'; '.join(unmet)}.", "The trust file does not allow that."
            )
        return statement

    return opened


def _checkout() -> Project | None:
    from kiln.project.folders import Project

    with contextlib.suppress(UsageError):
        return Project.find()
    return None


def _import(bundle: Path, store: Any, reporter: JsonReporter | TextReporter) -> None:
    from kiln.bundle.reading import import_bundle

    def progress(done: int, total: int) -> None:
        reporter.event("bundle", what="reading", done=done, total=total)

    found = import_bundle(bundle.absolute(), store, progress)
    reporter.event("note", message=f"{bundle}: {found.new} contents copied into the store")


def _show(verdicts: Sequence[Verdict]) -> None:
    tolerant_output()
    rows = [
        [
            v.recorded.model,
            v.recorded.variant,
            v.recorded.sha256[:16],
            v.rebuilt[:16] or "-",
            v.outcome,
        ]
        for v in verdicts
    ]
    print(table(["model", "variant", "released sha256", "made again", "verdict"], rows))
    for verdict in verdicts:
        if lines := verdict.lines():
            print(f"\n{verdict.recorded.file}: {verdict.outcome}")
            print("\n".join(f"  {line}".rstrip() for line in lines))


def _judge(verdicts: Sequence[Verdict]) -> None:
    from kiln.reproduce.verdict import DIFFERS, IDENTICAL, IMPOSSIBLE

    count = {
        outcome: sum(verdict.outcome == outcome for verdict in verdicts)
        for outcome in (IDENTICAL, DIFFERS, IMPOSSIBLE)
    }
    said = ", ".join(f"{number} {outcome}" for outcome, number in count.items() if number)
    names = [v.recorded.file for v in verdicts if v.outcome != IDENTICAL]
    if count[DIFFERS]:
        raise NotReproducedError(
            f"Of {len(verdicts)} artefacts: {said}. Not identical: {', '.join(names)}.",
            "The suspected causes are above; --keep keeps the rebuilt files, for `kiln diff`.",
        )
    if count[IMPOSSIBLE]:
        raise CannotReproduceError(
            f"Of {len(verdicts)} artefacts: {said}. Not rebuilt: {', '.join(names)}.",
            "Missing files, and where to get them, are listed above.",
        )
