"""``make engines``: its data, its table, and how little it trusts an engine."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from kiln.core.errors import UsageError
from proofs.engines import checks, machine, table
from proofs.engines.checks import Bench, WrongError
from proofs.engines.machine import Engine
from proofs.engines.table import Row, chosen, documentation
from shared import document_table
from shared.document_table import END

PODMAN = Engine("podman-0", "Debian 0", "none", "podman", ("podman",), rootless=True)


def test_the_engines_are_those_of_the_issue() -> None:
    known = machine.known_engines()
    names = [item.name for item in known.engines]
    assert len(set(names)) == len(names)
    assert {"docker-20.10", "docker-26.1", "podman-4.3", "podman-5.4"} <= set(names)
    for item in known.engines:
        assert item.kind in {"docker", "podman"}
        assert item.name.startswith(item.kind)
        assert item.rootless == item.name.endswith("-rootless") == (item.user is not None)
        assert not item.rootless or "uidmap" in item.packages


def test_some_are_chosen_in_the_tables_order() -> None:
    known = machine.known_engines().engines
    names = [known[2].name, known[0].name]
    assert chosen(names, known) == [known[0], known[2]]
    assert chosen((), known) == list(known)
    with pytest.raises(UsageError, match="no engine 'lxc'"):
        chosen(["lxc"], known)


def test_the_digests_are_read_from_the_readme() -> None:
    found = checks.wanted_digests((ROOT / "README.md").read_text("utf-8"))
    models = {model for model, _ in found}
    assert set(checks.SAMPLES) < models
    assert len(found) == 4 * len(models)
    assert all(re.fullmatch(r"[0-9a-f]{16}", digest) for digest in found.values())


def test_the_table_says_what_was_wrong_and_what_was_not_tried(tmp_path: Path) -> None:
    tried = Row(PODMAN, "Podman 0.1, vfs", cells=dict.fromkeys(checks.CHECKS, "well"))
    tried.cells["Ctrl-C"] = "**exit code 0 after 11.0 s**"
    other = Row(Engine("docker-0", "Debian 0", "none", "docker", ()), skipped="only root can")
    text = documentation([tried, other], [PODMAN, other.engine])
    head, rule, first, second = text.splitlines()
    columns = head.count("|")
    assert [line.count("|") for line in (rule, first, second)] == [columns] * 3
    assert first.startswith("| `podman-0` | Podman 0.1, vfs | Debian 0 | an ordinary user | well |")
    assert "**exit code 0 after 11.0 s**" in first
    assert second.startswith("| `docker-0` |  | Debian 0 | root | not tried: only root can |")
    path = tmp_path / "engines.md"
    path.write_text(f"before\n{document_table.begin_mark(table.TARGET)}\nold\n{END}\nafter\n")
    document_table.write_table(path, table.TARGET, text)
    assert "old" not in path.read_text() and first in path.read_text()


def test_rows_of_other_engines_stay() -> None:
    other = Row(Engine("docker-0", "Debian 0", "none", "docker", ()), skipped="once")
    order = [other.engine, PODMAN]
    old = documentation([other, Row(PODMAN, skipped="once")], order)
    new = documentation([Row(PODMAN, skipped="again")], order, f"before\n{old}\nafter\n")
    assert new.splitlines()[:3] == old.splitlines()[:3]
    assert "not tried: again" in new.splitlines()[3] and len(new.splitlines()) == 4


def test_the_document_has_a_place_for_the_table() -> None:
    text = (ROOT / "docs" / "engines.md").read_text("utf-8")
    assert text.count(document_table.begin_mark(table.TARGET)) == text.count(END) == 1


def test_an_unknown_engine_is_told_before_anything_is_fetched() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "proofs.engines.table", "lxc"],
        env={"PYTHONPATH": f"{ROOT}/scripts:{ROOT}/docker", "PATH": "/usr/bin:/bin"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == UsageError.exit_code
    assert "There is no engine 'lxc'" in ended.stderr and "podman-5.4" in ended.stderr


# --- a kiln that is not well ---------------------------------------------------------------------


def bench(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str, seconds: float) -> Bench:
    """A bench whose kiln is a Python program."""
    (folder / "home").mkdir()
    (folder / "checkout" / "scripts" / "kiln").mkdir(parents=True)
    (folder / "checkout" / "scripts" / "kiln" / "__init__.py").touch()
    (folder / "checkout" / "scripts" / "kiln" / "cli.py").write_text(program)
    engine = Engine("docker-0", "Debian 0", "none", "docker", ())
    address = "unix:///nowhere/engine.sock"
    monkeypatch.setattr(checks.docker, "DockerClient", lambda **how: None)
    readme = (ROOT / "README.md").read_text("utf-8")
    return Bench(engine, address, folder, folder / "checkout", readme, time.monotonic() + seconds)


def outcome(made: Bench, check: Any) -> str:
    with pytest.raises(WrongError) as caught:
        check(made)
    return str(caught.value)


def test_a_failure_is_told_in_kilns_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = 'import sys; print(\'{"event": "error", "message": "No luck."}\'); sys.exit(3)'
    made = bench(tmp_path, monkeypatch, program, 60)
    assert outcome(made, checks.doctor) == "failed: No luck."


def test_a_kiln_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench(tmp_path, monkeypatch, "import time; time.sleep(600)", 0)
    assert outcome(made, checks.doctor) == "not done in time"


def test_a_missing_image_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """\
import sys
if sys.argv[1:3] == ["images", "list"]:
    print('{"event": "image", "image": "base", "state": "present"}')
    print('{"event": "image", "image": "odapi", "state": "not built"}')
"""
    made = bench(tmp_path, monkeypatch, program, 60)
    assert outcome(made, checks.images) == "not there: odapi"


def test_other_bytes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"""\
import json, pathlib, sys
for model in {checks.SAMPLES!r}:
    folder = pathlib.Path(sys.argv[sys.argv.index("--dist") + 1], model)
    folder.mkdir(parents=True)
    made = {{"artefacts": {{"float32": {{"sha256": "0" * 64}}}}}}
    (folder / "conversion.json").write_text(json.dumps(made))
"""
    made = bench(tmp_path, monkeypatch, program, 60)
    said = outcome(made, checks.samples)
    assert said == f"other bytes: {', '.join(f'{name} float32' for name in checks.SAMPLES)}"


def test_ctrl_c_that_takes_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """\
import signal, sys, time
def late(*_):
    time.sleep(0.5)
    sys.exit(130)
signal.signal(signal.SIGINT, late)
print('{"event": "stage", "id": "export", "state": "started"}', flush=True)
time.sleep(600)
"""
    made = bench(tmp_path, monkeypatch, program, 60)
    monkeypatch.setattr(Bench, "containers", lambda self: 0)
    monkeypatch.setattr(checks, "MAX_STOP", 0.4)
    assert re.fullmatch(r"exit code 130 after 0\.[5-9] s|exit code 130 after [1-9].*", outcome(
        made, checks.stop
    ))  # fmt: skip
    monkeypatch.setattr(checks, "MAX_STOP", 30.0)
    assert checks.stop(made).endswith(" s")


def test_a_container_that_stays_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """\
import sys, time
print('{"event": "stage", "id": "export", "state": "started"}', flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    sys.exit(130)
"""
    made = bench(tmp_path, monkeypatch, program, 60)
    monkeypatch.setattr(Bench, "containers", lambda self: 1)
    monkeypatch.setattr(checks, "_SETTLED", 0.1)
    assert outcome(made, checks.stop) == "1 containers left"
