"""Real engine, real sealed image, real TensorFlow: shared by all tests of a session."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zoo
from places import ROOT
from support import EXTRA_STAGES, SAMPLE, SAMPLES, Kiln, Sample, Stages, Wanted, copy_project

from kiln.core.errors import EngineUnavailableError
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.images.lock import Locked
from kiln.recipes.recipe import load
from kiln.running.engine import Engine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine of this machine; without one all of these tests are skipped, and say why."""
    try:
        return Engine.find()
    except EngineUnavailableError as error:
        if os.environ.get("KILN_REQUIRE_ENGINE") == "1":
            pytest.fail(f"KILN_REQUIRE_ENGINE is set: {error}", pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def odapi(engine: Engine) -> Locked:
    """The sealed image; built now, from the user's own store, if the engine lacks it."""
    images = Images(ROOT / "docker", lambda: engine, Store(Store.default_root()))
    return images.ensure("odapi")


@pytest.fixture(scope="session")
def modelmaker(engine: Engine) -> Locked:
    """The sealed image with Model Maker, as :func:`odapi`."""
    images = Images(ROOT / "docker", lambda: engine, Store(Store.default_root()))
    return images.ensure("modelmaker")


@pytest.fixture(scope="session")
def device(engine: Engine) -> Locked:
    """The sealed image with today's runtimes, as :func:`odapi`."""
    images = Images(ROOT / "docker", lambda: engine, Store(Store.default_root()))
    return images.ensure("device")


@pytest.fixture(scope="session")
def area() -> Iterator[Path]:
    """A folder for the session, readable by other users (pytest's own is not), removed after."""
    folder = Path(tempfile.mkdtemp(prefix="kiln-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def project(area: Path) -> Path:
    """A copy of the checkout."""
    return copy_project(area / "checkout")


@pytest.fixture(scope="session")
def store(area: Path) -> Store:
    """The session's store; ``KILN_TEST_STORE`` keeps one from session to session."""
    return Store(Path(os.environ.get("KILN_TEST_STORE") or area / "store"))


@pytest.fixture(scope="session")
def home(area: Path) -> Path:
    """A home folder, where the signing key is made."""
    folder = area / "home"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def session_kiln(
    engine: Engine, odapi: Locked, project: Path, store: Store, home: Path, area: Path
) -> Kiln:
    """The command with the session's store; its dist holds the sample and nothing else."""
    return Kiln(project, store.root, area / "dist", home, engine.address)


@pytest.fixture
def shared(session_kiln: Kiln, tmp_path: Path) -> Kiln:
    """The command with the session's store and an empty dist."""
    return session_kiln.but(dist=tmp_path / "dist")


@pytest.fixture
def fresh(session_kiln: Kiln, area: Path) -> Iterator[Kiln]:
    """The command with an empty store and an empty dist."""
    folder = Path(tempfile.mkdtemp(dir=area))
    yield session_kiln.but(dist=folder / "dist", store=folder / "store")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sample(session_kiln: Kiln) -> Sample:
    """``kiln build`` of the embedded sample, all variants."""
    session_kiln("build", SAMPLE).ok()
    return Sample(session_kiln, session_kiln.dist / SAMPLE)


@pytest.fixture(scope="session")
def samples(
    session_kiln: Kiln, sample: Sample, modelmaker: Locked, area: Path
) -> dict[str, Sample]:
    """``kiln build`` of every embedded sample, all variants."""
    kiln = session_kiln.but(dist=area / "samples")
    others = [name for name in SAMPLES if name != SAMPLE]
    kiln("build", *others, timeout=1200).ok()
    return {SAMPLE: sample, **{name: Sample(kiln, kiln.dist / name) for name in others}}


@pytest.fixture(scope="session")
def stages(engine: Engine, odapi: Locked, project: Path, store: Store, area: Path) -> Stages:
    """Runs any stage, and those in ``extra_stages``, in the sealed image."""
    code = area / "stages"
    shutil.copytree(project / "docker" / "stages", code)
    for path in EXTRA_STAGES.glob("*.py"):
        place = code / "steps" / path.name
        assert not place.exists(), f"{path.name} would hide a stage of the project"
        shutil.copy(path, place)
    recipe = load(project / "models" / "samples" / SAMPLE / "recipe.toml", project / "models")
    return Stages(engine, store, odapi, code, recipe)


@pytest.fixture(scope="session")
def lite_stages(stages: Stages, modelmaker: Locked) -> Stages:
    """Runs any stage, and those in ``extra_stages``, in the image with Model Maker."""
    return replace(stages, image=modelmaker)


@pytest.fixture(scope="session")
def device_stages(stages: Stages, device: Locked) -> Stages:
    """Runs any stage, and those in ``extra_stages``, in the image with today's runtimes."""
    return replace(stages, image=device)


@pytest.fixture(scope="session")
def stages_for(request: pytest.FixtureRequest, project: Path) -> Callable[[str], Stages]:
    """By a sample's name: the stages of its own image."""

    def choose(name: str) -> Stages:
        recipe = load(project / "models" / "samples" / name / "recipe.toml", project / "models")
        fixture = {"odapi": "stages", "modelmaker": "lite_stages"}[recipe.image]
        found: Stages = request.getfixturevalue(fixture)
        return found

    return choose


@pytest.fixture(scope="session")
def images_folder(project: Path) -> Path:
    """The sample images."""
    return project / "models" / "samples" / "images"


@pytest.fixture(scope="session")
def zoo_config(project: Path, area: Path) -> Path:
    """A ``pipeline.config`` of the zoo's kind: the sample's, with COCO's 90 class ids."""
    text = (project / "models" / "samples" / SAMPLE / "pipeline.config").read_text("utf-8")
    assert text.count("num_classes: 23") == 1
    path = area / "pipeline.config"
    path.write_text(text.replace("num_classes: 23", "num_classes: 90"))
    return path


@pytest.fixture(scope="session")
def _made_checkpoints(stages: Stages, zoo_config: Path) -> dict[str, dict[str, bytes]]:
    """Two model folders, made in one go: all of a model, and one that lacks its heads."""
    inputs = {"pipeline_config": zoo_config}
    ran = stages.run(
        Wanted("whole", "make_checkpoint", {"seed": 90}, inputs),
        Wanted("part", "make_checkpoint", {"seed": 90, "only": "_feature_extractor"}, inputs),
    )
    return {name: zoo.files_of(result, stages.store) for name, result in ran.items()}


@pytest.fixture(scope="session")
def zoo_files(_made_checkpoints: dict[str, dict[str, bytes]]) -> dict[str, bytes]:
    """A model folder of the zoo's kind, path to content, with seeded random weights."""
    return _made_checkpoints["whole"]


@pytest.fixture(scope="session")
def partial_files(_made_checkpoints: dict[str, dict[str, bytes]]) -> dict[str, bytes]:
    """The same, of which only the feature extractor was saved."""
    return _made_checkpoints["part"]


@pytest.fixture(autouse=True)
def _needs_engine(engine: Any) -> None:
    """Not one of these tests runs without an engine."""
