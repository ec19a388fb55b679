from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from kiln.core.errors import SourceUnavailableError, UsageError
from kiln.core.store import Store
from kiln.running.engine import Engine
from proofs.variations.emulation import (
    PROGRAMS,
    Emulator,
    emulated,
    find_emulator,
    is_static,
    one_core,
)


@pytest.fixture
def engine() -> Engine:
    """An engine nobody listens at: launchers are made without one."""
    return Engine(
        "tcp://127.0.0.1:1", docker.DockerClient(base_url="tcp://127.0.0.1:1", version="1.41")
    )


@pytest.fixture
def emulator() -> Emulator:
    found = [path for name in PROGRAMS if (path := shutil.which(name)) and is_static(Path(path))]
    if not found:
        pytest.skip("no statically linked qemu-x86_64 is installed")
    return Emulator(Path(found[0]), "installed")


def elf(*kinds: int, size: int = 56, bits: bytes = b"\x02") -> bytes:
    """A program whose headers are of these types."""
    head = struct.pack(
        "<4s12sHHIQQQIHHHHHH",
        b"\x7fELF",
        bits + b"\x01\x01" + bytes(9),
        *(2, 62, 1, 0, 64, 0, 0, 64, size, len(kinds), 0, 0, 0),
    )
    return head + b"".join(kind.to_bytes(4, "little") + bytes(size - 4) for kind in kinds)


@pytest.mark.parametrize(
    ("data", "static"),
    [
        (elf(1, 1, 4), True),
        (elf(1, 2, 4), True),  # static-pie: a dynamic section, no interpreter
        (elf(6, 3, 1, 1, 2), False),
        (elf(1, 1, 3), False),  # the last header counts, too
        (elf(1, 1, bits=b"\x01"), False),  # 32 bits
        (b"#!/bin/sh\n", False),
        (b"", False),
    ],
)
def test_a_static_program_names_no_loader(tmp_path: Path, data: bytes, static: bool) -> None:
    path = tmp_path / "program"
    path.write_bytes(data)
    assert is_static(path) is static


def test_one_core_keeps_the_interpreter_and_its_children_on_one_core(
    tmp_path: Path, engine: Engine
) -> None:
    one_core(engine, tmp_path / "launcher")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    count = "import os; print(len(os.sched_getaffinity(0)))"
    both = f"{count}; import subprocess, sys; subprocess.run([sys.executable, '-c', {count!r}])"
    done = subprocess.run(
        [tmp_path / "launcher" / "python", "-u", "-c", both],
        env={**os.environ, "PATH": f"{programs}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", "1"]


@pytest.mark.parametrize("cpu", ["NoSuchProcessor", "", "Haswell; true", "-h", "Haswell\ntrue"])
def test_an_unknown_processor_is_refused(
    tmp_path: Path, engine: Engine, emulator: Emulator, cpu: str
) -> None:
    with pytest.raises(UsageError, match="cannot emulate"):
        emulated(engine, emulator, cpu, tmp_path / "launcher")
    assert not (tmp_path / "launcher").exists()


def test_an_emulating_launcher_holds_the_emulator_and_starts_both_interpreters(
    tmp_path: Path, engine: Engine, emulator: Emulator
) -> None:
    folder = tmp_path / "launcher"
    stored = tmp_path / "stored"  # as the store keeps it: not executable
    stored.write_bytes(emulator.program.read_bytes())
    stored.chmod(0o444)
    emulated(engine, Emulator(stored, emulator.version), "Haswell,-fma", folder)
    assert {path.name for path in folder.iterdir()} == {"qemu", "python", "metadata-python"}
    assert all(os.access(path, os.X_OK) for path in folder.iterdir())
    assert (folder / "qemu").read_bytes() == emulator.program.read_bytes()
    for name in ("python", "metadata-python"):
        assert "/kiln/launcher/qemu -cpu Haswell,-fma " in (folder / name).read_text()


def test_no_emulator_and_no_apt_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceUnavailableError) as caught:
        find_emulator(Store(tmp_path / "store"))
    assert "qemu-user-static" in caught.value.remedy


def test_apt_that_cannot_fetch_gives_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("apt-get", "dpkg-deb"):
        script = programs / name
        script.write_text("#!/bin/sh\necho 'E: Unable to locate package x' >&2\nexit 100\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(SourceUnavailableError, match="Unable to locate package x"):
        find_emulator(Store(tmp_path / "store"))
