"""SavedModels whose graphs read, write and connect: what they reach in the real container."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import Kiln, Stages, Wanted

from kiln.core.errors import StageTimeoutError
from kiln.core.stage_result import StageResult

LABEL_MAP = "item { id: 1 name: 'cat' }\n"


@pytest.fixture(scope="module")
def canary(area: Path) -> Path:
    """A file of this machine that every user may read."""
    path = area / "canary"
    path.write_bytes(b"secret of the host")
    path.chmod(0o666)
    return path


@pytest.fixture(scope="module")
def counting() -> Iterator[tuple[int, list[object]]]:
    """A server on this machine's loopback: its port, and who has called."""
    called: list[object] = []
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, who = server.accept()
            except OSError:
                return
            called.append(who)
            connection.close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield server.getsockname()[1], called
    server.close()


@pytest.fixture(scope="module")
def cases(canary: Path, stages: Stages) -> dict[str, tuple[str, str]]:
    """What each graph does, and with what."""
    host = str(canary)
    return {
        "nothing": ("nothing", ""),
        "read-host": ("read", host),
        "read-store": ("read", str(stages.store.root)),
        "read-engine": ("read", "/var/run/docker.sock"),
        "read-root": ("read", "/root/.bashrc"),
        "read-request": ("read", "/in/request.json"),
        "read-image": ("read", "/etc/debian_chroot"),
        "read-processor": ("read", "/proc/cpuinfo"),
        "read-host-name": ("read", "/proc/sys/kernel/hostname"),
        "write-host": ("write", host),
        "write-request": ("write", "/in/request.json"),
        "write-input": ("write", "/in/evil"),
        "write-code": ("write", "/kiln/stages/evil.py"),
        "write-image": ("write", "/usr/bin/evil"),
        "write-process": ("write", "/proc/sys/kernel/core_pattern"),
        "write-out": ("write", "/out/evil"),
        "write-loading": ("write while loading", "/out/evil-loading"),
        "write-in-loading": ("write while loading", "/in/evil-loading"),
        "match-host": ("match", f"{canary.parent}/*"),
        "match-home": ("match", "/home/*"),
        "restore-host": ("restore", host),
        "store-host": ("store", f"{host}-saved"),
        "store-code": ("store", "/kiln/stages/evil"),
        "call": ("call", "/out/evil-called"),
    }


@pytest.fixture(scope="module")
def made(stages: Stages, cases: dict[str, tuple[str, str]]) -> StageResult:
    """The SavedModels, made in a container of their own: nothing of it lives in the next one."""
    params = {"cases": {name: list(case) for name, case in cases.items()}}
    return stages.run(Wanted("made", "hostile_saved_models", params, {}))["made"]


def laid_out(stages: Stages, result: StageResult, target: Path) -> Path:
    stages.store.materialize(result.files, target, link=False)
    return target


