"""What is stated about a real build, computed again without kiln: by other programs and by hand."""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support import SAMPLE, VARIANTS, Kiln

from kiln.running.engine import Engine

FOLDERS = ("docker", "scripts")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def listed(folder: Path, names: Iterable[str]) -> list[list[Any]]:
    """Files of a folder as documented: name, whether it is executable, and digest."""
    return [
        [name, bool((folder / name).stat().st_mode & 0o100), sha256((folder / name).read_bytes())]
        for name in sorted(names)
    ]


def opened(bundle: Path, key: Path, scratch: Path) -> dict[str, Any]:
    """The statement in a bundle, whose signature openssl has accepted."""
    envelope = json.loads(bundle.read_bytes())["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    (signature,) = envelope["signatures"]
    (scratch / "sig").write_bytes(base64.b64decode(signature["sig"]))
    # DSSE: "DSSEv1" SP length SP type SP length SP payload
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    (scratch / "signed").write_bytes(signed)
    subprocess.run(
        ["openssl", "dgst", "-sha256", "-verify", key, "-signature", "sig", "signed"],
        cwd=scratch, check=True, capture_output=True,
    )  # fmt: skip
    statement: dict[str, Any] = json.loads(payload)
    return statement


@pytest.fixture(params=VARIANTS)
def stated(sample: Any, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The provenance of a variant."""
    file = sample.artefact(request.param).name
    path = sample.folder / "attestations" / f"{file}.provenance.sigstore.json"
    return opened(path, sample.kiln.dist / "kiln.pub", tmp_path)


def test_provenance_names_what_is_there(sample: Any, stated: Any, engine: Engine) -> None:
    project: Path = sample.kiln.project
    (subject,) = stated["subject"]
    assert subject["digest"]["sha256"] == sha256((sample.folder / subject["name"]).read_bytes())
    definition = stated["predicate"]["buildDefinition"]
    outside = definition["externalParameters"]
    recipe = project / outside["recipe"]["path"]
    assert recipe.parent.name == outside["model"] == SAMPLE
    assert subject["name"] == f"{SAMPLE}_{outside['variant']}.tflite"
    assert outside["recipe"]["text"].encode() == recipe.read_bytes()
    assert outside["recipe"]["sha256"] == sha256(recipe.read_bytes())
    parts = {item["name"]: item for item in definition["resolvedDependencies"]}

    for name in ("base/debian.lock", "base/Dockerfile", "odapi/requirements.lock", "install.py",
                 "odapi/metadata.lock", "odapi/Dockerfile", "images.lock"):  # fmt: skip
        digest = parts[f"lock/docker/{name}"]["digest"]["sha256"]
        assert digest == sha256((project / "docker" / name).read_bytes()), name
    image = parts["image/odapi"]
    tag = f"tflite-kiln/odapi:{image['digest']['sha256'][:16]}"
    layers = engine.client.images.get(tag).attrs["RootFS"]["Layers"]
    assert layers == [image["annotations"]["layer"]], "the engine holds another image"

    tar = (sample.folder / "source.tar").read_bytes()
    assert parts["source.tar"]["digest"]["sha256"] == sha256(tar)
    stages = project / "docker" / "stages"
    names = [
        path.relative_to(stages).as_posix()
        for path in stages.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    code = listed(stages, names)
    assert parts["stage-code"]["digest"]["kilnTree"] == sha256(canonical(code))
    assert "repository" not in parts, "that project is no checkout"

    inputs = {name: it["digest"]["sha256"] for name, it in parts.items() if "input/" in name}
    known = {
        sha256(path.read_bytes()) for path in (project / "models").rglob("*") if path.is_file()
    }
    assert inputs and set(inputs.values()) <= known, "all of the sample's inputs are in models/"
    if outside["variant"] == "int8":
        images = project / "models" / "samples" / "images"
        assert inputs["input/convert-int8/images/chelsea.png"] == sha256(
            (images / "chelsea.png").read_bytes()
        )
    assert definition["internalParameters"]["host"]["machine"] == platform.machine()


def test_the_plan_s_keys_follow(sample: Any, stated: Any) -> None:
    plan = stated["predicate"]["buildDefinition"]["internalParameters"]["plan"]
    keys: dict[str, str] = {}
    stages: Path = sample.kiln.project / "docker" / "stages"
    assert set(plan["closures"]) == {step["stage"] for step in plan["steps"]}
    for stage, closure in plan["closures"].items():
        assert f"steps/{stage}.py" in closure["files"]
        assert closure["code"] == sha256(canonical(listed(stages, closure["files"])))
    for step in plan["steps"]:
        inputs = {
            name: it if "files" in it else {"stage": keys[it["step"]], "path": it["path"]}
            for name, it in step["inputs"].items()
        }
        facts = {
            name: {"stage": keys[it["step"]], "fact": it["fact"]}
            for name, it in step["params_from"].items()
        }
        keys[step["id"]] = sha256(
            canonical(
                {
                    **{name: plan[name] for name in ("protocol", "image")},
                    "code": plan["closures"][step["stage"]]["code"],
                    **{name: step[name] for name in ("stage", "params")},
                    "params_from": facts,
                    "inputs": inputs,
                }
            )
        )
        assert keys[step["id"]] == step["key"] == sample.record["stages"][step["id"]]["key"]
    made = sample.record["stages"][plan["artefact"]]["files"]["model.tflite"]
    assert made == stated["subject"][0]["digest"]["sha256"]
    details = stated["predicate"]["runDetails"]
    assert details["byproducts"][0]["digest"]["sha256"] == sha256(
        (sample.folder / "conversion.json").read_bytes()
    )


def test_source_tar_is_the_source(sample: Any, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xf", sample.folder / "source.tar"], cwd=tmp_path, check=True)
    for name in FOLDERS:
        subprocess.run(
            ["diff", "-r", "-x", "__pycache__", sample.kiln.project / name, name],
            cwd=tmp_path, check=True,
        )  # fmt: skip
    (recipe,) = (tmp_path / "models").rglob("recipe.toml")
    assert recipe.parent.name == SAMPLE
    # And it runs: the release carries the program that made it.
    there = sample.kiln.but(project=tmp_path)
    assert SAMPLE in there("models").ok().out


@pytest.mark.parametrize("variant", VARIANTS)
def test_test_results_are_those_of_the_checks(sample: Any, tmp_path: Path, variant: str) -> None:
    file = sample.artefact(variant)
    path = sample.folder / "attestations" / f"{file.name}.test-result.sigstore.json"
    statement = opened(path, sample.kiln.dist / "kiln.pub", tmp_path)
    assert statement["subject"] == [
        {"name": file.name, "digest": {"sha256": sha256(file.read_bytes())}}
    ]
    data = (sample.folder / "checks.json").read_bytes()
    gates = json.loads(data)["variants"][variant]["gates"]
    predicate = statement["predicate"]
    assert predicate["configuration"][0]["digest"]["sha256"] == sha256(data)
    assert predicate["result"] == "PASSED"
    assert predicate["passedTests"] == sorted(
        gate["gate"] for gate in gates if gate["status"] == "passed"
    )
    assert "parity" in predicate["passedTests"]


def test_the_release_is_what_is_there(sample: Any, tmp_path: Path) -> None:
    kiln: Kiln = sample.kiln
    bundle = kiln.dist / "release.sigstore.json"
    statement = opened(bundle, kiln.dist / "kiln.pub", tmp_path)
    assert {item["name"]: item["digest"]["sha256"] for item in statement["subject"]} == {
        path.relative_to(kiln.dist).as_posix(): sha256(path.read_bytes())
        for path in kiln.dist.rglob("*")
        if path.is_file() and path != bundle
    }
    assert statement["predicate"]["releaseId"] == "local"


def test_a_name_makes_another_release_of_the_same_bytes(sample: Any, shared: Kiln) -> None:
    named = shared.but(env={**shared.env, "KILN_RELEASE": "v9.9"})
    named("build", SAMPLE).ok()
    assert "of the release 'v9.9'" in named("verify", named.dist).ok().out
    for variant in VARIANTS:
        file = sample.artefact(variant)
        assert (named.dist / SAMPLE / file.name).read_bytes() == file.read_bytes()
