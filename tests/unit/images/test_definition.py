from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from kiln.core.errors import ImageBuildError, UsageError
from kiln.core.store import Store
from kiln.core.untrusted import MalformedError
from kiln.images import definition as definitions
from kiln.images.definition import System, get, load, make_context, parse, recipe_digest
from kiln.sources import debian

TOML = """\
[base]
debian = "base/debian.lock"
files = ["install.py"]

[odapi]
parent = "base"
wheels = ["odapi/requirements.lock"]
tools = "tools.lock"
files = ["install.py", "odapi/prune.txt"]

[alone]
"""
FILES = {
    "images.toml": TOML,
    "install.py": "print()",
    "tools.lock": "tools",
    "base/Dockerfile": "FROM scratch",
    "base/debian.lock": "# nothing",
    "odapi/Dockerfile": "FROM base",
    "odapi/requirements.lock": "wheels",
    "odapi/prune.txt": "tests/",
    "odapi/contents.xz": "not an input",
    "alone/Dockerfile": "FROM scratch",
    "stages/export.py": "not an input",
}


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_definitions_are_read_in_order(docker: Path) -> None:
    found = load(docker)
    assert list(found) == ["base", "odapi", "alone"]
    odapi = found["odapi"]
    assert odapi.parent == "base"
    assert {path.relative_to(docker).as_posix() for path in odapi.inputs()} == {
        "odapi/Dockerfile",
        "install.py",
        "odapi/prune.txt",
        "odapi/requirements.lock",
        "tools.lock",
    }
    assert found["alone"].inputs() == (docker / "alone/Dockerfile",)


INPUTS = {
    "install.py": {"base", "odapi"},
    "tools.lock": {"odapi"},
    "base/Dockerfile": {"base", "odapi"},  # the parent's inputs are the child's
    "base/debian.lock": {"base", "odapi"},
    "odapi/Dockerfile": {"odapi"},
    "odapi/requirements.lock": {"odapi"},
    "odapi/prune.txt": {"odapi"},
    "alone/Dockerfile": {"alone"},
    "odapi/contents.xz": set(),
    "stages/export.py": set(),  # stage code is mounted, not part of an image
}


@pytest.mark.parametrize("path", sorted(INPUTS))
def test_a_changed_file_changes_just_the_images_made_of_it(docker: Path, path: str) -> None:
    before = {name: recipe_digest(docker, name) for name in load(docker)}
    (docker / path).write_text("something else")
    changed = {name for name in before if recipe_digest(docker, name) != before[name]}
    assert changed == INPUTS[path]


def test_the_digest_does_not_depend_on_the_place(docker: Path) -> None:
    import shutil

    other = docker.parent / f"{docker.name}-moved"
    shutil.copytree(docker, other)
    assert recipe_digest(other, "odapi") == recipe_digest(docker, "odapi")


