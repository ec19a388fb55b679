"""source.tar: all of the sources, the same bytes whatever machine writes them."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT
from toy_project import add_recipe, make_project

from kiln.core.digest import sha256_bytes, tree_digest
from kiln.core.errors import RecipeError, StoreError, VerificationError
from kiln.project.folders import Project
from kiln.recipes.recipe import Recipe, load
from kiln.statements.source_archive import (
    MAX_TEXT,
    archived_recipe_path,
    archived_sources,
    source_archive,
)
from kiln.statements.source_archive_reader import MAX_ENTRIES, SourceArchive


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = make_project(tmp_path / "project")
    add_recipe(made, "toy")
    for name in (
        "scripts/kiln/building/build.py",
        "Makefile",
        "LICENSE",
        "NOTICE",
        "pyproject.toml",
    ):
        path = made.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (made.root / "scripts" / "kiln.sh").write_text("#!/bin/sh\n")
    (made.root / "scripts" / "kiln.sh").chmod(0o755)
    return made


def recipe_of(project: Project) -> Recipe:
    return load(project.models / "toy" / "recipe.toml")


def archived(project: Project) -> SourceArchive:
    return SourceArchive.read(source_archive(project, recipe_of(project)))


def test_what_is_in_it(project: Project) -> None:
    for name in ("docker/stages/__pycache__/x.pyc", "scripts/x.pyc", "scripts/.swp", "README.md",
                 "scripts/kiln.egg-info/PKG-INFO", "dist/x", "models/other/recipe.toml",
                 "models/toy/weights.npz", "tests/x.py", ".git/config"):  # fmt: skip
        path = project.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0")
    got = archived(project)
    assert sorted(got.files) == [
        "LICENSE",
        "Makefile",
        "NOTICE",
        "docker/device/Dockerfile",
        "docker/device/contents.xz",
        "docker/images.lock",
        "docker/images.toml",
        "docker/install.py",
        "docker/odapi/Dockerfile",
        "docker/odapi/contents.xz",
        "docker/stages/__main__.py",
        "models/toy/labels.pbtxt",
        "models/toy/recipe.toml",
        "pyproject.toml",
        "scripts/kiln.sh",
        "scripts/kiln/building/build.py",
    ]
    assert got.executable == {"scripts/kiln.sh"}
    for path, content in got.files.items():
        assert content == (project.root / path).read_bytes()
        assert got.digest(path) == sha256_bytes(content)


def test_stage_code_is_that_of_the_folder(project: Project) -> None:
    (project.stages / ".hidden").write_text("counts")
    (project.stages / "sub").mkdir()
    (project.stages / "sub" / "x.py").write_text("")
    (project.stages / "sub" / "x.py").chmod(0o744)
    assert archived(project).stage_code() == tree_digest(project.stages)
    real = Project(ROOT)
    recipe = load(next(real.models.glob("*/recipe.toml")))
    data = source_archive(real, recipe)
    assert SourceArchive.read(data).stage_code() == tree_digest(real.stages)


def test_the_same_bytes_whatever_order_times_and_umask(project: Project, tmp_path: Path) -> None:
    before = source_archive(project, recipe_of(project))
    other = Project(tmp_path / "elsewhere")
    old = os.umask(0o077)
    try:
        # Files made in the reverse order come out of many file systems in another one.
        for path in sorted(project.root.rglob("*"), reverse=True):
            if path.is_file():
                place = other.root / path.relative_to(project.root)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(path.read_bytes())
                place.chmod(0o700 if os.access(path, os.X_OK) and path.suffix == ".sh" else 0o600)
                os.utime(place, (1, 1))
    finally:
        os.umask(old)
    assert source_archive(other, recipe_of(other)) == before
    (other.root / "docker" / "install.py").write_text("changed")
    assert source_archive(other, recipe_of(other)) != before


def test_a_plain_tar_reads_it(project: Project) -> None:
    with tarfile.open(fileobj=io.BytesIO(source_archive(project, recipe_of(project)))) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {
        (0, 0, "", "", 1735689600)
    }
    assert {member.mode for member in members} == {0o644, 0o755}


def test_a_recipe_from_elsewhere_has_its_place(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.models / "toy", tmp_path / "scratch" / "toy")
    recipe = load(tmp_path / "scratch" / "toy" / "recipe.toml")
    assert archived_recipe_path(project, recipe) == "models/toy/recipe.toml"
    got = SourceArchive.read(source_archive(project, recipe))
    assert [name for name in got.files if name.startswith("models/")] == ["models/toy/recipe.toml"]
    shutil.copytree(project.models / "toy", project.models / "samples" / "toy")
    deep = load(project.models / "samples" / "toy" / "recipe.toml", project.models)
    assert archived_recipe_path(project, deep) == "models/samples/toy/recipe.toml"


OWN = """\
schema = 1
name = "mine"
title = "It is 'mine', \\"really\\""
description = "d"
licence = "MIT"
author = "a"
version = "1"
architecture = "ssd"
image = "odapi"
variants = ["float32"]  # don't
[source]
kind = "local"
checkpoint = {checkpoint}
pipeline_config = '/home/me/my training/pipeline.config'
[labels]
file = "labels.pbtxt"
"""


@pytest.mark.parametrize(
    "spelled", ['"/home/me/my training/ckpt-7"', '"/home/me/my\\u0020training/ckpt-7"']
)
def test_folders_of_this_machine_are_not_published(
    project: Project, tmp_path: Path, spelled: str
) -> None:
    path = tmp_path / "mine" / "recipe.toml"
    path.parent.mkdir()
    path.write_text(OWN.format(checkpoint=spelled))
    got = SourceArchive.read(source_archive(project, load(path))).files["models/mine/recipe.toml"]
    expected = OWN.format(checkpoint='"ckpt-7"').replace(
        "'/home/me/my training/pipeline.config'", '"pipeline.config"'
    )
    assert got.decode() == expected


@pytest.mark.parametrize("spelled", ['"""\n/home/me/x"""', '"/home/me/x"  # in /home/me/x'])
def test_nor_where_they_cannot_be_replaced(project: Project, tmp_path: Path, spelled: str) -> None:
    path = tmp_path / "mine" / "recipe.toml"
    path.parent.mkdir()
    path.write_text(OWN.format(checkpoint=spelled))
    with pytest.raises(RecipeError, match="absolute path"):
        source_archive(project, load(path))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b", b"x" * (MAX_TEXT + 1)])
def test_of_the_files_beside_a_recipe_only_small_texts(project: Project, content: bytes) -> None:
    (project.models / "toy" / "labels.pbtxt").write_bytes(content)
    assert "models/toy/labels.pbtxt" not in archived(project).files


def test_links_are_refused(project: Project) -> None:
    (project.stages / "link.py").symlink_to("__main__.py")
    with pytest.raises(StoreError, match=r"link\.py"):
        source_archive(project, recipe_of(project))


def test_a_name_that_no_reader_takes_is_refused_before_the_build(project: Project) -> None:
    (project.stages / "odd\n.py").write_bytes(b"")
    with pytest.raises(StoreError, match="not printable"):
        source_archive(project, recipe_of(project))


def test_more_files_than_a_reader_takes_are_refused(project: Project) -> None:
    many = project.docker / "many"
    many.mkdir()
    for number in range(MAX_ENTRIES):
        (many / str(number)).touch()
    with pytest.raises(StoreError, match="too many"):
        source_archive(project, recipe_of(project))


def test_what_was_archived_is_what_a_reader_finds(project: Project) -> None:
    (project.docker / "run.sh").touch()
    (project.docker / "run.sh").chmod(0o755)
    data, told = archived_sources(project, recipe_of(project))
    read = SourceArchive.read(data)
    assert (told.sha256, dict(told.files), told.executable) == (
        read.sha256, dict(read.files), read.executable
    )  # fmt: skip
    assert "docker/run.sh" in read.executable


# --- reading -----------------------------------------------------------------------------------


def tar_of(change: Callable[[tarfile.TarInfo], Any], content: bytes = b"x") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("docker/a")
        info.size = len(content)
        change(info)
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def entry(**fields: Any) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        for name, value in fields.items():
            setattr(info, name, value)

    return change


@pytest.mark.parametrize(
    "data",
    [
        tar_of(entry(name="/etc/passwd")),
        tar_of(entry(name="../x")),
        tar_of(entry(name="a/../../x")),
        tar_of(entry(name="./a")),
        tar_of(entry(name="a\x1b")),
        tar_of(entry(type=tarfile.SYMTYPE, linkname="/etc/passwd", size=0), b""),
        tar_of(entry(type=tarfile.LNKTYPE, linkname="docker/b", size=0), b""),
        tar_of(entry(type=tarfile.DIRTYPE, size=0), b""),
        tar_of(entry(type=tarfile.FIFOTYPE, size=0), b""),
        tar_of(entry(type=tarfile.CHRTYPE, size=0), b""),
        tar_of(entry())[:513],
        b"\x1f\x8b" + bytes(1000),
        b"",
        b"x" * 2000,
    ],
)
def test_what_is_no_source_archive_is_refused(data: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        SourceArchive.read(data)
    assert caught.value.message.startswith("source.tar ") and caught.value.remedy


def test_a_name_twice_is_refused() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a"))
    with pytest.raises(VerificationError, match="twice"):
        SourceArchive.read(out.getvalue())


GOOD = tar_of(entry())


@settings(max_examples=300)
@given(st.integers(0, 1023), st.integers(0, 255))
def test_damage_never_ends_in_a_traceback(at: int, value: int) -> None:
    data = bytearray(GOOD)
    data[at] = value
    try:
        SourceArchive.read(bytes(data))
    except VerificationError as error:
        assert error.message.startswith("source.tar ")
