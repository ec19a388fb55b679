"""Latencies: that every file gets its figures or its reason, and what is kept of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from places import FIXTURES, ROOT
from toy_release import toy_model

from kiln.cli.bench_model import bench_model
from kiln.core.digest import sha256_file
from kiln.core.errors import KilnError, UnsupportedModelError, UsageError
from kiln.core.machine import cpu_name
from kiln.core.store import Store
from kiln.measure import bench, latency
from kiln.project.folders import Project
from kiln.release import publish, verify
from kiln.signing.keys import load_or_create_key
from kiln.signing.signer import KeySigner
from stages.steps import latency as stage

pytest.importorskip("ai_edge_litert")


@pytest.fixture(autouse=True)
def _no_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage itself, in this process: the image's LiteRT is this environment's, too."""

    def facts(
        project: Project,
        store: Store,
        files: Mapping[str, tuple[str, Path]],
        params: Mapping[str, Any],
        on_event: Any,
    ) -> Any:
        folder = tmp_path / "models"
        folder.mkdir(exist_ok=True)
        for name, (_, path) in files.items():
            shutil.copy(path, folder / name)
        return stage.run(dict(params), {"models": folder}, tmp_path, Emitted())

    monkeypatch.setattr(latency, "_facts", facts)


class Emitted:
    """Takes a stage's messages."""

    def progress(self, *_: Any) -> None:
        pass


def artefact(name: str, model: str = "toy", variant: str = "float32") -> latency.Artefact:
    return latency.Artefact(model, variant, FIXTURES / f"{name}.tflite")


def measure(
    files: Sequence[latency.Artefact], threads: Sequence[int], **more: Any
) -> latency.Measured:
    silent: Any = lambda *_, **__: None  # noqa: E731
    store = Store(Path("unused"))
    return latency.measure(Project(ROOT), store, files, threads, on_event=silent, **more)


def test_every_file_gets_its_figures_or_its_reason(tmp_path: Path) -> None:
    (tmp_path / "junk.tflite").write_bytes(b"hello")
    junk = latency.Artefact("", "", tmp_path / "junk.tflite")
    names = ("toy_ssd", "toy_centernet_annotated", "toy_ssd_uint8")
    files = [artefact(names[0], names[0]), junk, *(artefact(name, name) for name in names[1:])]
    measured = measure(files, [1, 2], warmup=1, runs=7)
    assert list(measured.failed) == [junk.path]
    assert [(item.model, item.threads) for item in measured.runs] == [
        (name, count) for count in (1, 2) for name in names
    ]
    for item in measured.runs:
        assert 0 < item.min_ms <= item.median_ms <= item.p90_ms
        assert (item.runs, item.warmup) == (7, 1)
        assert item.sha256 == sha256_file(FIXTURES / item.file)
        assert item.runtime.startswith("ai-edge-litert 2.")
        assert item.cpu == cpu_name() != ""


