"""A stranger's release: which images are run, and which definitions are built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from toy_engine import ToyEngine, serve
from toy_project import SEALED, make_project
from toy_reproduce import Machine, ToyRelease

from kiln.core.digest import sha256_bytes
from kiln.core.errors import CannotReproduceError, ImageBuildError, ImageMismatchError
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.images.definition import recipe_digest
from kiln.images.lock import write_lock
from kiln.project.folders import Project
from kiln.reproduce.images import RecordedImages
from kiln.running.engine import Engine


@pytest.fixture
def toy_engine() -> Iterator[ToyEngine]:
    with serve() as found:
        yield found


@dataclass
class Wanting:
    """A machine whose engine holds nothing, and a release's ``docker/``."""

    engine: ToyEngine
    theirs: Project
    root: Path
    notes: list[str] = field(default_factory=list)

    def images(self, **options: Any) -> RecordedImages:
        def tell(event: str, **fields: Any) -> None:
            if event == "note":
                self.notes.append(fields["message"])

        found = Engine.find()
        return RecordedImages(lambda: found, Store(self.root / "store"), tell, **options)

    def bring(self, **options: Any) -> str:
        return self.images(**options).bring(self.theirs.docker, "odapi").tag

    def built(self) -> bool:
        return any(path.endswith("/build") for path in self.engine.posted)