def test_the_epoch_is_part_of_the_digest(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe_digest(docker, "alone")
    monkeypatch.setattr(definitions, "SOURCE_DATE_EPOCH", 0)
    assert recipe_digest(docker, "alone") != before


def test_an_unknown_image_is_refused_with_the_known_ones(docker: Path) -> None:
    with pytest.raises(UsageError) as caught:
        get(docker, "odapy")
    assert "'odapy'" in caught.value.message
    assert "base, odapi, alone" in caught.value.remedy


def test_a_missing_input_is_named(docker: Path) -> None:
    (docker / "odapi/prune.txt").unlink()
    with pytest.raises(ImageBuildError, match=r"prune\.txt, which image 'odapi' is built from"):
        recipe_digest(docker, "odapi")


@pytest.mark.parametrize("text", [None, b"[base", b"\xff"])
def test_a_damaged_list_of_images_is_named(docker: Path, text: bytes | None) -> None:
    path = docker / "images.toml"
    path.unlink() if text is None else path.write_bytes(text)
    with pytest.raises(ImageBuildError, match=r"images\.toml (cannot be read|is not valid TOML)"):
        load(docker)


#: What a stranger's ``images.toml`` may say, and what is wrong with it.
NO_DEFINITIONS = {
    '[x]\nfiles = ["../../dev/zero"]': "impossible path",
    '[x]\nfiles = ["/etc/passwd"]': "impossible path",
    '[x]\nfiles = ["a/../b"]': "impossible path",
    '[x]\nfiles = ["a//b"]': "impossible path",
    '[x]\nfiles = ["./a"]': "impossible path",
    '[x]\nfiles = [""]': "impossible path",
    '[x]\nfiles = ["."]': "impossible path",
    '[x]\nfiles = ["x/.dockerignore"]': "impossible path",
    '[x]\nfiles = ["--from=x"]': "impossible path",
    '[x]\nfiles = ["a\\u0000b"]': "impossible path",
    '[x]\nfiles = ["a\\\\b"]': "impossible path",
    '[x]\nfiles = ["a\\n"]': "impossible path",
    '[x]\nfiles = ["a/b/c/d/e/f/g/h/i"]': "impossible path",
    f'[x]\nfiles = ["{"a" * 101}"]': "impossible path",
    "[x]\nfiles = [1]": "impossible path",
    "[x]\nfiles = [[]]": "impossible path",
    '[x]\nfiles = "install.py"': "no list of",
    "[x]\nfiles = [" + '"a",\n' * 65 + "]": "no list of",
    '[x]\nwheels = ["../requirements.lock"]': "impossible path",
    '[x]\ntools = "/tools.lock"': "impossible path",
    '[x]\ndebian = "../debian.lock"': "impossible path",
    "[x]\ndebian = 1": "impossible path",
    '[x]\nfiles = ["other/Dockerfile"]': "two files called Dockerfile",
    '[x]\nfiles = ["a/one", "b/one"]': "two files called one",
    '[x]\nfiles = ["x/rootfs.tar"]': "two files called rootfs.tar",
    '[x]\nfiles = ["x/wheels"]': "two files called wheels",
    '[x]\nparent = "y"': "does not exist",
    "[x]\nparent = 1": "does not exist",
    "[x]\nparent = []": "does not exist",
    '[x]\nparent = "x"': "from itself",
    '[x]\nparent = "y"\n[y]\nparent = "x"': "from itself",
    '["../x"]': "impossible name",
    '["a/b"]': "impossible name",
    '[""]': "impossible name",
    "[X]": "impossible name",
    f"[{'x' * 65}]": "impossible name",
    "x = 1": "missing or unknown fields",
    "[x]\nmount = true": "missing or unknown fields",
    "\n".join(f"[x{number}]" for number in range(65)): "more than 64 images",
    "[x]\nfiles = " + "[" * 2000: "nests deeper",
    "[x]\nfiles = " + "[" * 70 + "]" * 70: "nests deeper",
    "[x]\n" + "#" * (256 << 10): "larger than",
}


@pytest.mark.parametrize("text", NO_DEFINITIONS)
def test_no_definition_leads_out_of_its_folder(text: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match=NO_DEFINITIONS[text]):
        parse(text, Path("docker"))
    (tmp_path / "images.toml").write_text(text)
    with pytest.raises(ImageBuildError, match=r"images\.toml .*" + NO_DEFINITIONS[text]):
        load(tmp_path)


@settings(max_examples=300)
@given(path=st.text(max_size=30) | st.from_regex(r"(\.{0,2}/?|[a-z~]/?|/){1,8}", fullmatch=True))
def test_whatever_a_path_is_it_stays_inside(path: str) -> None:
    text = f"[x]\nfiles = [{json.dumps(path)}]"
    with contextlib.suppress(MalformedError):
        (found,) = parse(text, Path("/docker"))["x"].files
        assert Path(os.path.normpath(found)) == found
        assert found.is_relative_to("/docker") and found != Path("/docker")


def test_a_context_is_complete(docker: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    parts = {
        "wheels": {"a-1-py3-none-any.whl": store.add_bytes(b"wheel")},
        "tools": {"t-1-py3-none-any.whl": store.add_bytes(b"tool")},
    }
    make_context(get(docker, "odapi"), parts, store, tmp_path / "context")
    found = {
        path.relative_to(tmp_path / "context").as_posix(): path.read_bytes()
        for path in (tmp_path / "context").rglob("*")
        if path.is_file()
    }
    assert found == {
        "Dockerfile": b"FROM base",
        "install.py": b"print()",
        "prune.txt": b"tests/",
        "requirements.lock": b"wheels",
        "tools.lock": b"tools",
        "wheels/a-1-py3-none-any.whl": b"wheel",
        "tools/t-1-py3-none-any.whl": b"tool",
    }


def test_the_project_s_own_images_and_lock_fit() -> None:
    docker = ROOT / "docker"
    found = load(docker)
    for item in found.values():
        assert item.parent is None or list(found).index(item.parent) < list(found).index(item.name)
        # In a context all inputs lie in one folder.
        names = [path.name for path in item.inputs()]
        assert len(set(names)) == len(names)
        assert all(path.is_file() for path in item.inputs())


SYSTEM = 'system = { suite = "trixie", python = "3.13.5", glibc = "2.41" }\n'


def test_a_system_is_that_of_the_first_image_and_decides_which_wheels_fit(tmp_path: Path) -> None:
    found = parse(f'[a]\n{SYSTEM}[b]\nparent = "a"\n[c]\nparent = "b"\n[d]\n', tmp_path)
    trixie, unstated = System("trixie", "3.13.5", "2.41"), System()
    assert [item.system for item in found.values()] == [trixie, trixie, trixie, unstated]
    assert trixie.wheels["python"] == "3.13"
    assert trixie.wheels["platforms"][0] == "manylinux_2_41_x86_64"
    assert "manylinux_2_32_x86_64" not in unstated.wheels["platforms"]


@pytest.mark.parametrize(
    "text",
    [
        f'[a]\n[b]\nparent = "a"\n{SYSTEM}',  # its parent decides
        '[a]\nsystem = "trixie"',
        '[a]\nsystem = { suite = "trixie", python = "3.13.5" }',
        SYSTEM.replace("3.13.5", "3.13").join(("[a]\n", "")),
        SYSTEM.replace("2.41", "3.0").join(("[a]\n", "")),
        SYSTEM.replace("trixie", "../x").join(("[a]\n", "")),
        SYSTEM.replace('"2.41"', "2.41").join(("[a]\n", "")),
        SYSTEM.replace(" }", ', more = "x" }').join(("[a]\n", "")),
    ],
)
def test_an_impossible_system_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(MalformedError, match=r"has an invalid system for the image '[ab]'"):
        parse(text, tmp_path)


def test_a_system_is_part_of_the_digest(docker: Path) -> None:
    before = {name: recipe_digest(docker, name) for name in ("base", "odapi", "alone")}
    stated = TOML.replace("[base]\n", f"[base]\n{SYSTEM}")
    (docker / "images.toml").write_text(stated)
    after = {name: recipe_digest(docker, name) for name in before}
    assert [before[name] == after[name] for name in before] == [False, False, True]
    eleven = stated.replace("trixie", "bullseye").replace("3.13.5", "3.9.2").replace("2.41", "2.31")
    (docker / "images.toml").write_text(eleven)
    assert {name: recipe_digest(docker, name) for name in before} == before


def test_the_project_s_systems_are_those_of_its_locks() -> None:
    for item in load(ROOT / "docker").values():
        if item.debian is None:
            continue
        version = {pin.name: pin.version for pin in debian.read_lock(item.debian)}
        python, glibc = item.system.python, item.system.glibc
        minimal = f"python{item.system.wheels['python']}-minimal"
        assert version[minimal].startswith(f"{python}-")
        assert version["libc6"].startswith(f"{glibc}-")
        assert f"({item.system.suite})" in item.debian.read_text().splitlines()[0]
