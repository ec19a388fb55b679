"""The statement about a whole release."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from kiln.core.errors import UsageError, VerificationError
from kiln.statements.release_statement import read_release, release_id, release_statement

DIGESTS = {"toy/b": "1" * 64, "SHA256SUMS": "2" * 64, "toy/a": "3" * 64}


def test_it_comes_back() -> None:
    statement = release_statement(DIGESTS, "v1.0")
    assert read_release(statement) == (DIGESTS, "v1.0")
    assert [item["name"] for item in statement["subject"]] == ["SHA256SUMS", "toy/a", "toy/b"]
    assert statement["predicateType"] == "https://in-toto.io/attestation/release/v0.1"
    assert statement["predicate"] == {
        "purl": "pkg:generic/tflite-kiln@v1.0",
        "releaseId": "v1.0",
        "signatureForm": "low-s",
    }
    assert statement == release_statement(dict(reversed(DIGESTS.items())), "v1.0")


def test_statements_from_before_signatures_had_one_form() -> None:
    statement = release_statement(DIGESTS, "v1.0")
    del statement["predicate"]["signatureForm"]
    assert read_release(statement) == (DIGESTS, "v1.0")


CHANGES: list[Callable[[Any], Any]] = [
    lambda it: it.update(more=1),
    lambda it: it.pop("_type"),
    lambda it: it.update(predicateType="https://slsa.dev/provenance/v1"),
    lambda it: it["predicate"].update(releaseId="v2.0"),
    lambda it: it["predicate"].update(releaseId="a b", purl="pkg:generic/tflite-kiln@a b"),
    lambda it: it["predicate"].update(releaseId=None),
    lambda it: it["predicate"].update(more=1),
    lambda it: it["predicate"].update(signatureForm="high-s"),
    lambda it: it["predicate"].update(signatureForm=None),
    lambda it: it.update(predicate=[]),
    lambda it: it["subject"].append(it["subject"][0]),
    lambda it: it["subject"].reverse(),
    lambda it: it["subject"][0].update(more=1),
    lambda it: it["subject"][0]["digest"].update(sha512="x"),
    lambda it: it["subject"][0]["digest"].update(sha256=None),
    lambda it: it["subject"][0].pop("digest"),
    lambda it: it.update(subject=None),
]


@pytest.mark.parametrize("change", CHANGES)
def test_another_statement_is_refused(change: Callable[[Any], Any]) -> None:
    statement = copy.deepcopy(release_statement(DIGESTS, "v1.0"))
    change(statement)
    with pytest.raises(VerificationError, match=r"release\.sigstore\.json"):
        read_release(statement)


def test_the_name_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KILN_RELEASE", raising=False)
    assert release_id() == "local"
    monkeypatch.setenv("KILN_RELEASE", "v1.2.0")
    assert release_id() == "v1.2.0"
    monkeypatch.setenv("KILN_RELEASE", "v1/../x")
    with pytest.raises(UsageError):
        release_id()
