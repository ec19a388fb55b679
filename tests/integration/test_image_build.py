"""Images built in one container: the same as by the engine's own builder, and nothing is left."""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import wait_until
from places import ROOT

from kiln.core.errors import ImageBuildError
from kiln.core.later import finish
from kiln.core.lease import owner_tag
from kiln.core.store import Store
from kiln.images import builder, transfer
from kiln.images.builder import Built, Images
from kiln.images.container import BuildContainer, UnsuitableEngineError
from kiln.images.dockerfile import Recipe
from kiln.images.listing import listed
from kiln.images.lock import Locked, locked_image
from kiln.images.seal import Sealer
from kiln.running.engine import OWNER_LABEL, Engine

DOCKERFILE = """\
ARG BASE=tflite-kiln/base:local
FROM ${BASE}
ARG OWNER=
LABEL org.tflite-kiln.owner="${OWNER}"
COPY . /build/
RUN ["/usr/bin/python3", "-B", "/build/install.py", "one"]
ENV SMALL=1
WORKDIR /opt/small
RUN ["/usr/bin/python3", "-B", "/build/install.py", "two"]
RUN ["/bin/rm", "-rf", "/build"]
CMD ["/bin/true"]
"""

#: Writes what the sealing has to put in order.
INSTALL = """\
import os, pathlib, sys
if sys.argv[1] == "one":
    opt = pathlib.Path("/opt/things")
    opt.mkdir(parents=True)
    (opt / "z").write_text("linked")
    os.link(opt / "z", opt / "a")
    (opt / "mine").write_text("x")
    os.chown(opt / "mine", 1000, 1000)
    (opt / "mine").chmod(0o4750)
    pathlib.Path("/tmp/left").write_text("x")
else:
    pathlib.Path("here").write_text(os.environ["SMALL"] + os.getcwd())
"""


def on(engine: Engine, docker: Path = ROOT / "docker") -> Images:
    return Images(docker, lambda: engine, Store(Store.default_root()))


@pytest.fixture
def by_the_engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on, the engine seems not to see this machine's folders."""

    def refuse(*_: Any, **how: Any) -> Any:
        raise UnsuitableEngineError

    return lambda: monkeypatch.setattr(builder, "BuildContainer", refuse)


def left(engine: Engine) -> dict[str, set[str]]:
    """What this process has in the engine."""
    containers = engine.client.containers.list(
        all=True, filters={"label": OWNER_LABEL}, ignore_removed=True
    )
    found = {
        "containers": containers,
        "images": listed(engine, intermediate=True, label=OWNER_LABEL),
    }
    mine = owner_tag()
    return {
        kind: {item.id for item in items if item.labels.get(OWNER_LABEL, "").startswith(mine)}
        for kind, items in found.items()
    }


def orphans(engine: Engine) -> set[str]:
    """Layers of containers that are gone, where the engine's storage can be seen from here."""
    info = engine.client.info()
    place = Path(info["DockerRootDir"]) / "image" / info["Driver"] / "layerdb" / "mounts"
    with contextlib.suppress(OSError):
        kept = {path.name for path in place.iterdir()}
        return kept - {item["Id"] for item in engine.client.api.containers(all=True)}
    return set()


@pytest.mark.parametrize(
    "name",
    ["base", *(pytest.param(name, marks=pytest.mark.nightly)
               for name in ("device", "modelmaker", "odapi"))],
)  # fmt: skip
def test_both_ways_make_the_locked_image(
    name: str, engine: Engine, by_the_engine: Callable[[], None]
) -> None:
    locked, before = locked_image(ROOT / "docker", name), orphans(engine)
    direct = on(engine).build(name, keep=False)
    by_the_engine()
    other = on(engine).build(name, keep=False)
    assert direct.sealed == other.sealed
    assert direct.sealed.identity == locked.identity
    assert finish(120)
    assert left(engine) == {"containers": set(), "images": set()}
    wait_until(lambda: orphans(engine) <= before, pause=0.5)


