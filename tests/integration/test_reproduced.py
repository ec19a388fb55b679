"""A real release made again: from itself and its inputs off the network; and one that lies."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Ended, Kiln

from kiln.core.digest import sha256_bytes, sha256_file
from kiln.signing import dsse
from kiln.signing.keys import load_or_create_key
from kiln.signing.statement_names import SOURCE_FILE, provenance_path

#: The sample that is made again in the shortest time.
MODEL = "centernet_mobilenet_v2_fpn_shapes"
VARIANTS = ("dynamic", "float16", "int8")


@pytest.fixture(scope="module")
def released(session_kiln: Kiln, area: Path) -> Kiln:
    """Three variants of a sample, published."""
    kiln = session_kiln.but(dist=area / "to-reproduce")
    words = [word for variant in VARIANTS for word in ("--variant", variant)]
    kiln("build", MODEL, *words, timeout=600).ok()
    return kiln


@pytest.fixture
def release(released: Kiln, tmp_path: Path) -> Kiln:
    """A copy of it to spoil, for a machine with an empty store and no checkout to help."""
    shutil.copytree(released.dist, tmp_path / "dist")
    (tmp_path / "nowhere").mkdir()
    return released.but(
        dist=tmp_path / "dist",
        store=tmp_path / "store",
        env={"KILN_PROJECT": str(tmp_path / "nowhere")},
    )


@pytest.fixture
def inputs(released: Kiln) -> Path:
    """Where all inputs are."""
    return released.project / "models" / "samples"


def file(variant: str) -> str:
    return f"{MODEL}_{variant}.tflite"


def verdicts(ended: Ended) -> dict[str, dict[str, Any]]:
    return {event["variant"]: event for event in ended.events if event["event"] == "verdict"}


def stages_of(ended: Ended) -> list[str]:
    return [event["id"] for event in ended.events
            if event["event"] == "stage" and event["state"] == "finished"]  # fmt: skip


def forge(kiln: Kiln, variant: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Another statement about a variant, validly signed by the release's own key."""
    (private,) = kiln.home.rglob("signing-key.pem")
    place = kiln.dist / MODEL / provenance_path(file(variant))
    statement = dsse.peek_unverified(place.read_bytes())
    change(statement)
    place.write_bytes(dsse.seal(statement, load_or_create_key(private)))


def test_from_the_release_and_its_inputs_alone(release: Kiln, inputs: Path) -> None:
    off = ["unshare", "--net"]
    permitted = subprocess.run([*off, "true"], capture_output=True, check=False).returncode == 0
    kiln = release.but(prefix=tuple(off) if permitted else ())
    ended = kiln("reproduce", release.dist, "--variant", "dynamic", "--inputs", inputs, "--json")
    (verdict,) = verdicts(ended.ok()).values()
    assert verdict["verdict"] == "identical"
    assert verdict["rebuilt"] == sha256_file(release.dist / MODEL / file("dynamic"))
    # All of it ran, in a store that is as empty of results as before.
    # The float32 conversion, too: weights that stay in float are taken from it.
    assert stages_of(ended) == [
        "checkpoint", "export", "convert-float32", "convert-dynamic", "annotate-dynamic"
    ]  # fmt: skip
    assert not list((release.store / "results").iterdir())
    assert release.leftovers() == []
    print(f"one variant made again: {ended.seconds:.1f} s")


def test_each_verdict_in_one_run(release: Kiln, inputs: Path, tmp_path: Path) -> None:
    """One artefact as it was, one whose statement is about another file, one without inputs."""
    other = (release.dist / MODEL / file("dynamic")).read_bytes()
    (release.dist / MODEL / file("float16")).write_bytes(other)
    forge(
        release,
        "float16",
        lambda statement: statement["subject"][0]["digest"].update(sha256=sha256_bytes(other)),
    )
    some = tmp_path / "some"
    shutil.copytree(inputs / MODEL, some)
    words = ("reproduce", release.dist, "--inputs", some, "--keep", tmp_path / "kept", "--json")
    ended = release(*words)
    assert ended.code == 42, ended.err
    found = verdicts(ended)
    assert {variant: item["verdict"] for variant, item in found.items()} == {
        "dynamic": "identical",
        "float16": "differs",
        "int8": "cannot be rebuilt",
    }
    differs, missing = found["float16"], found["int8"]["missing"]
    assert differs["difference"]["verdict"]
    assert not differs["difference"]["same_model"]
    assert [cause["kind"] for cause in differs["causes"]] == ["statement"]
    kept = tmp_path / "kept" / MODEL / file("float16")
    assert sha256_file(kept) == differs["rebuilt"] != differs["sha256"]
    assert {item["name"].split("/")[1] for item in missing} == {"images"}
    assert len(missing) == 12
    # What both variants need was made once, in one container.
    assert stages_of(ended).count("export") == 1
    error = ended.events[-1]
    assert (error["kind"], error["exit_code"]) == ("not-reproduced", 42)
    assert file("dynamic") not in error["message"]


def test_without_inputs(release: Kiln) -> None:
    ended = release("reproduce", release.dist, "--variant", "dynamic")
    ended.refused(43, file("dynamic"))
    assert "Missing: input checkpoint/weights" in ended.out
    assert "available from:" in ended.out


def test_an_edited_stage(release: Kiln, inputs: Path) -> None:
    """In the source archive; then with a signed statement that names that archive, too."""
    path = release.dist / MODEL / SOURCE_FILE
    path.write_bytes(edited(path.read_bytes(), "docker/stages/steps/annotate.py"))
    words = ("reproduce", release.dist, "--variant", "dynamic", "--inputs", inputs)
    release(*words).refused(41, SOURCE_FILE, file("dynamic"))

    def name_it(statement: dict[str, Any]) -> None:
        for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]:
            if item["name"] == SOURCE_FILE:
                item["digest"]["sha256"] = sha256_file(path)

    forge(release, "dynamic", name_it)
    release(*words).refused(41, "docker/stages", "differs from what is recorded")


def edited(tar: bytes, name: str) -> bytes:
    """The archive with something added to one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(tar)) as source, tarfile.open(fileobj=out, mode="w") as to:
        for info in source:
            content = source.extractfile(info)
            data = content.read() if content is not None else b""
            if info.name == name:
                data += b"# nothing\n"
                info.size = len(data)
            to.addfile(info, io.BytesIO(data))
    assert name.encode() in tar
    return out.getvalue()


def test_somebody_elses_signature(release: Kiln, tmp_path: Path) -> None:
    stranger = release.but(home=tmp_path / "stranger")
    stranger.home.mkdir()
    stranger("reproduce", release.dist).refused(40, "no key to verify with")
    stranger("keys", "init", "--no-password").ok()
    stranger("reproduce", release.dist).refused(41, "another key")
    ended = stranger("reproduce", release.dist, "--unverified", "--variant", "dynamic", "--json")
    assert ended.code == 43
    assert any("signatures are not verified" in event.get("message", "") for event in ended.events)


def test_a_bare_statement(release: Kiln, tmp_path: Path) -> None:
    bundle = release.dist / MODEL / provenance_path(file("dynamic"))
    path = tmp_path / "statement.json"
    path.write_text(json.dumps(dsse.peek_unverified(bundle.read_bytes())))
    release("reproduce", path).refused(41, "without a signature", "--unverified")
    ended = release("reproduce", path, "--unverified")
    ended.refused(43)
    assert "Missing: source.tar" in ended.out
