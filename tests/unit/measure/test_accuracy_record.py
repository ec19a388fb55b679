"""``dist/accuracy.json``: merged by model and variant, signed with the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import page_dist
import pytest
from places import ROOT

from kiln.core.errors import UsageError
from kiln.measure import accuracy_record
from kiln.measure.accuracy_record import Entry
from kiln.release import publish
from kiln.release.index_page import refresh
from kiln.signing.keys import load_or_create_key
from kiln.signing.signer import KeySigner

SCORES = {"ap": 0.2, "ap50": 0.4, "ap75": 0.2, "ar100": 0.3}
ENTRY = Entry("toy", "float32", "toy_float32.tflite", "a" * 64, {"images": 9}, SCORES, SCORES)


def test_merged_by_model_and_variant(tmp_path: Path) -> None:
    int8 = replace(ENTRY, variant="int8", source=None)
    other = replace(ENTRY, model="other")
    accuracy_record.save(tmp_path, [ENTRY, int8])
    newer = replace(ENTRY, sha256="b" * 64, result={**SCORES, "ap": 0.1})
    path = accuracy_record.save(tmp_path, [newer, other])
    assert path == tmp_path / "accuracy.json"
    found = json.loads(path.read_text("ascii"))
    assert found == {"schema": 1, "files": [asdict(other), asdict(newer), asdict(int8)]}
    assert accuracy_record.load(tmp_path) == found["files"]


def test_nothing_there(tmp_path: Path) -> None:
    assert accuracy_record.load(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "{}", '{"schema": 2, "files": []}', '{"schema": 1}',
        '{"schema": 1, "files": 3}', '{"schema": 1, "files": [{"model": "toy"}]}',
        '{"schema": 1, "files": [{"model": "toy", "variant": 8, "sha256": ""}]}',
        "\xff", "[" * 100_000,
    ],
)  # fmt: skip
def test_none_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "accuracy.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"accuracy\.json is not a list of figures"):
        accuracy_record.save(tmp_path, [ENTRY])
    assert (tmp_path / "accuracy.json").read_bytes() == text.encode("latin-1")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        accuracy_record.save(tmp_path / "nowhere", [ENTRY])


def test_signed_with_the_page(tmp_path: Path) -> None:
    """Into the page, the sums and what is verified; and out of it with the file."""
    pytest.importorskip("ai_edge_litert")
    key = load_or_create_key(tmp_path / "key" / "signing.pem")
    signer = KeySigner(key)
    made = page_dist.toy_dist(tmp_path / "made")
    files = {path.name: path for path in made.iterdir() if path.name != "model.sig"}
    dist = tmp_path / "dist"
    publish.publish(dist, "toy", files, signer)
    assert refresh(dist, signer)
    without = (dist / "index.html").read_bytes()
    digest = page_dist.sha256(dist / "toy" / "toy_float32.tflite")
    accuracy_record.save(dist, [replace(ENTRY, sha256=digest)])
    assert refresh(dist, signer, measured=["accuracy.json"])
    assert not refresh(dist, signer)
    assert b"COCO AP" in (dist / "index.html").read_bytes()
    assert "  accuracy.json\n" in (dist / "SHA256SUMS").read_text()
    assert publish.covered(dist, signer)["accuracy.json"] == page_dist.sha256(
        dist / "accuracy.json"
    )
    (dist / "accuracy.json").unlink()
    assert refresh(dist, signer)
    assert (dist / "index.html").read_bytes() == without
    assert "accuracy.json" not in publish.covered(dist, signer)


def test_refused_before_anything_is_measured(tmp_path: Path) -> None:
    """What cannot be written to is no release, and not the data set, which is not there either."""
    command = [sys.executable, "-m", "kiln.cli", "accuracy", "ssd_mobilenet_v2_oidv4", "--record"]
    command += ["--coco", str(tmp_path / "nowhere"), "--dist", str(tmp_path)]
    where = {"PYTHONPATH": str(ROOT / "scripts"), "KILN_PROJECT": str(ROOT)}
    env = {**os.environ, **where, "KILN_STORE": str(tmp_path / "store")}
    (tmp_path / "photo.jpg").touch()
    ended = subprocess.run(command, env=env, capture_output=True, text=True)
    assert ended.returncode == UsageError.exit_code
    assert "'photo.jpg' in it is not from kiln" in ended.stderr
    (tmp_path / "photo.jpg").unlink()
    (tmp_path / "accuracy.json").write_text("{}")
    ended = subprocess.run(command, env=env, capture_output=True, text=True)
    assert ended.returncode == UsageError.exit_code
    assert "accuracy.json is not a list of figures" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accuracy.json"]
