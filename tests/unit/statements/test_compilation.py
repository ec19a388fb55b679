"""The provenance of a file of ``kiln compile``: what it says, and in which order."""

from __future__ import annotations

import pytest

from kiln.core.digest import canonical_json
from kiln.core.version import __version__
from kiln.signing.signer import KeySigner
from kiln.statements.compilation import Compilation, compilation_statement

MADE = Compilation(
    {"model": "boats_int8", "target": "x"},
    ("/in/model.tflite", "x"),
    {"timeout": 60.0},
    {"input/b": {"sha256": "1" * 64}, "compiler": {"kilnTree": "2" * 64}},
    ("made.tflite.json", "3" * 64),
)


def test_what_it_says(signer: KeySigner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)  # where these tests may run
    statement = compilation_statement(MADE, "made.tflite", "4" * 64)
    assert statement["subject"] == [{"name": "made.tflite", "digest": {"sha256": "4" * 64}}]
    assert statement["predicate"] == {
        "buildDefinition": {
            "buildType": "https://tflite-kiln.github.io/build-types/compilation/v1",
            "externalParameters": {"model": "boats_int8", "target": "x"},
            "internalParameters": {
                "command": ["/in/model.tflite", "x"],
                "limits": {"timeout": 60.0},
            },
            "resolvedDependencies": [
                {"name": "compiler", "digest": {"kilnTree": "2" * 64}},
                {"name": "input/b", "digest": {"sha256": "1" * 64}},
            ],
        },
        "runDetails": {
            "builder": {
                "id": "https://tflite-kiln.github.io/builders/local/v1",
                "version": {"kiln": __version__},
            },
            "metadata": {},
            "byproducts": [{"name": "made.tflite.json", "digest": {"sha256": "3" * 64}}],
        },
    }
    opened = signer.open_bundle(signer.seal(statement))
    assert canonical_json(opened) == canonical_json(statement)


def test_in_a_workflow_it_names_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKFLOW_REF", "me/models/.github/workflows/x.yml@refs/tags/v1")
    monkeypatch.setenv("GITHUB_RUN_ID", "7")
    details = compilation_statement(MADE, "made.tflite", "4" * 64)["predicate"]["runDetails"]
    assert "me/models/.github/workflows/x.yml" in details["builder"]["id"]
    assert "/actions/runs/7/" in details["metadata"]["invocationId"]
