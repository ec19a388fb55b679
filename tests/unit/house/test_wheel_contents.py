"""The wheel, held against what git tracks, and used in folders without a checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import wheel_of_kiln as wheels
from places import ROOT
from wheel_of_kiln import SHIPPED

from kiln import __version__
from kiln.core.digest import tree_digest

pytestmark = pytest.mark.skipif(bool(wheels.why_not()), reason=wheels.why_not())

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheels.build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed in; Python's compiled files are there, too."""
    folder = tmp_path_factory.mktemp("site")
    wheels.pip("install", "--target", folder, wheel)
    return folder


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    """Run Python with the installed kiln, in an empty folder."""
    empty = tmp_path / "empty"
    empty.mkdir()

    def start(*arguments: str, cwd: Path = empty) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": str(site)},
            cwd=cwd,
            capture_output=True,
            text=True,
        )

    return start


def test_it_holds_what_git_tracks_and_nothing_else(wheel: Path) -> None:
    wanted = {
        inside + name.removeprefix(folder): ROOT / name
        for name in wheels.tracked()
        for folder, inside in SHIPPED.items()
        if name == folder or (folder.endswith("/") and name.startswith(folder))
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {
            name: archive.read(name)
            for name in archive.namelist()
            if not name.startswith(f"tflite_kiln-{__version__}.dist-info/")
        }
    assert sorted(found) == sorted(wanted)
    assert [name for name, data in found.items() if wanted[name].read_bytes() != data] == []


def test_by_way_of_a_source_distribution_it_is_the_same(wheel: Path, tmp_path: Path) -> None:
    """As `python -m build` goes: what is left out of the archive would be missing in the wheel."""
    source = wheels.copy_sources(tmp_path / "source")
    code = f"import setuptools.build_meta as b; b.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    wheels.pip("wheel", "--no-build-isolation", "--wheel-dir", tmp_path, sdist)
    (other,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(other) as two:
        assert {name: one.read(name) for name in one.namelist()} == {
            name: two.read(name) for name in two.namelist()
        }


def test_an_editable_installation_is_a_folder_on_the_path(tmp_path: Path) -> None:
    """The developers' programs beside kiln are found through it, too."""
    source = wheels.copy_sources(tmp_path / "source")
    # What pip asks for; pip itself would put it in the place of the kiln that these tests run in.
    code = f"import setuptools.build_meta as b; b.build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (editable,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(editable) as archive:
        (link,) = (name for name in archive.namelist() if ".dist-info/" not in name)
        assert link.endswith(".pth")
        assert Path(archive.read(link).decode().strip()) == source / "scripts"


def test_stage_code_has_the_checkout_s_digest(site: Path) -> None:
    stages = site / "kiln" / "_data" / "docker" / "stages"
    assert list(stages.rglob("*.pyc")), "pip compiles what it installs"
    assert tree_digest(stages) == tree_digest(ROOT / "docker" / "stages")


def test_there_is_one_version(wheel: Path, run: Run) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"tflite_kiln-{__version__}.dist-info/METADATA").decode()
    assert re.findall(r"^Version: (.+)$", metadata, re.MULTILINE) == [__version__]
    assert __version__ in run("-m", "kiln.cli", "--version").stdout
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert not re.search(r"^version = \"", text, re.MULTILINE)


def test_its_own_folders_are_found(run: Run, site: Path) -> None:
    code = (
        "import kiln; from kiln.project.folders import Project; p = Project.find();"
        "print(kiln.__file__, p.docker, p.sample_images, p.models, sep='\\n')"
    )
    ended = run("-c", code)
    package, docker, images, models = ended.stdout.splitlines()
    assert Path(package) == site / "kiln" / "__init__.py"
    assert Path(docker) == site / "kiln" / "_data" / "docker"
    assert (Path(images) / "images.toml").is_file()
    assert Path(models).name == "models" and not Path(models).exists()


def test_a_checkout_comes_first(run: Run, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "docker").mkdir(parents=True)
    (checkout / "docker" / "images.toml").touch()
    (checkout / "below").mkdir()
    code = (
        "import os; from kiln.project.folders import Project; print(Project.find().docker);"
        "os.environ['KILN_PROJECT'] = 'nowhere'; Project.find()"
    )
    ended = run("-c", code, cwd=checkout / "below")
    assert ended.stdout == f"{checkout / 'docker'}\n"
    assert "no tflite-kiln checkout at nowhere" in ended.stderr


def test_a_bundle_for_a_release_needs_no_recipes(run: Run) -> None:
    words = ("-m", "kiln.cli", "bundle", "create", "-o", "b.tar")
    assert "no models folder" in run(*words).stderr
    ended = run(*words, "--release", "none")
    assert ended.returncode not in (0, 10)
    assert "none" in ended.stderr and "models folder" not in ended.stderr


@pytest.mark.parametrize("words", [("models",), ("build",), ("plan",)])
def test_it_says_plainly_that_there_are_no_recipes(run: Run, words: tuple[str, ...]) -> None:
    ended = run("-m", "kiln.cli", *words)
    assert ended.returncode == 10
    assert re.match(r"kiln: There is no models folder at .*/empty/models\.\n", ended.stderr)
    assert "kiln convert" in ended.stderr


def test_recipes_of_the_folder_one_is_in(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "models" / "seed"
    folder.mkdir(parents=True)
    text = (ROOT / "models" / "ssd_mobilenet_v2_320x320" / "recipe.toml").read_text("utf-8")
    text = text.replace("../labels/mscoco.pbtxt", "labels.pbtxt")
    text = text.replace("../samples/images", ".").replace("ssd_mobilenet_v2_320x320", "seed", 1)
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    ended = run("-m", "kiln.cli", "models", cwd=tmp_path / "mine")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("seed ")


def test_files_are_inspected_by_its_own_code(run: Run, tmp_path: Path) -> None:
    """Not by that of the folder one is in, which may be a stranger's."""
    strange = tmp_path / "strange"
    (strange / "docker" / "stages" / "tflite").mkdir(parents=True)
    (strange / "docker" / "images.toml").touch()
    for place in ("", "tflite"):
        (strange / "docker" / "stages" / place / "__init__.py").write_text("raise SystemExit(99)")
    fixtures = ROOT / "tests" / "fixtures"
    for folder in (None, strange):
        where = {} if folder is None else {"cwd": folder}
        ended = run("-m", "kiln.cli", "inspect", str(fixtures / "toy_ssd.tflite"), **where)
        assert (ended.returncode, ended.stderr) == (0, "")
        two = [str(fixtures / f"toy_ssd{name}.tflite") for name in ("", "_annotated")]
        assert run("-m", "kiln.cli", "diff", *two, **where).returncode == 1


@pytest.mark.parametrize(
    "words", [("relock",), ("sbom",), ("build", "--update-lock")], ids=lambda words: words[0]
)
def test_what_it_brought_is_not_changed(run: Run, site: Path, words: tuple[str, ...]) -> None:
    docker = site / "kiln" / "_data" / "docker"
    before = tree_digest(docker)
    ended = run("-m", "kiln.cli", "images", *words)
    assert ended.returncode == 2
    assert "the installed kiln" in ended.stderr
    assert tree_digest(docker) == before


def test_it_knows_whether_its_files_are_those_of_the_wheel(run: Run, site: Path) -> None:
    code = "from kiln.statements.package import installed_package as p; print(p())"
    sound = f"Package(version={__version__!r}, dirty=False)\n"
    assert run("-c", code).stdout == sound
    dirty = sound.replace("False", "True")
    changed = site / "kiln" / "_data" / "docker" / "install.py"
    added = site / "kiln" / "building" / "added.py"
    data = changed.read_bytes()
    changed.write_bytes(data + b"\n")
    assert run("-c", code).stdout == dirty
    changed.unlink()
    assert run("-c", code).stdout == dirty
    changed.write_bytes(data)
    added.touch()
    assert run("-c", code).stdout == dirty
    added.unlink()
    record = next(site.glob("*.dist-info")) / "RECORD"
    lines = record.read_text("utf-8")
    record.unlink()
    assert run("-c", code).stdout == dirty
    record.write_text(lines, encoding="utf-8")
    assert run("-c", code).stdout == sound


def test_sources_are_archived_as_installed(run: Run, site: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "toy").mkdir(parents=True)
    text = (ROOT / "models" / "ssd_mobilenet_v2_320x320" / "recipe.toml").read_text("utf-8")
    text = text.replace("ssd_mobilenet_v2_320x320", "toy", 1)
    (tmp_path / "models" / "toy" / "recipe.toml").write_text(text, encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from kiln.project.folders import Project;"
        "from kiln.statements.source_archive import source_archive;"
        "from kiln.recipes.recipe import load;"
        "recipe = load(Path('models/toy/recipe.toml').absolute(), Path('models').absolute());"
        "data = source_archive(Project.find(), recipe);"
        "Path('source.tar').write_bytes(data)"
    )
    ended = run("-c", code, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    unpacked = tmp_path / "unpacked"
    subprocess.run(["tar", "-xf", tmp_path / "source.tar", "--one-top-level=unpacked"],
                   cwd=tmp_path, check=True)  # fmt: skip
    assert sorted(path.name for path in unpacked.iterdir()) == [
        "LICENSE",
        "NOTICE",
        "docker",
        "models",
        "pyproject.toml",
        "scripts",
    ]
    assert tree_digest(unpacked / "docker") == tree_digest(site / "kiln" / "_data" / "docker")
    assert [path.name for path in (unpacked / "scripts").iterdir()] == ["kiln"]
    driver = (*("__pycache__", "*.pyc"), "_data")
    assert tree_digest(unpacked / "scripts" / "kiln") == tree_digest(site / "kiln", exclude=driver)