@pytest.fixture
def wanting(toy_engine: ToyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wanting:
    monkeypatch.setenv("DOCKER_HOST", toy_engine.address)
    monkeypatch.delenv("KILN_IMAGE_REGISTRY", raising=False)
    return Wanting(toy_engine, make_project(tmp_path / "theirs"), tmp_path)


def relocked(project: Project) -> None:
    """Locked anew after an edit, to the same identity."""
    write_lock(project.docker, "odapi", SEALED, recipe_digest(project.docker, "odapi"))


def test_a_stranger_s_dockerfile_is_not_built(wanting: Wanting, tmp_path: Path) -> None:
    with pytest.raises(CannotReproduceError, match="not in the engine"):
        wanting.bring()
    other = make_project(tmp_path / "checkout")
    (other.docker / "install.py").write_text("print('another version')\n")
    relocked(other)
    with pytest.raises(CannotReproduceError, match="this checkout's definitions are not those"):
        wanting.bring(checkout=other)
    assert wanting.engine.posted == []


def test_an_image_that_the_engine_holds_is_taken(wanting: Wanting) -> None:
    images = Images(wanting.theirs.docker, Engine.find, Store(wanting.root / "s"))
    tag = f"tflite-kiln/odapi:{SEALED.identity[7:23]}"
    wanting.engine.images[tag] = {"Id": "x", "RootFS": {"Layers": [SEALED.layer]}}
    assert wanting.bring() == tag == images.ensure("odapi").tag
    wanting.engine.images[tag] = {"Id": "x", "RootFS": {"Layers": ["sha256:" + "c" * 64]}}
    with pytest.raises(CannotReproduceError):
        wanting.bring()


def test_this_checkout_s_own_definitions_are_built(wanting: Wanting, tmp_path: Path) -> None:
    """The same recipe, locked to the same identity. (The toy builds nothing, but it was asked.)"""
    checkout = make_project(tmp_path / "checkout")
    with pytest.raises(Exception, match="not in this toy"):
        wanting.bring(checkout=checkout)
    assert wanting.built()
    assert any("this checkout's definitions" in note for note in wanting.notes)


@pytest.mark.parametrize("what", ["identity", "recipe"])
def test_a_lie_about_our_recipe_builds_nothing(wanting: Wanting, tmp_path: Path, what: str) -> None:
    """Their lock names our recipe for another identity, or our identity for another recipe."""
    checkout = make_project(tmp_path / "checkout")
    if what == "identity":
        config = SEALED.config.replace(b"}", b',"evil":1}', 1)
        other = replace(SEALED, config=config, identity=f"sha256:{sha256_bytes(config)}")
        write_lock(wanting.theirs.docker, "odapi", other,
                   recipe_digest(checkout.docker, "odapi"))  # fmt: skip
    else:
        write_lock(wanting.theirs.docker, "odapi", SEALED, "e" * 64)
    with pytest.raises(CannotReproduceError):
        wanting.bring(checkout=checkout)
    assert wanting.engine.posted == []


DOCKERFILE = 'FROM scratch\nARG OWNER=\nLABEL org.tflite-kiln.owner="${OWNER}"\nCOPY . /build/\n'


def test_only_a_person_s_word_builds_it(wanting: Wanting) -> None:
    (wanting.theirs.docker / "odapi" / "Dockerfile").write_text(DOCKERFILE)
    relocked(wanting.theirs)
    with pytest.raises(CannotReproduceError):
        wanting.bring()
    assert not wanting.built()
    with pytest.raises(Exception, match="not in this toy"):
        wanting.bring(strangers=True)
    assert wanting.built()
    assert any("as you asked" in note for note in wanting.notes)


@pytest.mark.parametrize(
    "line", ["ADD http://127.0.0.1:1/x /x", "RUN id", 'RUN ["/bin/sh", "-c", "id"]', "USER 0"]
)
def test_and_not_even_that_where_it_does_what_ours_do_not(wanting: Wanting, line: str) -> None:
    (wanting.theirs.docker / "odapi" / "Dockerfile").write_text(f"{DOCKERFILE}{line}\n")
    relocked(wanting.theirs)
    with pytest.raises(ImageBuildError, match="Dockerfile of the image 'odapi' has an instruction"):
        wanting.bring(strangers=True)
    assert wanting.engine.posted == []


def test_files_that_no_image_of_ours_is_built_from(wanting: Wanting) -> None:
    docker = wanting.theirs.docker
    (docker / "odapi" / "Dockerfile").write_text(DOCKERFILE)
    (docker / "install.py").write_bytes(bytes(2 << 20))
    relocked(wanting.theirs)
    with pytest.raises(ImageBuildError, match=r"install\.py of the image 'odapi' is larger"):
        wanting.bring(strangers=True)
    (docker / "install.py").unlink()
    with pytest.raises(ImageBuildError, match=r"lacks install\.py"):
        wanting.bring(strangers=True)
    (docker / "install.py").symlink_to("/etc/passwd")
    with pytest.raises(ImageBuildError, match="symbolic link"):
        wanting.bring(strangers=True)
    assert wanting.engine.posted == []


def test_definitions_that_are_not_what_was_locked(wanting: Wanting) -> None:
    (wanting.theirs.docker / "odapi" / "Dockerfile").write_text(DOCKERFILE)
    with pytest.raises(ImageMismatchError, match="have changed"):
        wanting.bring(strangers=True)
    assert wanting.engine.posted == []


def test_what_would_help_is_said(release: ToyRelease, machine: Machine, wanting: Wanting) -> None:
    release.write()
    reproducer = machine.reproducer()
    images = wanting.images()
    reproducer._image = lambda docker, name: images.bring(docker, name).tag  # type: ignore[method-assign]
    (verdict, _) = reproducer.run(release.read())
    assert verdict.outcome == "cannot be rebuilt"
    said = "\n".join(verdict.lines())
    for way in ("--image", "--bundle", "KILN_IMAGE_REGISTRY", "a checkout of git+https://code",
                "--build-strangers-image"):  # fmt: skip
        assert way in said
    assert not machine.door.calls


def test_no_release_s_definitions_are_built_for_a_bundle(wanting: Wanting) -> None:
    engine = Engine.find()
    images = Images(
        wanting.theirs.docker, lambda: engine, Store(wanting.root / "s"), may_build=False
    )
    with pytest.raises(ImageMismatchError, match="not built from them"):
        images.ensure("odapi")
    assert wanting.engine.posted == []
