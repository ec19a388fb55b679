"""An engine that does not see this machine's files, as one on another machine.

The engine is the one at hand, through a TCP port. What it does not see is a store that lies in a
mount namespace of the command's own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from forwarded import forwarded
from support import SAMPLE, Kiln

from kiln.images.lock import Locked
from kiln.running.engine import Engine
from kiln.running.limits import Limits
from kiln.running.stage_user import stage_user

#: The command sees a file system of its own at its first argument; nobody else does.
APART = ("unshare", "--mount", "--propagation", "private", "sh", "-c",
         'mount -t tmpfs -o size=64g tmpfs "$0" && exec "$@"')  # fmt: skip


@pytest.fixture
def elsewhere(engine: Engine, odapi: Locked, session_kiln: Kiln, tmp_path: Path) -> Iterator[Kiln]:
    """The command with a store that its engine does not see, at a ``tcp:`` address."""
    if not engine.address.startswith("unix://"):
        pytest.skip(f"{engine.address} is not a socket of this machine")
    store = tmp_path / "store"
    store.mkdir()
    if subprocess.run([*APART, store, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace needs root")
    with forwarded(engine.address.removeprefix("unix://")) as address:
        yield session_kiln.but(
            engine=address, store=store, dist=tmp_path / "dist", prefix=(*APART, str(store))
        )


def test_doctor_says_so(elsewhere: Kiln) -> None:
    ended = elsewhere("doctor")
    assert ended.code == 21, ended.err
    assert f"{elsewhere.engine} does not see this machine's files" in ended.out, ended.out
    assert elsewhere.but(prefix=())("doctor").ok().out.count("sees those of this machine") == 1


def test_a_build_says_so_before_its_first_stage(elsewhere: Kiln) -> None:
    elsewhere("build", SAMPLE).refused(
        21, "does not see this machine's files", elsewhere.engine, "KILN_STORE"
    )
    # The engine made no folders for what it did not find.
    assert list(elsewhere.store.iterdir()) == []


def test_a_folder_of_any_name_is_mounted(engine: Engine, odapi: Locked, area: Path) -> None:
    # Podman's Docker API writes mounts as text with commas.
    folder = area / ("a: b 'c' é" if engine.is_podman else "a: b, 'c' é,source=x")
    folder.mkdir(mode=0o755)
    (folder / "file").write_text("what is in it")
    said = bytearray()
    outcome = engine.run(
        odapi.tag,
        ("cat", "/in/file"),
        mounts={folder: ("/in", "ro")},
        environment={},
        limits=Limits(timeout=60),
        on_stdout=said.extend,
        user=":".join(map(str, stage_user(rootless=engine.rootless))),
    )
    assert (outcome.exit_code, said) == (0, b"what is in it"), outcome.log
