"""The same bytes from another folder, user, time zone, umask, clock and store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import FRONT, RECORDS, SAMPLE, VARIANTS, Kiln, copy_project

_USER = 4711  # no such user: nothing of ours may depend on a name or a home in passwd


@pytest.fixture(scope="module")
def elsewhere(sample: Any) -> Iterator[Kiln]:
    """The command with an empty store, and everything around it different."""
    # Not below the session's folder: another depth, odd characters, another parent.
    with tempfile.TemporaryDirectory(prefix="kiln tests, élsewhere ") as name:
        root = Path(name)
        root.chmod(0o755)
        project = copy_project(root / "some" / "other folder", sample.kiln.project)
        for path in project.rglob("*"):
            os.utime(path, (1_000_000_000, 1_000_000_000))
        home = root / "home"
        home.mkdir()
        kiln: Kiln = sample.kiln.but(
            project=project,
            store=root / "a store",
            dist=root / "dist",
            home=home,
            env={"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "LANG": "tr_TR.UTF-8", "USER": "nobody",
                 "LOGNAME": "nobody", "PYTHONHASHSEED": "4711"},
            umask=0o077,
            prefix=(*_another_clock(), *_another_user(sample.kiln)),
        )  # fmt: skip
        if "setpriv" in kiln.prefix:
            for path in (root, *root.rglob("*")):
                os.chown(path, _USER, _USER)
        print("built elsewhere with:", *kiln.prefix)
        yield kiln


def _another_clock() -> tuple[str, ...]:
    return ("faketime", "-f", "+33d") if shutil.which("faketime") else ()


def _another_user(kiln: Kiln) -> tuple[str, ...]:
    """``setpriv`` to an unprivileged user, where we may and where that user reaches the engine."""
    if os.geteuid() != 0 or not shutil.which("setpriv") or not kiln.engine.startswith("unix://"):
        return ()
    group = Path(kiln.engine.removeprefix("unix://")).stat().st_gid
    command = (
        "setpriv", f"--reuid={_USER}", f"--regid={_USER}", f"--groups={group}",
        # It may read the interpreter wherever that was installed, and nothing more.
        "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
        "--bounding-set=-all,+dac_read_search",
    )  # fmt: skip
    probe = [
        *command,
        sys.executable,
        "-c",
        "from kiln.running.engine import Engine; Engine.find()",
    ]
    tried = subprocess.run(
        probe, env=kiln.environment(), cwd="/", capture_output=True, text=True, check=False
    )
    if tried.returncode:
        print("no build as another user:", tried.stderr.strip().splitlines()[-1])
        return ()
    return command


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "conversion.json").read_text("utf-8"))
    return record


@pytest.fixture(scope="module")
def alone(elsewhere: Kiln) -> Kiln:
    """int8 by itself, elsewhere."""
    ended = elsewhere("build", SAMPLE, "--variant", "int8", "--json").ok()
    ran = [e["id"] for e in ended.events if e["event"] == "stage" and e["state"] == "finished"]
    assert ran == [
        *("checkpoint", "export", "convert-int8", "annotate-int8"),
        *("previews", "reference", "check-int8", "task-library-int8"),
        *("litert-int8", "mediapipe-int8"),
    ]
    return elsewhere


def test_doctor_is_content(elsewhere: Kiln) -> None:
    """In folders with spaces, with a strict umask, as a user of the engine's group."""
    assert "PROBLEM" not in elsewhere("doctor").ok().out


def test_one_variant_alone_is_the_same(sample: Any, alone: Kiln) -> None:
    path = alone.dist / SAMPLE / f"{SAMPLE}_int8.tflite"
    assert path.read_bytes() == sample.artefact("int8").read_bytes()
    one, all_ = _record(path.parent)["stages"], _record(sample.folder)["stages"]
    assert {name: step["key"] for name, step in one.items()} == {
        name: all_[name]["key"] for name in one
    }
    assert sorted(alone.published()) == sorted(
        [*FRONT, *(f"{SAMPLE}/{name}" for name in (*RECORDS, path.name))]
    )


def test_what_the_store_lost_is_made_again(sample: Any, alone: Kiln) -> None:
    """A store that lost a file runs the stages that are needed for it, and only those."""
    path = alone.dist / SAMPLE / f"{SAMPLE}_int8.tflite"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (alone.store / "blobs" / "sha256" / digest[:2] / digest).unlink()
    ended = alone("build", SAMPLE, "--variant", "int8", "--json").ok()
    ran = [e["id"] for e in ended.events if e["event"] == "stage" and e["state"] == "finished"]
    assert ran == ["annotate-int8"]
    assert path.read_bytes() == sample.artefact("int8").read_bytes()
    assert alone.leftovers() == []


def test_another_variant_joins_the_first(sample: Any, alone: Kiln) -> None:
    """A later build of one more variant keeps the one that is published, and shares its export."""
    ended = alone("build", SAMPLE, "--variant", "float16", "--json").ok()
    ran = [e["id"] for e in ended.events if e["event"] == "stage" and e["state"] == "finished"]
    assert ran == [
        *("convert-float16", "annotate-float16"),
        *("check-float16", "task-library-float16", "litert-float16", "mediapipe-float16"),
    ]
    for variant in ("int8", "float16"):
        path = alone.dist / SAMPLE / f"{SAMPLE}_{variant}.tflite"
        assert path.read_bytes() == sample.artefact(variant).read_bytes()
    assert alone("verify", alone.dist).code == 0


@pytest.fixture(scope="module")
def whole(alone: Kiln) -> Kiln:
    """All variants, elsewhere, by several processes beside each other."""
    alone.but(env={**alone.env, "KILN_PROCESSES": "3"})("build", SAMPLE).ok()
    return alone


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_bytes(sample: Any, whole: Kiln, variant: str) -> None:
    path = sample.artefact(variant)
    other = whole.dist / SAMPLE / path.name
    assert hashlib.sha256(other.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()


def test_same_plan(sample: Any, whole: Kiln) -> None:
    one, other = _record(sample.folder), _record(whole.dist / SAMPLE)
    assert {name: step["key"] for name, step in one["stages"].items()} == {
        name: step["key"] for name, step in other["stages"].items()
    }
    # Time and memory are measured anew; an exported SavedModel's inner names are TensorFlow's.
    for record in (one, other):
        for name, step in record["stages"].items():
            del step["seconds"], step["peak_rss"]
            if name == "export":
                del step["files"]
    assert one == other
    labels = "labelmap.txt"
    assert (sample.folder / labels).read_bytes() == (whole.dist / SAMPLE / labels).read_bytes()


def test_dist_is_for_everybody(whole: Kiln) -> None:
    """The umask of whoever builds must not lock the readers of a release out."""
    for path in whole.dist.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o755 if path.is_dir() else 0o644), f"{path} is {mode:o}"
    assert whole("verify", whole.dist).code == 0
    assert whole.leftovers() == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_time_of_day_inside(sample: Any, variant: str) -> None:
    """Files packed into the metadata carry a fixed date, not that of the conversion."""
    with zipfile.ZipFile(sample.artefact(variant)) as packed:
        infos = packed.infolist()
    assert infos
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
