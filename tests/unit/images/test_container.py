"""What a build container says through its pipe, and the folder that it reads."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiln.core.errors import ImageBuildError
from kiln.images.container import Layer, _Pipe, lay_out
from kiln.images.dockerfile import Recipe
from kiln.images.seal import MAX_CONTENTS, MAX_SIZE, FileFact

FACT = FileFact("bin/x", "f", 0o755, "0:0", 3, "0123456789abcdef")
LISTED = FACT.line().encode() + b"\n"
LAYER = bytes(range(256)) * 9000  # more than a pipe holds


class Said:
    """A pipe that somebody writes ``data`` into and closes."""

    def __init__(self, folder: Path, data: bytes | None) -> None:
        self.pipe = _Pipe(folder / "layer", lambda: self.writer.is_alive())
        self.ended = 0

        def write() -> None:
            if data is not None:
                with (folder / "layer").open("wb") as out:
                    out.write(data)

        self.writer = threading.Thread(target=write, daemon=True)
        self.writer.start()

    def end(self) -> None:
        self.ended += 1

    def layer(self) -> Layer:
        assert self.pipe.line() == b"hello\n"
        return Layer(self.pipe, self.pipe.number(MAX_SIZE), self.end)


def whole(layer: bytes = LAYER, listed: bytes = LISTED) -> bytes:
    return b"hello\n%d\n%s%d\n%s" % (len(layer), layer, len(listed), listed)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "pipes"
    made.mkdir()
    yield made


def test_the_layer_comes_out_as_it_went_in(folder: Path) -> None:
    said = Said(folder, whole())
    layer = said.layer()
    assert layer.size == len(LAYER)
    assert b"".join(layer.chunks()) == LAYER
    assert layer.digest == f"sha256:{hashlib.sha256(LAYER).hexdigest()}"
    assert layer.contents == (FACT,)
    assert said.ended == 1


@pytest.mark.parametrize("length", [6, 8, 14, 20_000, len(whole()) - 60, len(whole()) - 1])
def test_cut_anywhere_it_is_refused(folder: Path, length: int) -> None:
    said = Said(folder, whole()[:length])
    with pytest.raises(ImageBuildError, match="in the middle"):
        list(said.layer().chunks())
    assert said.ended == 0


def test_a_writer_that_never_comes(folder: Path) -> None:
    assert Said(folder, None).pipe.line() == b""


def test_a_writer_that_is_late(folder: Path) -> None:
    pipe = _Pipe(folder / "layer", lambda: True)
    assert pipe.line(patience=0.1) == b""


@pytest.mark.parametrize(
    "size", [b"x", b"-1", b"", b"1e3", b"9" * 21, b"9" * 300, b"%d" % (MAX_SIZE + 1), "²".encode()]
)
def test_sizes_that_are_none(folder: Path, size: bytes) -> None:
    said = Said(folder, b"hello\n" + size + b"\n" + LAYER)
    with pytest.raises(ImageBuildError):
        said.layer()


@pytest.mark.parametrize(
    ("length", "listed"), [(MAX_CONTENTS + 1, b"x"), (3, b"x\ty"), (3, b"\xff\xff\xff")]
)
def test_lists_that_are_none(folder: Path, length: int, listed: bytes) -> None:
    said = Said(folder, b"hello\n3\nabc%d\n" % length + listed)
    with pytest.raises(ImageBuildError):
        list(said.layer().chunks())


@pytest.fixture
def context(tmp_path: Path) -> Path:
    made = tmp_path / "context"
    (made / "wheels").mkdir(parents=True)
    (made / "wheels" / "a.whl").write_text("a")
    (made / "install.py").write_text("installs")
    return made


def laid_out(context: Path, *copies: tuple[str, str]) -> dict[str, str]:
    folder = context.parent / "inputs"
    lay_out(Recipe(rootfs=False, copies=copies), context, folder)
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "compileall.py"
    }


def test_all_of_the_context(context: Path) -> None:
    assert laid_out(context, (".", "")) == {"install.py": "installs", "wheels/a.whl": "a"}


def test_parts_of_the_context(context: Path) -> None:
    copies = (("install.py", "install.py"), ("install.py", "other/"), ("wheels", "deep/wheels"))
    assert laid_out(context, *copies) == {
        "install.py": "installs", "other/install.py": "installs", "deep/wheels/a.whl": "a",
    }  # fmt: skip


def test_an_installer_s_own_module_stays(context: Path) -> None:
    (context / "compileall.py").write_text("theirs")
    folder = context.parent / "inputs"
    lay_out(Recipe(rootfs=False, copies=((".", ""),)), context, folder)
    assert (folder / "compileall.py").read_text() == "theirs"


@pytest.mark.parametrize(
    "copies",
    [
        [("gone", "gone")],
        [("install.py", "x"), ("install.py", "x")],
        [("install.py", "x"), ("wheels", "x")],
        [("install.py", "x"), ("install.py", "x/y")],
    ],
)
def test_copies_that_cannot_be(context: Path, copies: list[tuple[str, str]]) -> None:
    with pytest.raises(ImageBuildError, match="not possible"):
        laid_out(context, *copies)