class Small:
    """A small image on the base image, which nobody else uses."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.engine, self.docker = engine, folder / "docker"
        self.name = f"small-{uuid.uuid4().hex[:12]}"
        (self.docker / self.name).mkdir(parents=True)
        shutil.copytree(ROOT / "docker" / "base", self.docker / "base")
        for name in ("install.py", "images.lock"):
            shutil.copy(ROOT / "docker" / name, self.docker)
        text = (ROOT / "docker" / "images.toml").read_text().partition("[odapi]")[0]
        (self.docker / "images.toml").write_text(
            f'{text}[{self.name}]\nparent = "base"\nfiles = ["{self.name}/install.py"]\n'
        )
        (self.docker / self.name / "Dockerfile").write_text(DOCKERFILE)
        self.install(f"# {self.name}\n{INSTALL}")

    def install(self, program: str) -> None:
        (self.docker / self.name / "install.py").write_text(program)

    def build(self, **how: Any) -> Built:
        return on(self.engine, self.docker).build(self.name, **how)

    def held(self, built: Built) -> bool:
        return transfer.present(self.engine, Locked.of(self.name, built.sealed, built.recipe))


@pytest.fixture
def small(tmp_path: Path, engine: Engine) -> Iterator[Small]:
    made = Small(tmp_path, engine)
    yield made
    for tag in transfer.tags(engine, f"tflite-kiln/{made.name}"):
        transfer.discard(engine, tag)


def test_a_verification_loads_nothing_and_a_build_loads_it(
    small: Small, engine: Engine, by_the_engine: Callable[[], None]
) -> None:
    before = orphans(engine)
    verified = small.build(keep=False)
    assert not small.held(verified)
    built = small.build()
    assert small.held(built)
    assert built.sealed == verified.sealed
    facts = {fact.path: fact for fact in built.sealed.contents}
    assert (facts["opt/things/a"].kind, facts["opt/things/z"].kind) == ("f", "h")
    assert (facts["opt/things/mine"].owner, facts["opt/things/mine"].mode) == ("1000:1000", 0o4750)
    assert facts["opt/small/here"].size == len("1/opt/small")
    assert not {"build", "tmp/left", "out/layer"} & facts.keys()

    # What the engine holds is that, read out by another way.
    tag = f"tflite-kiln/{small.name}:{built.sealed.short}"
    with transfer.exported(engine, tag, small.docker) as (file, settings):
        sealer = Sealer(file, settings, epoch=1735689600, repository="x")
        for _ in sealer.archive():
            pass
    assert sealer.sealed == built.sealed

    transfer.discard(engine, tag)
    by_the_engine()
    assert small.build().sealed == built.sealed
    assert small.held(built)
    finish(60)
    transfer.discard(engine, tag)
    assert left(engine) == {"containers": set(), "images": set()}
    wait_until(lambda: orphans(engine) <= before, pause=0.5)


def test_a_step_that_fails_says_so(small: Small, engine: Engine) -> None:
    small.install("import sys\nprint('about to fail')\nsys.exit('no such thing')\n")
    with pytest.raises(ImageBuildError) as caught:
        small.build()
    assert "no such thing" in caught.value.message
    assert "about to fail" in caught.value.message
    finish(60)
    wait_until(lambda: left(engine)["containers"] == set(), pause=0.2)


def test_the_installer_s_names_stay_as_they_were(engine: Engine) -> None:
    """The module beside the installer adds no name to Python's: ``.pyc`` files would change."""
    module = (ROOT / "scripts/kiln/images/parallel_compileall.py").read_text()
    words = sorted(_names(compile(module, "x", "exec")))
    program = (
        "import argparse, compileall, csv, os, pathlib, py_compile, shutil, subprocess, sys\n"
        "import zipfile\n"
        f"for word in {' '.join([*words, 'surely-new'])!r}.split():\n"
        "    word = ''.join(list(word))\n"
        "    if sys.intern(word) is word:\n"
        "        print(word)\n"
    )
    tag = on(engine).ensure("base").tag
    said = engine.client.containers.run(
        tag, ["/usr/bin/python3", "-B", "-c", program], network_mode="none", remove=True
    )
    assert said.decode().split() == ["surely-new"]


def _names(code: Any) -> set[str]:
    found = {code.co_name, *code.co_names, *code.co_varnames, *code.co_cellvars}
    for constant in code.co_consts:
        if isinstance(constant, str) and constant.isidentifier():
            found.add(constant)
        elif isinstance(constant, tuple):
            found |= {item for item in constant if isinstance(item, str)}
        elif hasattr(constant, "co_names"):
            found |= _names(constant)
    return {name for name in found if name.isidentifier()}


def test_reading_out_leaves_a_whole_tar(small: Small, engine: Engine) -> None:
    tag = on(engine).ensure("base").tag
    with transfer.exported(engine, tag, small.docker) as (file, _):
        with tarfile.open(fileobj=file) as tar:
            assert any(info.name.endswith("usr/bin/python3") for info in tar)
        file.seek(-1024, io.SEEK_END)
        assert file.read() == bytes(1024)


def test_an_engine_that_does_not_see_our_folders(engine: Engine, tmp_path: Path) -> None:
    """As one on another machine, where the folder that is to be mounted does not exist."""
    (tmp_path / "pipes").mkdir()
    with pytest.raises(UnsuitableEngineError):
        BuildContainer(
            engine, "base", Recipe(rootfs=False), image=on(engine).ensure("base").tag,
            folder=tmp_path / "elsewhere", pipes=tmp_path / "pipes", limits=None, until=None,
            on_step=print,
        ).__enter__()  # fmt: skip
    assert left(engine)["containers"] == set()
