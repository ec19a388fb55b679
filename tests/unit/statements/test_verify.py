"""No statement is accepted that its files do not give."""

from __future__ import annotations

import copy
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stated_toy import (
    FILE,
    ONE,
    OTHER,
    RESULT,
    SBOM,
    definition,
    dependency,
    details,
    inside,
    lied,
    other_files,
    problems,
)
from toy_project import SEALED
from toy_release import ToyModel, toy_model

from kiln.core.digest import canonical_json
from kiln.signing import keys
from kiln.signing.signer import KeySigner
from kiln.signing.statement_names import TEST_RESULT_TYPE, provenance_path, result_path
from kiln.statements.source_archive_reader import SourceArchive

LIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "other bytes": (
        lambda it: it["subject"][0]["digest"].update(sha256="0" * 64),
        f"is about other bytes than those of {FILE}",
    ),
    "another name": (lambda it: it["subject"][0].update(name="x.tflite"), "is about other bytes"),
    "two subjects": (lambda it: it["subject"].append(it["subject"][0]), "is about other bytes"),
    "no provenance": (lambda it: it.update(predicateType=TEST_RESULT_TYPE), "is not a provenance"),
    "build type": (lambda it: definition(it).update(buildType="x"), "is not a provenance"),
    "recipe text": (
        lambda it: definition(it)["externalParameters"]["recipe"].update(text="x"),
        "has another recipe, model or variant",
    ),
    "recipe digest": (
        lambda it: definition(it)["externalParameters"]["recipe"].update(sha256="0" * 64),
        "has another recipe, model or variant",
    ),
    "recipe path": (
        lambda it: definition(it)["externalParameters"]["recipe"].update(path="models/x"),
        "has another recipe, model or variant",
    ),
    "model": (
        lambda it: definition(it)["externalParameters"].update(model="other"),
        "has another recipe, model or variant",
    ),
    "variant": (
        lambda it: definition(it)["externalParameters"].update(variant="dynamic"),
        "has another recipe, model or variant",
    ),
    "image": (
        lambda it: dependency(it, "image/odapi")["digest"].update(sha256="0" * 64),
        "image/odapi",
    ),
    "image of the checks": (
        lambda it: dependency(it, "image/device")["digest"].update(sha256="0" * 64),
        "image/device",
    ),
    "lock of the checks' image": (
        lambda it: dependency(it, "lock/docker/device/Dockerfile")["digest"].update(sha256="0"),
        "lock/docker/device/Dockerfile",
    ),
    "layer": (
        lambda it: dependency(it, "image/odapi")["annotations"].update(layer="x"),
        "image/odapi",
    ),
    "lock": (
        lambda it: dependency(it, "lock/docker/images.lock")["digest"].update(sha256="0" * 64),
        "lock/docker/images.lock",
    ),
    "source": (
        lambda it: dependency(it, "source.tar")["digest"].update(sha256="0" * 64),
        "source.tar",
    ),
    "stage code": (
        lambda it: dependency(it, "stage-code")["digest"].update(kilnTree="0" * 64),
        "stage-code",
    ),
    "archive": (lambda it: dependency(it, "source/archive").update(uri="x"), "source/archive"),
    "sbom": (
        lambda it: dependency(it, "sbom.cdx.json")["digest"].update(sha256="0" * 64),
        "sbom.cdx.json",
    ),
    "input": (
        lambda it: dependency(it, "input/annotate-float32/label_map")["digest"].update(sha256="0"),
        "input/annotate-float32/label_map",
    ),
    "no input": (
        lambda it: definition(it)["resolvedDependencies"].remove(
            dependency(it, "input/annotate-float32/label_map")
        ),
        "input/annotate-float32/label_map",
    ),
    "one more": (
        lambda it: definition(it)["resolvedDependencies"].append({"name": "z", "digest": {}}),
        "names other dependencies than follow from the files: z",
    ),
    "order": (
        lambda it: definition(it)["resolvedDependencies"].reverse(),
        "has a field that is not part of kiln's provenance",
    ),
    "byproduct": (
        lambda it: details(it)["byproducts"][0]["digest"].update(sha256="0" * 64),
        "was made with another conversion.json",
    ),
    "plan": (lambda it: inside(it)["plan"]["steps"][0]["params"].update(x=1), "recorded plan"),
    "no plan": (lambda it: inside(it).pop("plan"), "is damaged"),
    "limits": (lambda it: inside(it)["limits"].update(memory="x"), "is damaged"),
    "more limits": (lambda it: inside(it)["limits"].update(x=1), "not part of kiln's"),
    "host": (lambda it: inside(it).update(host={"machine": 1, "cpu": "x"}), "is damaged"),
    "builder": (lambda it: details(it)["builder"].update(id=""), "is damaged"),
    "more of the builder": (lambda it: details(it)["builder"].update(x=1), "not part of kiln's"),
    "dirty": (
        lambda it: dependency(it, "repository")["annotations"].update(dirty="no"),
        "is damaged",
    ),
    "time": (
        lambda it: details(it)["metadata"].update(startedOn="2025-01-01T00:00:00Z"),
        "not part of kiln's",
    ),
    "more at the top": (lambda it: it.update(x=1), "not part of kiln's"),
    "nothing": (lambda it: it.pop("predicate"), "is damaged"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found(toy: ToyModel, signer: KeySigner, lie: str) -> None:
    change, words = LIES[lie]
    found = problems(lied(toy, ONE, change), signer)
    assert list(found) == [ONE], found
    assert words in "; ".join(found[ONE])


def test_a_whole_other_plan_is_found(toy: ToyModel, signer: KeySigner, tmp_path: Path) -> None:
    """Sound by itself, every key in it follows; but it is not how these bytes were made."""
    (tmp_path / "p").mkdir()
    two = toy_model(tmp_path / "two", "toy", {"float32": b"one", "dynamic": b"three"}, sbom=SBOM)
    assert two.statements[ONE] != toy.statements[ONE]
    plan = inside(two.statements[OTHER])["plan"]
    found = problems(lied(toy, ONE, lambda it: inside(it).update(plan=plan)), signer)
    assert list(found) == [ONE]


def test_statements_exchanged(toy: ToyModel, signer: KeySigner) -> None:
    stated = {**toy.statements, ONE: toy.statements[OTHER], OTHER: toy.statements[ONE]}
    found = problems(replace(toy, statements=stated), signer)
    assert found.keys() == {ONE, OTHER}
    stated = {**toy.statements, ONE: toy.statements[RESULT], RESULT: toy.statements[ONE]}
    found = problems(replace(toy, statements=stated), signer)
    assert found.keys() == {ONE, RESULT}


def test_a_statement_too_few_or_too_many(toy: ToyModel, signer: KeySigner) -> None:
    for path in (ONE, RESULT):
        rest = {name: one for name, one in toy.statements.items() if name != path}
        (reason,) = problems(replace(toy, statements=rest), signer)[path]
        assert reason == f"is missing: {FILE} has no such statement"
    more = {"attestations/x.provenance.sigstore.json": toy.statements[ONE]}
    found = problems(replace(toy, statements={**toy.statements, **more}), signer)
    assert found == {next(iter(more)): ["is not a statement about a file of this folder"]}
    found = problems(other_files(toy, **{"sub/x.tflite": b"x"}), signer)
    assert found.keys() == {provenance_path("sub/x.tflite")}


def test_another_key(toy: ToyModel, signer: KeySigner, tmp_path: Path) -> None:
    stranger = KeySigner(keys.load_or_create_key(tmp_path / "k.pem"))
    found = problems(toy, signer, {ONE: stranger.seal(toy.statements[ONE])})
    assert list(found) == [ONE] and "another key" in found[ONE][0]


def test_other_bytes_under_the_same_name(toy: ToyModel, signer: KeySigner) -> None:
    found = problems(other_files(toy, **{FILE: b"evil"}), signer)
    assert found.keys() == {ONE, RESULT}


def test_another_model_s_folder(toy: ToyModel, signer: KeySigner) -> None:
    found = problems(toy, signer, name="other")
    assert "'other'" in found["source.tar"][0]


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        ("model", "x", "another model"),
        ("recipe", {"sha256": "0" * 64}, "another recipe"),
        ("image", {"name": "odapi", "identity": "x", "layer": "y"}, "another image"),
        ("stage_code", "0" * 64, "another stage code"),
        ("source", None, "damaged"),
        ("image", None, "another image"),
        ("other_images", [{"name": "device", "identity": "x", "layer": "y"}], "other images"),
        ("other_images", [{"name": "nowhere"}], "damaged"),
        ("other_images", 7, "damaged"),
    ],
)
def test_a_record_of_something_else(
    toy: ToyModel, signer: KeySigner, path: str, change: Any, words: str
) -> None:
    record = {**json.loads(toy.files["conversion.json"]), path: change}
    found = problems(other_files(toy, **{"conversion.json": json.dumps(record).encode()}), signer)
    assert words in "; ".join(found["conversion.json"])


