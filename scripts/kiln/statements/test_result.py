"""Make the test result of one artefact: ``checks.json``'s gates as an in-toto statement v0.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kiln.signing.statement_names import CHECKS_FILE, STATEMENT_TYPE, TEST_RESULT_TYPE

#: A gate's outcome in ``checks.json`` -> the list of the statement it goes to. A skipped gate was
#: not tested, so it is in none.
_LISTS = {"passed": "passedTests", "allowed": "warnedTests", "failed": "failedTests"}


def test_result_statement(
    checks: Mapping[str, Any], checks_sha256: str, *, variant: str, file: str, sha256: str
) -> dict[str, Any]:
    """Make the statement about ``file``.

    Args:
        checks: the content of ``checks.json``.
        checks_sha256: its digest.
        variant: the file's variant.
        file: its name in the model folder.
        sha256: its digest.

    Raises:
        KeyError, TypeError: ``checks`` has no verdict on that variant, or has another form.
    """
    lists: dict[str, list[str]] = {name: [] for name in _LISTS.values()}
    for gate in checks["variants"][variant]["gates"]:
        if gate["status"] in _LISTS:
            lists[_LISTS[gate["status"]]].append(gate["gate"])
    result = "PASSED"
    if lists["warnedTests"]:
        result = "WARNED"
    if lists["failedTests"]:
        result = "FAILED"
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": file, "digest": {"sha256": sha256}}],
        "predicateType": TEST_RESULT_TYPE,
        "predicate": {
            "result": result,
            "configuration": [{"name": CHECKS_FILE, "digest": {"sha256": checks_sha256}}],
            **{name: sorted(gates) for name, gates in lists.items()},
        },
    }


# Not a test, although pytest would collect it by its name where a test imports it.
test_result_statement.__test__ = False  # type: ignore[attr-defined]
