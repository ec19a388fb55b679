"""Open what a user wants reproduced: verify signatures, then read the provenance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kiln.core.errors import UsageError, VerificationError
from kiln.core.suggest import refuse_unknown
from kiln.core.untrusted import MalformedError, parse_json, read_file, read_named
from kiln.project import bounds
from kiln.reproduce.recorded import Recorded, read
from kiln.signing import dsse
from kiln.signing.statement_names import ATTESTATIONS, PROVENANCE_SUFFIX, STATEMENT_TYPE

#: Opens a bundle about a model (content, model, name for messages); returns the statement after
#: verifying its signature.
Open = Callable[[bytes, str, str], dict[str, Any]]

#: Most statements of one release: some hundred times what ours have.
_MAX_STATEMENTS = 2_000


def recorded_in(target: Path, open_bundle: Open | None) -> list[Recorded]:
    """Read the records of the artefacts at ``target``, by model and file.

    Args:
        target: a release folder, a model's folder in it, an artefact, a provenance bundle, or a
            statement in plain JSON.
        open_bundle: verifies; None reads without verification, as the user asked.

    Raises:
        UsageError: there is no provenance at ``target``.
        VerificationError: a signature is not valid, or a statement cannot be understood.
    """
    found: dict[tuple[str, str], Recorded] = {}
    places = _places(target)
    if len(places) > _MAX_STATEMENTS:
        raise VerificationError(
            f"There are {len(places):,} statements at {target}, more than {_MAX_STATEMENTS:,}.",
            "Name one model's folder, or one file.",
        )
    for place in places:
        item = read(_statement(place, open_bundle, named=place == target), place)
        before = found.setdefault((item.model, item.file), item)
        if (before.sha256, before.plan) != (item.sha256, item.plan):
            raise VerificationError(
                f"{before.place} and {place} say different things about one file.",
                "Name the one you mean.",
            )
    return [found[key] for key in sorted(found)]


def chosen(
    artefacts: Sequence[Recorded], models: Sequence[str], variants: Sequence[str]
) -> list[Recorded]:
    """Select the artefacts of the named models and variants; all where none is named.

    Raises:
        UsageError: there is no such model or variant.
    """
    refuse_unknown("model", models, dict.fromkeys(item.model for item in artefacts))
    refuse_unknown("variant", variants, dict.fromkeys(item.variant for item in artefacts))
    found = [
        item
        for item in artefacts
        if (not models or item.model in models) and (not variants or item.variant in variants)
    ]
    if not found:
        raise UsageError("No artefact has that model and variant.", "Name fewer of them.")
    return found


def _places(target: Path) -> list[Path]:
    name = f"*{PROVENANCE_SUFFIX}"
    if target.is_dir():
        for pattern in (f"{ATTESTATIONS}/{name}", f"*/{ATTESTATIONS}/{name}", name):
            if found := sorted(target.glob(pattern)):
                return found
    elif target.is_file() and target.suffix == ".tflite":
        beside = f"{target.name}{PROVENANCE_SUFFIX}"
        for path in (target.parent / ATTESTATIONS / beside, target.parent / beside):
            if path.is_file():
                return [path]
    elif target.is_file():
        return [target]
    else:
        raise UsageError(f"There is no {target}.", "Name a release folder, or a provenance file.")
    raise UsageError(
        f"There is no provenance at {target}.",
        f"Name a release made by `kiln build`, or a file *{PROVENANCE_SUFFIX}.",
    )


def _statement(place: Path, open_bundle: Open | None, *, named: bool) -> dict[str, Any]:
    try:
        data = (read_named if named else read_file)(place, bounds.STATEMENT.most)
        parsed = parse_json(data, size=bounds.STATEMENT.most)
    except OSError as error:
        raise UsageError(f"{place} cannot be read: {error.strerror}.", "Check the path.") from None
    except MalformedError as error:
        raise VerificationError(f"{place} {error}.", "Name a provenance file.") from None
    if isinstance(parsed, dict) and parsed.get("_type") == STATEMENT_TYPE:
        if open_bundle is not None:
            raise VerificationError(
                f"{place} is a statement without a signature.",
                f"Name the file *{PROVENANCE_SUFFIX}; or, if you trust its source, "
                "add --unverified.",
            )
        return parsed
    statement = dsse.peek_unverified(data, str(place))
    if open_bundle is None:
        return statement
    return open_bundle(data, _model_of(statement), str(place))


def _model_of(statement: dict[str, Any]) -> str:
    try:
        return str(statement["predicate"]["buildDefinition"]["externalParameters"]["model"])
    except (KeyError, TypeError):
        return ""
