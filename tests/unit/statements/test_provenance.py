"""Provenance and test results: what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stated_toy import (
    DEVICE_SBOM,
    FILE,
    ONE,
    RESULT,
    SBOM,
    definition,
    dependency,
    inside,
    lied,
    other_files,
    problems,
)
from toy_project import SEALED
from toy_release import COMMIT, ToyModel, toy_model

from kiln.core.digest import canonical_json, sha256_bytes, tree_digest
from kiln.core.version import __version__
from kiln.signing.signer import KeySigner
from kiln.signing.statement_names import (
    BUILD_TYPE,
    BUILDER_LOCAL,
    PROVENANCE_TYPE,
    TEST_RESULT_TYPE,
    provenance_path,
    result_path,
)
from kiln.statements.package import Package
from kiln.statements.provenance import builder_of
from kiln.statements.source_archive_reader import SourceArchive
from kiln.statements.test_result import test_result_statement as result_statement


def test_a_sound_folder(toy: ToyModel, signer: KeySigner) -> None:
    assert problems(toy, signer) == {}


def test_what_provenance_says(toy: ToyModel) -> None:
    statement = toy.statements[ONE]
    assert statement["subject"] == [{"name": FILE, "digest": {"sha256": sha256_bytes(b"one")}}]
    assert statement["predicateType"] == PROVENANCE_TYPE
    definition = statement["predicate"]["buildDefinition"]
    assert definition["buildType"] == BUILD_TYPE
    archive = SourceArchive.read(toy.files["source.tar"])
    recipe = archive.files["models/toy/recipe.toml"]
    assert definition["externalParameters"] == {
        "model": "toy",
        "variant": "float32",
        "recipe": {
            "path": "models/toy/recipe.toml",
            "sha256": sha256_bytes(recipe),
            "text": recipe.decode(),
        },
    }
    names = [item["name"] for item in definition["resolvedDependencies"]]
    assert names == sorted(names)
    by_name = {item["name"]: item for item in definition["resolvedDependencies"]}
    assert by_name.keys() == {
        "image/device",
        "image/odapi",
        "input/annotate-float32/label_map",
        "input/export/checkpoint/checkpoint/ckpt-0.index",
        "input/export/checkpoint/pipeline.config",
        "lock/docker/device/Dockerfile",
        "lock/docker/images.lock",
        "lock/docker/images.toml",
        "lock/docker/install.py",
        "lock/docker/odapi/Dockerfile",
        "repository",
        "sbom.cdx.json",
        "sbom.device.cdx.json",
        "source.tar",
        "source/archive",
        "stage-code",
    }
    assert by_name["image/odapi"]["digest"] == {"sha256": SEALED.identity[7:]}
    assert by_name["sbom.cdx.json"]["digest"] == {"sha256": sha256_bytes(SBOM)}
    assert by_name["sbom.device.cdx.json"]["digest"] == {"sha256": sha256_bytes(DEVICE_SBOM)}
    assert toy.files["sbom.device.cdx.json"] == DEVICE_SBOM
    assert by_name["source.tar"]["digest"] == {"sha256": sha256_bytes(toy.files["source.tar"])}
    assert by_name["source/archive"]["uri"] == "file:///nowhere.tar.gz"
    assert by_name["repository"] == {
        "name": "repository",
        "uri": "git+https://example.com/kiln.git",
        "digest": {"gitCommit": COMMIT},
        "annotations": {"dirty": False},
    }
    details = statement["predicate"]["runDetails"]
    assert details["builder"] == {"id": BUILDER_LOCAL, "version": {"kiln": __version__}}
    assert details["metadata"] == {}
    record = sha256_bytes(toy.files["conversion.json"])
    assert details["byproducts"] == [{"name": "conversion.json", "digest": {"sha256": record}}]


def test_the_same_build_states_the_same(
    tmp_path: Path, toy: ToyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    artefacts = {"float32": b"one", "dynamic": b"two"}
    again = toy_model(tmp_path, "toy", artefacts, sbom=SBOM, device_sbom=DEVICE_SBOM)
    assert canonical_json(again.statements) == canonical_json(toy.statements)
    assert again.files["source.tar"] == toy.files["source.tar"]


def test_in_a_workflow_it_names_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signer: KeySigner
) -> None:
    for name, value in {
        "GITHUB_ACTIONS": "true",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "me/kiln",
        "GITHUB_RUN_ID": "7",
        "GITHUB_RUN_ATTEMPT": "2",
        "GITHUB_WORKFLOW_REF": "me/kiln/.github/workflows/release.yml@refs/tags/v1",
    }.items():
        monkeypatch.setenv(name, value)
    model = toy_model(tmp_path, "toy", {"float32": b"one"})
    details = model.statements[ONE]["predicate"]["runDetails"]
    assert details["builder"]["id"] == (
        "https://github.com/me/kiln/.github/workflows/release.yml@refs/tags/v1"
    )
    run = "https://github.com/me/kiln/actions/runs/7/attempts/2"
    assert details["metadata"] == {"invocationId": run}
    assert problems(model, signer) == {}


def test_elsewhere_those_variables_mean_nothing() -> None:
    assert builder_of({"GITHUB_WORKFLOW_REF": "x"}) == (BUILDER_LOCAL, "")
    assert builder_of({"GITHUB_ACTIONS": "true"}) == (BUILDER_LOCAL, "")


def test_what_a_test_result_says(toy: ToyModel) -> None:
    statement = toy.statements[RESULT]
    checks = sha256_bytes(toy.files["checks.json"])
    assert statement["predicateType"] == TEST_RESULT_TYPE
    assert statement["subject"] == toy.statements[ONE]["subject"]
    assert statement["predicate"] == {
        "result": "WARNED",
        "configuration": [{"name": "checks.json", "digest": {"sha256": checks}}],
        "passedTests": ["parity"],
        "warnedTests": ["labels"],
        "failedTests": [],
    }


@pytest.mark.parametrize(
    ("statuses", "result"),
    [
        ((), "PASSED"),
        (("passed", "skipped"), "PASSED"),
        (("passed", "allowed"), "WARNED"),
        (("allowed", "failed"), "FAILED"),
    ],
)
def test_results(statuses: tuple[str, ...], result: str) -> None:
    gates = [{"gate": f"g{n}", "status": status} for n, status in enumerate(statuses)]
    checks = {"variants": {"int8": {"gates": gates}}}
    statement = result_statement(checks, "1" * 64, variant="int8", file="x", sha256="2" * 64)
    assert statement["predicate"]["result"] == result


def test_the_publisher_s_own_file_has_provenance_too(tmp_path: Path, signer: KeySigner) -> None:
    artefacts = {"prebuilt": b"annotated", "float32": b"one"}
    model = toy_model(tmp_path, "toy", artefacts, original=b"theirs")
    file = "toy_prebuilt_original.tflite"
    assert result_path(file) not in model.statements, "it is as it came, and was not judged"
    statement = model.statements[provenance_path(file)]
    assert statement["subject"][0]["digest"]["sha256"] == sha256_bytes(b"theirs")
    assert [step["id"] for step in inside(statement)["plan"]["steps"]] == ["adopt"]
    assert dependency(statement, "input/adopt/model")["digest"] == {
        "sha256": sha256_bytes(b"theirs")
    }
    assert problems(model, signer) == {}
    found = problems(other_files(model, **{file: b"evil"}), signer)
    assert list(found) == [provenance_path(file)]


@pytest.mark.parametrize("dirty", [False, True])
def test_an_installed_kiln_is_stated_as_such(
    signer: KeySigner, tmp_path: Path, dirty: bool
) -> None:
    package = Package(__version__, dirty)
    model = toy_model(tmp_path / "toy", "toy", {"float32": b"one"}, sbom=SBOM, package=package)
    assert problems(model, signer) == {}
    stated = dependency(model.statements[ONE], "package")
    assert stated == {
        "name": "package",
        "uri": f"pkg:pypi/tflite-kiln@{__version__}",
        "digest": {"kilnTree": SourceArchive.read(model.files["source.tar"]).driver_code()},
        "annotations": {"dirty": dirty},
    }
    names = {item["name"] for item in definition(model.statements[ONE])["resolvedDependencies"]}
    assert "repository" not in names
    lies: dict[str, Callable[[Any], Any]] = {
        "names other dependencies than follow from the files: package": lambda it: dependency(
            it, "package"
        )["digest"].update(kilnTree="0" * 64),
        "package": lambda it: dependency(it, "package").update(uri="pkg:pypi/tflite-kiln@99"),
        "is damaged": lambda it: dependency(it, "package")["annotations"].update(dirty="no"),
        "not part of kiln's provenance": lambda it: definition(it)["resolvedDependencies"].append(
            dependency(it, "package")
        ),
    }
    for words, change in lies.items():
        found = problems(lied(model, ONE, change), signer)
        assert list(found) == [ONE], found
        assert words in "; ".join(found[ONE])


def test_the_driver_s_digest_is_of_its_folder_alone(tmp_path: Path, toy: ToyModel) -> None:
    archive = SourceArchive.read(toy.files["source.tar"])
    driver = {"scripts/kiln/a.py": b"a", "scripts/kiln/b/c.py": b"c"}
    files = {**archive.files, **driver, "scripts/other.py": b"o"}
    for name, data in driver.items():
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    digest = replace(archive, files=files).driver_code()
    assert digest == tree_digest(tmp_path / "scripts" / "kiln")
