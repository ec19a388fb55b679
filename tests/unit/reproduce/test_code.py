"""Where the stage code comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_project import SEALED, make_project
from toy_reproduce import Machine, ToyRelease, outcomes

from kiln.core.digest import sha256_bytes
from kiln.core.errors import VerificationError
from kiln.project.closures import Closure, StageCode, read_stage_code
from kiln.project.folders import Project


def test_another_source_archive(release: ToyRelease, machine: Machine) -> None:
    release.write()
    with (release.folder / "source.tar").open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(VerificationError, match="is not the source archive"):
        machine.run(release)
    assert not machine.door.calls


def test_an_edited_stage_in_an_archive_that_the_statement_names(
    release: ToyRelease, machine: Machine
) -> None:
    """Who can sign statements, but says another digest of the code than the archive has."""
    (release.project.stages / "__main__.py").write_text("print('something else')\n")
    release.source = release.archive()
    release.write()
    with pytest.raises(VerificationError, match="docker/stages differs"):
        machine.run(release)
    assert not machine.door.calls


@pytest.mark.parametrize("name", ["odapi/Dockerfile", "images.lock"])
def test_an_edited_definition_in_the_archive(
    release: ToyRelease, machine: Machine, name: str
) -> None:
    honest = release.statement("int8")["predicate"]["buildDefinition"]["resolvedDependencies"]
    path = release.project.docker / name
    path.write_text(
        path.read_text()
        .replace(SEALED.identity, f"sha256:{'b' * 64}")
        .replace("scratch", "scratch AS x")
    )
    release.source = release.archive()
    locks = [item for item in honest if item["name"].startswith("lock/")]

    def edit(statement: dict[str, Any]) -> None:
        materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        materials[:] = [item for item in materials if not item["name"].startswith("lock/")] + locks

    release.edit = edit
    release.write()
    with pytest.raises(VerificationError, match=name):
        machine.run(release)
    assert not machine.door.calls


def test_the_archive_out_of_the_store_or_named(release: ToyRelease, machine: Machine) -> None:
    release.write()
    elsewhere = release.root / "elsewhere.tar"
    (release.folder / "source.tar").rename(elsewhere)
    assert set(outcomes(machine.run(release, source=elsewhere)).values()) == {"identical"}
    assert set(outcomes(machine.run(release)).values()) == {"cannot be rebuilt"}
    machine.store.add_file(elsewhere)
    assert set(outcomes(machine.run(release)).values()) == {"identical"}


def test_a_checkout_only_if_it_is_exactly_the_same(
    release: ToyRelease, machine: Machine, tmp_path: Path
) -> None:
    release.write()
    (release.folder / "source.tar").unlink()
    same = make_project(tmp_path / "same")
    assert set(outcomes(machine.run(release, checkout=same)).values()) == {"identical"}
    assert any("is used instead" in note for note in machine.notes())
    other = make_project(tmp_path / "other")
    (other.stages / "__main__.py").write_text("print('something else')\n")
    verdict = machine.run(release, checkout=other)["toy_int8.tflite"]
    assert verdict.outcome == "cannot be rebuilt"
    assert [thing.name for thing in verdict.missing] == ["source.tar"]
    assert verdict.missing[0].sha256 == sha256_bytes(release.source)


# --- the part that each stage runs -------------------------------------------------------------


def with_steps(project: Project) -> StageCode:
    """Give the toy project stages that run different code."""
    for name in ("__init__", "steps/__init__", "steps/export", "steps/convert", "steps/annotate"):
        (project.stages / name).parent.mkdir(exist_ok=True)
        (project.stages / f"{name}.py").write_text(f"# {name}\n")
    return read_stage_code(project.stages)


def test_containers_have_the_recorded_code_and_no_other(tmp_path: Path, machine: Machine) -> None:
    code = with_steps(make_project(tmp_path / "released"))
    release = ToyRelease(tmp_path, code=StageCode(code.digest, {"export": code.of("export")}))
    release.write()
    assert set(outcomes(machine.run(release)).values()) == {"identical"}
    (call,) = machine.door.calls  # of stages without such a record it has the whole
    assert "steps/convert.py" in call["code"]
    (release.project.stages / "unused.py").write_text("")
    release = ToyRelease(tmp_path)
    release.write()
    machine.door.calls.clear()
    assert set(outcomes(machine.run(release)).values()) == {"identical"}
    (call,) = machine.door.calls
    assert "unused.py" not in call["code"]
    assert {"steps/export.py", "steps/convert.py", "steps/annotate.py"} < call["code"].keys()


def test_other_code_of_a_stage_than_the_archive_has(tmp_path: Path, machine: Machine) -> None:
    code = with_steps(make_project(tmp_path / "released"))
    lie = Closure("0" * 64, code.of("convert").files)
    release = ToyRelease(tmp_path, code=StageCode(code.digest, {**code.closures, "convert": lie}))
    release.write()
    with pytest.raises(VerificationError, match="docker/stages differs"):
        machine.run(release)
    assert not machine.door.calls


def test_other_code_of_a_stage_than_the_checkout_has(tmp_path: Path, machine: Machine) -> None:
    project = make_project(tmp_path / "released")
    code = with_steps(project)
    lie = Closure("0" * 64, code.of("convert").files)
    for closures, outcome in (
        (code.closures, "identical"),
        ({**code.closures, "convert": lie}, "cannot be rebuilt"),
    ):
        release = ToyRelease(tmp_path, code=StageCode(code.digest, closures))
        release.write()
        (release.folder / "source.tar").unlink()
        assert set(outcomes(machine.run(release, checkout=project)).values()) == {outcome}
