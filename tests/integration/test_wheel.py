"""`pip install` of the wheel, an empty folder, no checkout: it works, and makes the same bytes."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import wheel_of_kiln as wheels
from places import ROOT
from support import SAMPLE, Kiln, Sample

from kiln.core.digest import sha256_file, tree_digest
from kiln.core.untrusted import parse_toml
from kiln.release.any_form import verify_any
from kiln.signing.keys import canonical_public_pem
from kiln.signing.trust import trust_in_key

pytestmark = pytest.mark.skipif(bool(wheels.why_not()), reason=wheels.why_not())

VARIANTS = ("float32", "int8")


@dataclass(frozen=True)
class Installed(Kiln):
    """The command of an environment that the wheel was installed in; ``project`` is its folder.

    Args:
        python: the environment's.
    """

    python: Path = Path()

    def environment(self) -> dict[str, str]:
        """As of any, without a word about a checkout."""
        base = super().environment()
        return {name: base[name] for name in base.keys() - {"PYTHONPATH", "KILN_PROJECT"}}

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start the command itself, in its folder."""
        return self.run_python(self.python.parent / "kiln", *arguments)

    def run_python(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start the environment's Python with what is given."""
        return subprocess.Popen(
            [self.python, *arguments],
            env=self.environment(),
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def installed(session_kiln: Kiln, area: Path) -> Installed:
    """The wheel in an environment of its own, which sees the packages that it needs, not kiln's.

    A folder that a .pth file names is looked through for modules; .pth files in it, such as that
    of an editable kiln, are not read.
    """
    wheel = wheels.build_wheel(area / "wheel")
    place = area / "environment"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    python = place / "bin" / "python"
    wheels.pip("install", wheel, python=python)
    (site,) = place.glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    empty = area / "empty"
    empty.mkdir()
    return Installed(
        empty, area / "wheel-store", empty / "dist", session_kiln.home, session_kiln.engine,
        python=python,
    )  # fmt: skip


@pytest.fixture(scope="module")
def training(installed: Installed, sample: Sample) -> Path:
    """The sample's checkpoint, as a training leaves one, in the folder that kiln is used in."""
    folder = sample.output("checkpoint", "model/", installed.project / "training")
    shutil.copy(sample.kiln.project / "models" / "samples" / SAMPLE / "label_map.pbtxt",
                installed.project)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def options(training: Path, sample: Sample) -> list[str | Path]:
    """What `kiln convert` has to be told to make what the sample's recipe makes."""
    models = sample.kiln.project / "models" / "samples"
    recipe = parse_toml((models / SAMPLE / "recipe.toml").read_bytes())
    given: list[str | Path] = ["--checkpoint", training, "--label-map"]
    given += [training.parent / "label_map.pbtxt", "--calibration", models / "images"]
    for name in ("name", "title", "description", "licence", "author"):
        given += [f"--{name}", recipe[name]]
    given += ["--model-version", recipe["version"]]
    for variant in VARIANTS:
        given += ["--variant", variant]
    return given


@pytest.fixture(scope="module")
def release(installed: Installed, options: list[str | Path]) -> Path:
    """`kiln convert` in the empty folder, with an empty store."""
    ended = installed("convert", *options, "-o", "release").ok()
    assert "2 signed artefacts" in ended.out
    assert "0 stages run" not in ended.out
    return installed.project / "release"


def _digests(folder: Path) -> dict[str, str]:
    return {
        variant: sha256_file(folder / SAMPLE / f"{SAMPLE}_{variant}.tflite") for variant in VARIANTS
    }


def test_kiln_is_that_of_the_wheel(installed: Installed) -> None:
    code = "import kiln, sys; print(kiln.__file__); print('\\n'.join(sys.path))"
    with installed.run_python("-c", code) as process:
        assert process.stdout is not None
        where, *paths = process.stdout.read().splitlines()
    assert Path(where).is_relative_to(installed.python.parents[1])
    assert [path for path in paths if (Path(path) / "kiln").is_dir()] == [
        str(Path(where).parents[1])
    ]
    stages = Path(where).parent / "_data" / "docker" / "stages"
    assert tree_digest(stages) == tree_digest(ROOT / "docker" / "stages")


def test_the_bytes_are_the_checkout_s(release: Path, sample: Sample) -> None:
    """Of float32: the recipe leaves layers of int8 in float, and `kiln convert` cannot be told so.

    That a checkout makes the same int8 file is the next test's matter.
    """
    assert _digests(release)["float32"] == sha256_file(sample.artefact("float32"))


def test_a_checkout_finds_its_results_in_the_store(
    release: Path, installed: Installed, session_kiln: Kiln, options: list[str | Path]
) -> None:
    checkout = session_kiln.but(store=installed.store, dist=release.parent / "from the checkout")
    ended = checkout("convert", *options, "-o", checkout.dist).ok()
    assert "0 stages run" in ended.out
    assert _digests(checkout.dist) == _digests(release)


def test_the_release_verifies_here_and_there(
    release: Path, installed: Installed, session_kiln: Kiln
) -> None:
    assert "All good" in installed("verify", "release").ok().out
    assert "All good" in session_kiln("verify", release).ok().out


def test_what_it_states_about_its_code(release: Path, installed: Installed) -> None:
    for variant in VARIANTS:
        name = f"{SAMPLE}_{variant}.tflite.provenance.sigstore.json"
        statement = _payload(release / SAMPLE / "attestations" / name)
        named = {
            item["name"]: item
            for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        }
        assert "repository" not in named
        assert named["package"]["annotations"] == {"dirty": False}
        version = statement["predicate"]["runDetails"]["builder"]["version"]["kiln"]
        assert named["package"]["uri"] == f"pkg:pypi/tflite-kiln@{version}"
    (package,) = installed.python.parents[1].glob("lib/python*/site-packages/kiln")
    unpacked = release.parent / "unpacked"
    with tarfile.open(release / SAMPLE / "source.tar") as tar:
        tar.extractall(unpacked, filter="data")
    driver = tree_digest(unpacked / "scripts" / "kiln")
    assert driver == named["package"]["digest"]["kilnTree"]
    assert driver == tree_digest(package, exclude=("__pycache__", "*.pyc", "_data"))


def _payload(path: Path) -> dict[str, Any]:
    envelope = json.loads(path.read_text("utf-8"))["dsseEnvelope"]
    found: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return found


def test_it_looks_into_files(release: Path, installed: Installed, sample: Sample) -> None:
    file = f"release/{SAMPLE}/{SAMPLE}_float32.tflite"
    assert "float32" in installed("inspect", file).ok().out
    assert "identical" in installed("diff", file, sample.artefact("float32")).ok().out
    assert "ms" in installed("bench-model", file, "--runs", "2", "--threads", "1").ok().out


def test_it_brings_the_images(installed: Installed) -> None:
    installed("images", "build").ok()
    found = installed("images", "list", "--json").ok().events
    assert {(item["image"], item["state"]) for item in found} >= {("odapi", "present")}
    assert installed("doctor").code == 0


def test_it_reproduces(release: Path, installed: Installed, training: Path, area: Path) -> None:
    other = installed.but(store=area / "other-store")
    arguments = ("--variant", "float32", "--inputs", training, "--inputs", training.parent)
    ended = other("reproduce", "release", *arguments).ok()
    assert "All identical" in ended.out


def _data_set(area: Path) -> Path:
    """One photograph of a cat, in COCO's layout."""
    root = area / "one cat"
    (root / "images").mkdir(parents=True)
    shutil.copy(ROOT / "models" / "samples" / "images" / "chelsea.png", root / "images")
    table = {
        "images": [{"id": 1, "file_name": "chelsea.png", "height": 300, "width": 451}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 17, "bbox": [0, 0, 451, 300],
             "area": 451 * 300, "iscrowd": 0}
        ],
        "categories": [{"id": 17, "name": "Cat"}],
    }  # fmt: skip
    (root / "instances.json").write_text(json.dumps(table))
    return root


def test_recipes_of_its_own_folder(
    release: Path, installed: Installed, options: list[str | Path], area: Path
) -> None:
    installed("models").refused(10, "There is no models folder at")
    installed("init", *options[:4], "-o", "models/mine").ok()
    try:
        assert "mine" in installed("models").ok().out
        assert "mine: dynamic float32 float16" in installed("plan").ok().out
        ended = installed("build", "mine", "--variant", "float32").ok()
        assert (installed.dist / "mine" / "mine_float32.tflite").is_file()
        assert "1 signed artefact" in ended.out
        words = ("accuracy", "mine", "--coco", _data_set(area), "--variant", "float32", "--json")
        measured = [item for item in installed(*words).ok().events if item["event"] == "accuracy"]
        assert [(item["what"], item["ap50"]) for item in measured] == [
            ("source", pytest.approx(1)),
            ("float32", pytest.approx(1)),
        ]
    finally:
        shutil.rmtree(installed.project / "models")


def test_the_example_of_the_page(release: Path, installed: Installed) -> None:
    """docs/python.md: a conversion from Python."""
    text = (ROOT / "docs" / "python.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(import kiln\n\nmade = kiln.convert.*?)```", text, re.DOTALL)
    with installed.run_python("-c", block.replace('"release"', '"from python"')) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    last = out.splitlines()[-1]
    name = re.match(r"(\S.*)/from python/(\w+)/\2_float32\.tflite ", last)
    assert name, last
    key = canonical_public_pem((release / "kiln.pub").read_bytes())
    found = verify_any(release.parent / "from python", trust_in_key(key))
    assert found.models == (name[2],)