def test_the_sbom_of_each_image_is_checked(toy: ToyModel, signer: KeySigner) -> None:
    for name in ("sbom.cdx.json", "sbom.device.cdx.json"):
        found = problems(other_files(toy, **{name: b"{}"}), signer)
        assert found == {name: ["is not the one in source.tar"]}
    found = problems(other_files(toy, **{"sbom.odd.cdx.json": SBOM}), signer)
    assert found == {"sbom.odd.cdx.json": ["is not the SBOM of an image of source.tar"]}
    found = problems(other_files(toy, **{"sbom.device.cdx.json": None}), signer)
    assert found.keys() == {ONE, OTHER}
    assert "names other dependencies than follow from the files: sbom.device" in found[ONE][0]


def test_a_folder_from_before_other_images_had_one(toy: ToyModel, signer: KeySigner) -> None:
    """It verifies as it did; not so one whose provenance leaves out the SBOM that is there."""

    def without(statement: Any) -> None:
        named = definition(statement)["resolvedDependencies"]
        named.remove(dependency(statement, "sbom.device.cdx.json"))

    old = lied(lied(toy, ONE, without), OTHER, without)
    assert problems(other_files(old, **{"sbom.device.cdx.json": None}), signer) == {}
    assert problems(old, signer).keys() == {ONE, OTHER}


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b"null"])
@pytest.mark.parametrize("name", ["conversion.json", "checks.json", "source.tar"])
def test_damaged_companions(toy: ToyModel, signer: KeySigner, name: str, content: bytes) -> None:
    assert name in problems(other_files(toy, **{name: content}), signer)