def test_two_files_of_one_name_are_two(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(FIXTURES / "toy_ssd.tflite", tmp_path / name / "m.tflite")
    files = [latency.Artefact(name, "", tmp_path / name / "m.tflite") for name in ("a", "b")]
    assert [item.model for item in measure(files, [1], warmup=0, runs=1).runs] == ["a", "b"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        measure([latency.Artefact("", "", tmp_path / "a.tflite")], [1])


# --- dist/latency.json ---------------------------------------------------------------------

RUN = latency.Latency(
    model="m", variant="int8", file="m_int8.tflite", sha256="a" * 64, threads=1, median_ms=1.0,
    p90_ms=1.0, min_ms=1.0, mean_ms=1.0, runs=1, warmup=0, runtime="r 1", cpu="c", load=0.0,
)  # fmt: skip


def test_saving_merges_by_digest_and_threads(tmp_path: Path) -> None:
    latency.save(tmp_path, [RUN, replace(RUN, threads=2)])
    other = replace(RUN, model="a", file="a_int8.tflite", sha256="b" * 64)
    path = latency.save(tmp_path, [replace(RUN, median_ms=5.0), other])
    assert path == tmp_path / "latency.json"
    found = json.loads(path.read_text("utf-8"))
    assert found["schema"] == 1
    assert [(run["model"], run["threads"], run["median_ms"]) for run in found["runs"]] == [
        ("a", 1, 1.0), ("m", 1, 5.0), ("m", 2, 1.0),
    ]  # fmt: skip
    assert latency.load(tmp_path) == found["runs"]


def test_times_of_an_artefact_that_was_replaced_go(tmp_path: Path) -> None:
    latency.save(tmp_path, [RUN, replace(RUN, threads=2)])
    latency.save(tmp_path, [replace(RUN, sha256="c" * 64)])
    assert [run["sha256"][0] for run in latency.load(tmp_path)] == ["c"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": 2, "runs": []}', '{"schema": 1, "runs": [{"model": "m"}]}',
     '{"schema": 1, "runs": [7]}', '{"schema": 1, "runs": 7}', "\xff"],
)  # fmt: skip
def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "latency.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"latency\.json is not a list of latencies"):
        latency.save(tmp_path, [RUN])
    assert (tmp_path / "latency.json").read_bytes() == text.encode("latin-1")


def test_saving_into_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        latency.save(tmp_path / "nowhere", [RUN])


# --- the command ---------------------------------------------------------------------------


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """A folder laid out as ``kiln build`` does."""
    folder = tmp_path / "dist"
    for model, toy in (("ssd", "toy_ssd"), ("net", "toy_centernet")):
        (folder / model).mkdir(parents=True)
        shutil.copy(FIXTURES / f"{toy}.tflite", folder / model / f"{model}_float32.tflite")
    shutil.copy(FIXTURES / "toy_ssd_uint8.tflite", folder / "ssd" / "ssd_int8.tflite")
    return folder


def command(*words: Any) -> tuple[str, KilnError | None]:
    ended = CliRunner().invoke(bench_model, [str(word) for word in words])
    assert ended.exception is None or isinstance(ended.exception, KilnError), ended.exception
    return ended.stdout, ended.exception


def test_the_help_names_the_usual_number_of_rounds() -> None:
    shown = CliRunner().invoke(bench_model, ["--help"]).stdout
    assert f"Rounds [{bench.RUNS}]." in shown


FAST = ("--runs", 2, "--warmup", 0, "--threads", 1)


def events(text: str) -> list[dict[str, Any]]:
    return [item for item in map(json.loads, text.splitlines()) if item["event"] == "latency"]


def test_all_that_is_built(dist: Path) -> None:
    text, error = command("--dist", dist, *FAST)
    assert error is None
    rows = [line.split() for line in text.splitlines()]
    assert rows[0][:4] == ["model", "variant", "threads", "median"]
    assert [row[:3] for row in rows[1:4]] == [
        ["net", "float32", "1"], ["ssd", "float32", "1"], ["ssd", "int8", "1"],
    ]  # fmt: skip
    assert rows[1][-1] == rows[2][-1] == "x1.00"
    assert not (dist / "latency.json").exists()


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (("ssd",), ["ssd_float32.tflite", "ssd_int8.tflite"]),
        (("--variant", "int8"), ["ssd_int8.tflite"]),
        (
            ("net", "ssd", "net", "--variant", "float32"),
            ["net_float32.tflite", "ssd_float32.tflite"],
        ),
        ((FIXTURES / "toy_ssd.tflite",), ["toy_ssd.tflite"]),
    ],
)  # fmt: skip
def test_what_is_chosen(dist: Path, words: tuple[Any, ...], files: list[str]) -> None:
    text, error = command("--dist", dist, *FAST, "--json", *words)
    assert error is None
    assert [item["file"] for item in events(text)] == files
    item = events(text)[0]
    known = item["file"].startswith(("ssd_", "net_"))
    assert bool(item["variant"]) == known
    assert item["model"] == (item["file"].split("_")[0] if known else "toy_ssd")


def test_save(dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noted, on the page, and signed: the release still verifies."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("KILN_SIGNING_KEY", raising=False)
    key = load_or_create_key()
    signed = tmp_path / "signed"
    for folder in dist.iterdir():
        name = folder.name
        artefacts = {
            path.stem.removeprefix(f"{name}_"): path.read_bytes() for path in folder.iterdir()
        }
        model = toy_model(tmp_path / "projects" / name, name, artefacts)
        publish.publish(signed, name, model.files, KeySigner(key), model.statements)
    text, error = command("--dist", signed, *FAST, "--save")
    assert error is None and str(signed / "latency.json") in text
    assert len(latency.load(signed)) == 3
    assert (signed / "index.html").is_file()
    verify.verify(signed, key.public_pem)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sdd",), "Did you mean 'ssd'"),
        (("--variant", "int4"), "no variant 'int4'"),
        (("net", "--variant", "int8"), "nothing to time"),
        (("nothing.tflite",), "no file nothing.tflite"),
        (("--runs", 1, "--seconds", 1), "cannot be combined"),
        ((FIXTURES / "toy_ssd.tflite", "--save"), "is not in"),
    ],
)
def test_what_does_not_fit(dist: Path, words: tuple[Any, ...], message: str) -> None:
    _, error = command("--dist", dist, *words)
    assert isinstance(error, UsageError) and message in str(error)


def test_the_others_are_shown_beside_a_damaged_file(dist: Path) -> None:
    (dist / "net" / "net_float32.tflite").write_bytes(b"TFL3")
    text, error = command("--dist", dist, *FAST, "--json")
    assert [item["model"] for item in events(text)] == ["ssd", "ssd"]
    assert isinstance(error, UnsupportedModelError) and "net_float32.tflite" in error.message


def test_no_dist(tmp_path: Path) -> None:
    _, error = command("--dist", tmp_path / "dist")
    assert isinstance(error, UsageError) and "kiln build" in error.remedy
