"""Read from provenance what the artefacts of a release were made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kiln.core.errors import UsageError, VerificationError
from kiln.core.untrusted import MalformedError, read_file
from kiln.project import bounds
from kiln.recipes.steps import Files
from kiln.signing.dsse import REMEDY, peek_unverified
from kiln.signing.statement_names import ATTESTATIONS, PROVENANCE_SUFFIX, SOURCE_FILE
from kiln.statements.plan_data import plan_from_data


@dataclass(frozen=True)
class Needs:
    """What one released model needs to be rebuilt.

    Args:
        contents: SHA-256 -> name, of everything that its stages read.
        images: identities of the sealed images.
        source_archive: the release's own copy of the code, if it is there.
    """

    model: str
    contents: Mapping[str, str]
    images: frozenset[str]
    source_archive: Path | None


def needs_of(dist: Path) -> list[Needs]:
    """Read what every model of the release in ``dist`` needs, by model.

    Signatures are not verified: this only decides what to pack, and contents are named by digest.

    Raises:
        UsageError: there is no release with provenance.
        VerificationError: a provenance cannot be understood.
    """
    found: dict[str, Needs] = {}
    for path in sorted(dist.glob(f"*/{ATTESTATIONS}/*{PROVENANCE_SUFFIX}")):
        model = path.parent.parent.name
        contents, images = _read(path)
        before = found.get(model)
        if before is not None:
            contents = {**before.contents, **contents}
            images |= before.images
        archive = path.parent.parent / SOURCE_FILE
        found[model] = Needs(model, contents, images, archive if archive.is_file() else None)
    if not found:
        raise UsageError(
            f"There is no release with provenance in {dist}.", "`kiln build` makes one."
        )
    return list(found.values())


def _read(path: Path) -> tuple[dict[str, str], frozenset[str]]:
    try:
        data = read_file(path, bounds.STATEMENT.most)
    except MalformedError as error:
        raise VerificationError(f"{path} {error}.", REMEDY) from None
    except OSError as error:
        raise VerificationError(
            f"{path} cannot be read: {error.strerror or error}.", REMEDY
        ) from None
    statement = peek_unverified(data, str(path))
    try:
        build = statement["predicate"]["buildDefinition"]
        recorded = build["internalParameters"]["plan"]
        images = {
            f"sha256:{item['digest']['sha256']}"
            for item in build["resolvedDependencies"]
            if item["name"].startswith("image/")
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise VerificationError(
            f"{path} is not a provenance of kiln ({type(error).__name__}: {error}).",
            "Get the release again; `kiln verify` checks that it is complete.",
        ) from error
    plan = plan_from_data(recorded)
    contents = {
        digest: f"{step.id}/{name}/{place}".rstrip("/")
        for step in plan.steps
        for name, item in step.inputs.items()
        if isinstance(item, Files)
        for place, digest in item.files.items()
    }
    return contents, frozenset({*images, plan.identity})