@pytest.mark.parametrize("name", ["conversion.json", "source.tar", "sbom.cdx.json"])
def test_missing_companions(toy: ToyModel, signer: KeySigner, name: str) -> None:
    assert name in problems(other_files(toy, **{name: None}), signer)


def test_checks_that_are_missing_make_test_results_idle(toy: ToyModel, signer: KeySigner) -> None:
    found = problems(other_files(toy, **{"checks.json": None}), signer)
    assert found.keys() == {RESULT, result_path("toy_dynamic.tflite")}


def test_checks_that_say_something_else(toy: ToyModel, signer: KeySigner) -> None:
    checks = json.loads(toy.files["checks.json"])
    checks["variants"]["float32"]["gates"][0]["status"] = "failed"
    found = problems(other_files(toy, **{"checks.json": json.dumps(checks).encode()}), signer)
    assert found[RESULT] == [f"does not match what checks.json says about {FILE}"]
    found = problems(lied(toy, RESULT, lambda it: it["predicate"].update(result="PASSED")), signer)
    assert found == {RESULT: [f"does not match what checks.json says about {FILE}"]}


def repacked(toy: ToyModel, **files: bytes | None) -> ToyModel:
    """The model with other files in its source archive, and all statements made to fit that."""
    archive = SourceArchive.read(toy.files["source.tar"])
    together: dict[str, bytes | None] = {**archive.files, **files}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in together.items():
            if content is not None:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return other_files(toy, **{"source.tar": out.getvalue()})


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"docker/install.py": b"evil"}, "other sources of the image 'odapi' than were locked"),
        ({"docker/images.lock": None}, "no valid lock"),
        ({"docker/images.lock": b"["}, "holds a docker/images.lock that is not valid TOML"),
        (
            {"docker/images.lock": b"[odapi]\n"},
            "images.lock that has missing or unknown fields for",
        ),
        ({"docker/images.toml": b"[odapi]\nfiles = ['../../dev/zero']\n"}, "impossible path"),
        ({"docker/images.toml": b"[odapi]\nparent = 'odapi'\n"}, "from itself"),
        ({"docker/images.toml": b""}, "no valid lock"),
        ({"docker/odapi/Dockerfile": None}, "no valid lock"),
        ({"models/toy/recipe.toml": None}, "0 recipes"),
        ({"models/x/recipe.toml": b""}, "2 recipes"),
        (
            {"models/toy/recipe.toml": b"name = 'other'\nimage = 'odapi'\n"},
            "another model than 'toy'",
        ),
        ({"models/toy/recipe.toml": b"\xff"}, "another model than 'toy'"),
    ],
)
def test_source_archives_that_contradict_themselves(
    toy: ToyModel, signer: KeySigner, files: dict[str, bytes | None], words: str
) -> None:
    found = problems(repacked(toy, **files), signer)
    assert words in "; ".join(found["source.tar"])


def test_a_lock_that_contradicts_itself(toy: ToyModel, signer: KeySigner) -> None:
    lock = SourceArchive.read(toy.files["source.tar"]).files["docker/images.lock"]
    for one, words in ((SEALED.identity, "another identity"), (SEALED.layer, "another layer")):
        key = "identity" if one == SEALED.identity else "layer"
        changed = lock.replace(f'{key} = "{one}"'.encode(), f'{key} = "sha256:{"0" * 64}"'.encode())
        assert changed != lock
        found = problems(repacked(toy, **{"docker/images.lock": changed}), signer)
        assert words in "; ".join(found["source.tar"])


def test_other_stage_code_in_the_archive(toy: ToyModel, signer: KeySigner) -> None:
    found = problems(repacked(toy, **{"docker/stages/__main__.py": b"evil"}), signer)
    assert "another stage code" in found["conversion.json"][0]
    assert "other stage code" in "; ".join(found[ONE])


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
)


@settings(
    max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.sampled_from([ONE, RESULT]), junk, st.data())
def test_junk_anywhere_in_a_statement_is_found(
    toy: ToyModel, signer: KeySigner, path: str, value: Any, draw: st.DataObject
) -> None:
    statement = copy.deepcopy(toy.statements[path])
    believed = {"cpu", "machine", "kiln", "uri", "gitCommit", "dirty", "id", "memory", "timeout"}
    place: Any = statement
    while True:
        names = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        name = draw.draw(st.sampled_from(names))
        if not isinstance(place[name], dict | list) or not place[name] or draw.draw(st.booleans()):
            break
        place = place[name]
    if name in believed or canonical_json(place[name]) == canonical_json(value):
        return
    place[name] = value
    if name == "_type":
        return  # no statement at all: test_dsse.py
    found = problems(replace(toy, statements={**toy.statements, path: statement}), signer)
    assert list(found) == [path], found
