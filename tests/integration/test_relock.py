"""Images recorded anew, with two small ones in the place of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kiln.core.errors import ImageMismatchError
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.images.listing import listed
from kiln.images.lock import locked_image, read_lock
from kiln.images.relock import Relocked, relock
from kiln.running.engine import Engine

DOCKERFILE = """\
{head}
ARG OWNER=
LABEL org.tflite-kiln.owner="${{OWNER}}"
COPY {file} /opt/{file}
"""
NAMES = PARENT, CHILD = ("relock-parent", "relock-child")


@pytest.fixture
def docker(tmp_path: Path, engine: Engine) -> Any:
    """The definitions of an image and of one that starts from it."""
    folder = tmp_path / "docker"
    heads = ("FROM scratch", "ARG BASE\nFROM ${BASE}")
    for name, head, file in zip(NAMES, heads, ("first.txt", "second.txt"), strict=True):
        (folder / name).mkdir(parents=True)
        (folder / name / "Dockerfile").write_text(DOCKERFILE.format(head=head, file=file))
        (folder / file).write_text("first\n")
    (folder / "images.toml").write_text(
        f'[{PARENT}]\nfiles = ["first.txt"]\n'
        f'[{CHILD}]\nparent = "{PARENT}"\nfiles = ["second.txt"]\n'
    )
    yield folder
    for name in NAMES:
        for image in listed(engine, reference=f"tflite-kiln/{name}"):
            engine.client.images.remove(image.id, force=True)


def run(docker: Path, engine: Engine, *names: str, **how: Any) -> list[Relocked]:
    store = Store(docker.parent / "store")
    on_event = how.pop("on_event", lambda event, **fields: None)
    images = Images(docker, lambda: engine, store, on_event)
    return list(relock(images, names or NAMES, **how))


def test_relock(docker: Path, engine: Engine) -> None:
    first, second = run(docker, engine)
    assert (first.before, second.before) == ("", "")
    assert (first.changes, second.changes) == ((), ())  # all of it is new
    assert first.stale == ()  # the other one follows
    again = run(docker, engine)
    assert [item.same for item in again] == [True, True]
    assert [(item.changes, item.stale) for item in again] == [((), ()), ((), ())]

    (docker / "first.txt").write_text("first, changed\n")
    (changed,) = run(docker, engine, PARENT)
    assert changed.before == first.locked.identity != changed.locked.identity
    assert changed.changes == ("/opt: 1 changed (+9 bytes)",)
    assert changed.stale == (CHILD,)
    with pytest.raises(ImageMismatchError):
        locked_image(docker, CHILD)
    (after,) = run(docker, engine, CHILD)
    assert after.changes == ("/opt: 1 changed (+9 bytes)",)
    assert locked_image(docker, CHILD) == after.locked

    (docker / "first.txt").write_text("once more\n")  # its parent comes with it
    assert [item.locked.name for item in run(docker, engine, CHILD, once=True)] == [*NAMES]


def test_builds_that_differ_are_not_recorded(docker: Path, engine: Engine) -> None:
    run(docker, engine, PARENT, once=True)
    before = read_lock(docker)
    count = []

    def between(event: str, **fields: Any) -> None:
        if fields.get("phase") == "done":
            count.append(event)
            (docker / "first.txt").write_text(f"another {len(count)}\n")

    with pytest.raises(ImageMismatchError, match=r"/opt/first\.txt: size 6 -> 10, content"):
        run(docker, engine, PARENT, on_event=between)
    assert len(count) == 2
    assert read_lock(docker) == before
