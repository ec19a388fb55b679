"""Sign stage results for other machines, and read those of others.

An envelope is a bundle like those of a release (:mod:`kiln.signing.dsse`). Its statement holds the
store's own record of the result; the subjects are the key and the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kiln.core.errors import VerificationError
from kiln.core.stage_result import StageResult, manifest_of, parse_result
from kiln.project import bounds
from kiln.signing import dsse
from kiln.signing.keyless import is_keyless
from kiln.signing.keys import SigningKey
from kiln.signing.statement_names import LOW_S, SIGNATURE_FORM, STAGE_RESULT_TYPE, STATEMENT_TYPE
from kiln.signing.trust import STAGE_RESULT, Trust

#: A result that names a larger content is refused. The largest real one has 97 MB.
MOST_CONTENT = bounds.ARTEFACT.most


def statement_of(result: StageResult) -> dict[str, Any]:
    """Make the statement about a result."""
    files = [
        {"name": name, "digest": {"sha256": blob.sha256}}
        for name, blob in sorted(result.files.items())
    ]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "key", "digest": {"kilnKey": result.key}}, *files],
        "predicateType": STAGE_RESULT_TYPE,
        "predicate": {"result": manifest_of(result), SIGNATURE_FORM: LOW_S},
    }


def result_of(statement: Mapping[str, Any], key: str) -> StageResult:
    """Return the result in a verified statement.

    Raises:
        VerificationError: it is another kind of statement, or about another key.
    """
    predicate = statement.get("predicate")
    manifest = predicate.get("result") if isinstance(predicate, dict) else None
    result = parse_result(manifest, key) if isinstance(manifest, dict) else None
    if result is None or statement_of(result) != statement:
        raise dsse.bad(_named(key), "is not a statement about that result")
    sizes = [blob.size for blob in result.files.values()]
    sound = 0 <= result.seconds < 1e9 and all(0 <= size <= MOST_CONTENT for size in sizes)
    if not sound:
        raise dsse.bad(_named(key), "states sizes or times that no stage has")
    return result


def seal(result: StageResult, signer: SigningKey) -> bytes:
    """Sign a result; ``SigningKeyError`` if the key cannot be used."""
    return dsse.seal(statement_of(result), signer)


def open_envelope(data: bytes, key: str, model: str, trust: Trust) -> StageResult:
    """Return the result in an envelope, if someone signed it who is trusted with this model.

    Raises:
        VerificationError: they did not, or it is damaged or about another key.
    """
    if is_keyless(data):
        # To verify one could need the network; workers sign with keys.
        raise dsse.bad(_named(key), "is signed without a key")
    return result_of(trust.open(data, STAGE_RESULT, model, _named(key)), key)


def peek(data: bytes, key: str) -> StageResult | None:
    """Return the result that an envelope claims, WITHOUT verifying it; None if it claims none.

    Only for counting and for keeping what it names.
    """
    try:
        return result_of(dsse.peek_unverified(data), key)
    except VerificationError:
        return None


def _named(key: str) -> str:
    return f"The result {key[:16]} in the cache"