@pytest.fixture(scope="module")
def used(stages: Stages, made: StageResult, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the stages make of each."""
    place = tmp_path_factory.mktemp("hostile")
    label_map = place / "labels.pbtxt"
    label_map.write_text(LABEL_MAP)
    inputs = {"models": laid_out(stages, made, place / "models"), "label_map": label_map}
    return stages.run(Wanted("used", "hostile_saved_models_used", {}, inputs))["used"]


def test_a_harmless_one_works(used: StageResult) -> None:
    """So that what is refused below is refused for what it does."""
    assert used.facts["nothing"] == {
        "taken": "", "loaded": "", "run": "", "converted": "", "told": [0] * 16,
        "left": [],
    }  # fmt: skip


def test_a_checkpoint_holds_no_operations(made: StageResult, stages: Stages) -> None:
    """Of the same objects, whose SavedModel does."""

    def holds(path: str) -> bool:
        return b"WriteFile" in stages.store.path(made.files[path].sha256).read_bytes()

    checkpoint = [path for path in made.files if path.startswith("write-out/training/ckpt")]
    assert len(checkpoint) == 2
    assert holds("write-out/saved_model.pb") and not any(holds(path) for path in checkpoint)


@pytest.mark.parametrize("name", ["read-host", "read-store", "read-engine", "read-root"])
def test_no_file_of_this_machine_is_read(used: StageResult, name: str) -> None:
    found = used.facts[name]
    assert "NotFound" in found["run"] or "PermissionDenied" in found["run"], found
    assert found["told"] == []


def test_what_it_may_read(used: StageResult) -> None:
    """Its own inputs, and the image, which is the same everywhere."""
    assert bytes(used.facts["read-request"]["told"]).startswith(b'{"protocol": 1')
    assert bytes(used.facts["read-image"]["told"]).startswith(b"kiln\n")


@pytest.mark.parametrize(
    "name", ["write-request", "write-input", "write-code", "write-image", "write-process",
             "store-code", "call", "write-in-loading"],
)  # fmt: skip
def test_no_inputs_code_image_or_kernel_is_written(used: StageResult, name: str) -> None:
    assert used.facts[name]["run"] != "", used.facts[name]


def test_nothing_of_this_machine_is_written(used: StageResult, canary: Path) -> None:
    """Where it could write, it wrote into a scratch folder of its own."""
    assert canary.read_bytes() == b"secret of the host"
    assert sorted(path.name for path in canary.parent.glob("canary*")) == ["canary"]


def test_its_own_output_is_all_that_it_can_leave(used: StageResult) -> None:
    """And of that only what lies among the stage's files is taken."""
    assert used.facts["write-out"]["run"] == ""
    assert used.facts["write-loading"]["loaded"] == ""
    assert not any("evil" in path.rpartition("/")[2] for path in used.files)


@pytest.mark.parametrize("name", ["match-host", "match-home"])
def test_no_folder_of_this_machine_is_listed(used: StageResult, name: str) -> None:
    assert used.facts[name]["run"] == ""
    assert used.facts[name]["told"][0] == 0, used.facts[name]


def test_the_converter_reads_but_writes_nothing(used: StageResult, stages: Stages) -> None:
    """It computes what is constant: a file that a graph can read ends up in the artefact."""
    for name in ("read-image", "read-request"):
        found = used.facts[name]
        assert "ReadFile" not in found["left"]
        constant = b"".join(struct.pack("<f", number / 255) for number in found["told"][:5])
        path = stages.store.path(used.files[f"{name}/model.tflite"].sha256)
        assert constant in path.read_bytes()
    # What it cannot do, or must not do twice, it leaves to a runtime; none knows it.
    assert "ReadFile" in used.facts["read-host"]["left"]
    for name, found in used.facts.items():
        if name.startswith("write-") and "loading" not in name:
            assert "WriteFile" in found["left"], name
    assert "PyFunc" in used.facts["call"]["left"]
    # A loader's initialisation it runs.
    assert "Read-only file system" in used.facts["write-in-loading"]["converted"]


def test_what_the_kernel_says_to_every_process_is_read(used: StageResult) -> None:
    """That is no file, but it is about this machine: docs/trust.md says so."""
    assert bytes(used.facts["read-processor"]["told"]).startswith(b"processor")
    assert bytes(used.facts["read-host-name"]["told"]).startswith(b"kiln\n")


def test_no_checkpoint_elsewhere_is_restored(used: StageResult) -> None:
    assert "NotFound" in used.facts["restore-host"]["run"]


def test_nobody_is_called(
    stages: Stages, counting: tuple[int, list[object]], tmp_path: Path
) -> None:
    """TensorFlow tries for an hour; the stage's own limit ends it, and nobody was called."""
    port, called = counting
    case = {"cases": {"connect": ["connect", f"127.0.0.1:{port}"]}}
    result = stages.run(Wanted("made", "hostile_saved_models", case, {}))["made"]
    models = laid_out(stages, result, tmp_path / "models")
    (tmp_path / "labels.pbtxt").write_text(LABEL_MAP)
    recipe = stages.recipe.model_copy(
        update={"limits": stages.recipe.limits.model_copy(update={"timeout": 40})}
    )
    wanted = Wanted(
        "used", "hostile_saved_models_used", {},
        {"models": models, "label_map": tmp_path / "labels.pbtxt"},
    )  # fmt: skip
    with pytest.raises(StageTimeoutError):
        replace(stages, recipe=recipe).run(wanted)
    assert called == []
    socket.create_connection(("127.0.0.1", port), 5).close()


@pytest.mark.parametrize("name", ["read-host", "write-code", "write-loading", "call"])
def test_converted_by_a_user(
    name: str, stages: Stages, made: StageResult, shared: Kiln, canary: Path, tmp_path: Path
) -> None:
    """The whole command: whatever becomes of it, the machine is as it was."""
    models = laid_out(stages, made, tmp_path / "models")
    (tmp_path / "labels.pbtxt").write_text(LABEL_MAP)
    ended = shared(
        "convert", "--saved-model", models / name, "--label-map", tmp_path / "labels.pbtxt",
        "--name", "evil", "--variant", "float32", "-o", shared.dist,
    )  # fmt: skip
    assert ended.code in (14, 24), ended.err
    assert "Traceback" not in ended.err
    assert shared.published() == []
    assert canary.read_bytes() == b"secret of the host"
    assert shared.leftovers() == []
    assert not list(shared.project.rglob("evil*"))
