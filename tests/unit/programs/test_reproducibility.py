"""The matrix of builds under varied circumstances: what it says, and how they are brought about."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from places import ROOT

from kiln.core.errors import UsageError, VerificationError
from kiln.core.store import Store
from kiln.images.lock import read_lock
from kiln.project.folders import Project
from proofs.reproducibility import TARGET, Matrix, Row, tell
from proofs.variations import varied_run
from proofs.variations.circumstances import AS_IT_IS, CIRCUMSTANCES, Circumstance
from shared import document_table

BEGIN, END = "<!-- table: `make reproducibility` writes it -->", "<!-- end of table -->"
ODD = Circumstance("odd", "something is odd")
MADE = {"toy float32": "1" * 64, "toy int8": "2" * 64}


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    project = Project(ROOT)
    row = Row(AS_IT_IS, dict(MADE), seconds=3)
    store = Store(tmp_path / "store")
    return Matrix(project, ["toy"], [], ["base"], store, lambda *_, **__: None, [row])


def base() -> dict[str, str]:
    identity = read_lock(ROOT / "docker")["base"].identity
    return {"images base": identity.removeprefix("sha256:")}


def test_the_same_bytes_pass(matrix: Matrix, capsys: pytest.CaptureFixture[str]) -> None:
    matrix.rows.append(Row(ODD, {**MADE, **base()}, seconds=4))
    matrix.judge()
    assert matrix.cells(matrix.rows[1]) == ["2 of 2 same", "1 of 1 same"]
    tell(matrix, as_json=False)
    assert "2 built" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("toy int8", ["1 of 2 SAME", "1 of 1 same"]),
        ("images base", ["2 of 2 same", "0 of 1 SAME"]),
    ],
)
def test_other_bytes_are_named(matrix: Matrix, name: str, cells: list[str]) -> None:
    matrix.rows.append(Row(ODD, {**MADE, **base(), name: "3" * 64}))
    assert matrix.cells(matrix.rows[1]) == cells
    with pytest.raises(VerificationError, match=rf"odd \({name}\)"):
        matrix.judge()


def test_what_was_left_out_is_no_proof(matrix: Matrix) -> None:
    matrix.rows.append(Row(ODD, skipped="only root can"))
    matrix.judge()
    assert matrix.cells(matrix.rows[1]) == ["left out", "left out"]
    assert "left out here: only root can" in matrix.documentation()


def test_the_table_of_a_document(matrix: Matrix, tmp_path: Path) -> None:
    matrix.rows.append(Row(ODD, {**MADE, **base()}, seconds=60))
    document = tmp_path / "doc.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    document_table.write_table(document, TARGET, matrix.documentation())
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| circumstance") and text.endswith(f"{END}\nafter\n")
    assert "| odd | something is odd | 2 of 2 same | 1 of 1 same |" in text and "old" not in text
    document_table.write_table(document, TARGET, matrix.documentation())
    assert document.read_text() == text
    document.write_text("no place\n")
    with pytest.raises(UsageError, match="no place for the table"):
        document_table.write_table(document, TARGET, "x")
    assert document.read_text() == "no place\n"


def test_rows_that_were_not_tried_again_stay(matrix: Matrix) -> None:
    name = CIRCUMSTANCES[1].name
    matrix.rows.append(Row(CIRCUMSTANCES[1], {**MADE, **base()}))
    old = matrix.documentation()
    del matrix.rows[1:]
    matrix.rows[0].digests["toy float16"] = "4" * 64
    again = matrix.documentation(old).splitlines()
    assert next(line for line in old.splitlines() if line.startswith(f"| {name} |")) in again
    assert any("| 3 built |" in line for line in again)
    assert not any("| 2 built |" in line for line in again)
    matrix.images = []  # other columns: the old rows do not fit
    assert f"| {name} |" not in matrix.documentation(old)


def test_what_a_machine_cannot_bring_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert varied_run.why_not(replace(ODD, root=True)) == "only root can"
    assert "is not installed" in varied_run.why_not(replace(ODD, needs=("no-such-program",)))
    assert varied_run.why_not(ODD) == ""


def test_every_circumstance_is_told_apart() -> None:
    names = [item.name for item in CIRCUMSTANCES]
    assert len(set(names)) == len(names) and CIRCUMSTANCES[0] == AS_IT_IS


def test_folders_list_backwards(tmp_path: Path) -> None:
    for name in "bca":
        (tmp_path / name).mkdir()
    code = (
        "import glob, os, pathlib, sys; p = sys.argv[1]\n"
        "print(os.listdir(p), [e.name for e in os.scandir(p)], next(os.walk(p))[1],\n"
        "      [e.name for e in pathlib.Path(p).iterdir()],\n"
        "      [os.path.basename(e) for e in glob.glob(p + '/*')], sep='')"
    )
    site = str(ROOT / "scripts" / "proofs" / "variations" / "site")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": site},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['c', 'b', 'a']" * 5


def test_a_copy_of_the_checkout(tmp_path: Path) -> None:
    target = tmp_path / "copy"
    varied_run.copy_checkout(ROOT, target, reverse=True)
    assert read_lock(target / "docker") == read_lock(ROOT / "docker")
    assert not list(target.rglob("__pycache__"))


def test_a_new_store_has_contents_and_no_results(tmp_path: Path) -> None:
    store = Store(tmp_path / "one")
    digest = store.add_bytes(b"content")
    store.set_ref("pypi", "x", {"url": "y"})
    store.set_ref("outside", "x", {"gates": {}})
    varied_run.share_contents(store, tmp_path / "two")
    other = Store(tmp_path / "two")
    assert other.has(digest) and other.get_ref("pypi", "x") and not other.get_ref("outside", "x")


def test_what_is_mounted_in_a_folder(tmp_path: Path) -> None:
    assert varied_run._mounts_below(Path("/proc"))[-1] == "/proc"
    assert varied_run._mounts_below(tmp_path) == []
