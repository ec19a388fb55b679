"""``kiln compile --with``: somebody else's compiler, and what it may do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from compiled_toy import compiled_toy
from places import ROOT
from tflite_files import fixture
from toy_compiler import ANSWER, HostEngine, make_compiler

import kiln
from kiln.building import compiled_file
from kiln.building.compiled_file import Compiled, Wanted, compile_file
from kiln.core.digest import sha256_bytes, tree_digest
from kiln.core.errors import (
    CompilerError,
    KilnError,
    SigningKeyError,
    StageOutputError,
    StageTimeoutError,
    UnsupportedModelError,
    UsageError,
    VerificationError,
)
from kiln.images.lock import locked_image
from kiln.signing import dsse
from kiln.signing.keys import load_or_create_key
from kiln.signing.trust import Requirements
from kiln.tflite.inspect import inspect

ORIGINAL = fixture("toy_ssd_uint8_annotated")
EDGE = compiled_toy(ORIGINAL, "edgetpu-custom-op", keeps_metadata=False)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostEngine:
    monkeypatch.setenv("KILN_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("KILN_SIGNING_KEY", raising=False)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)  # where these tests may run
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    made = HostEngine()
    monkeypatch.setattr(compiled_file._Worker, "engine", lambda self: made)
    monkeypatch.setattr(compiled_file._Worker, "image", lambda self: "device:1")
    (tmp_path / "int8.tflite").write_bytes(ORIGINAL)
    return made


def run(folder: Path, compiler: Path | str, **options: Any) -> Compiled:
    wanted = Wanted(folder / "int8.tflite", "edgetpu", str(compiler), **options)
    return compile_file(wanted, folder / "out.tflite", lambda *_, **__: None)


def test_what_the_compiler_dropped_is_put_back(tmp_path: Path, engine: HostEngine) -> None:
    done = run(tmp_path, make_compiler(tmp_path / "mine", EDGE))
    data = done.path.read_bytes()
    assert EDGE in data
    said = inspect(data).text()
    assert "labels: labelmap.txt, 3 lines" in said
    assert "compiled for the Edge TPU" in said
    record = json.loads(done.record_path.read_bytes())
    assert record["target"] == "edgetpu"
    assert record["compiler"]["name"] == "mine"
    assert len(record["compiler"]["sha256"]) == 64
    assert record["calls"] == {"edgetpu-custom-op": 1}
    assert record["restored"] == ["metadata", "labelmap.txt"]
    assert record["left"]["TFLite_Detection_PostProcess"] == 1
    assert engine.images == ["device:1"]


def test_what_it_was_made_with_is_signed(tmp_path: Path, engine: HostEngine) -> None:
    folder = make_compiler(tmp_path / "mine", EDGE)
    done = run(tmp_path, folder)
    statement = dsse.peek_unverified(done.provenance_path.read_bytes())
    definition = statement["predicate"]["buildDefinition"]
    named = {item["name"]: item["digest"] for item in definition["resolvedDependencies"]}
    device = locked_image(ROOT / "docker", "device").identity.removeprefix("sha256:")
    assert named == {
        "input/int8.tflite": {"sha256": sha256_bytes(ORIGINAL)},
        "compiler": {"kilnTree": tree_digest(folder)},
        "container": {"sha256": device},
    }
    assert Requirements(images=(device,)).unmet_by_provenance(statement)
    asked = {"model": "int8", "target": "edgetpu", "compiler": "mine"}
    assert definition["externalParameters"] == asked
    ran = ["/in/model.tflite", "/out/compiled/files/model.tflite", "edgetpu"]
    assert definition["internalParameters"] == {"command": ran, "limits": {"timeout": 600.0}}
    (record,) = statement["predicate"]["runDetails"]["byproducts"]
    digest = sha256_bytes(done.record_path.read_bytes())
    assert record == {"name": "out.tflite.json", "digest": {"sha256": digest}}
    assert str(tmp_path) not in json.dumps(statement)


def test_it_is_verified_like_any_file(tmp_path: Path, engine: HostEngine) -> None:
    done = run(tmp_path, make_compiler(tmp_path / "mine", EDGE))
    own, other = load_or_create_key(), load_or_create_key(tmp_path / "other.pem")
    for key in (own, other):
        (tmp_path / f"{key is own}.pub").write_bytes(key.public_pem)
    found = kiln.verify(done.path, key=tmp_path / "True.pub")
    assert found.models == ("int8",)
    with pytest.raises(VerificationError):
        kiln.verify(done.path, key=tmp_path / "False.pub")
    done.path.write_bytes(done.path.read_bytes() + b"\0")
    with pytest.raises(VerificationError, match="was changed"):
        kiln.verify(done.path, key=tmp_path / "True.pub")


def test_a_key_that_cannot_be_used_is_told_before_the_work(
    tmp_path: Path, engine: HostEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.pem").write_text("no key")
    monkeypatch.setenv("KILN_SIGNING_KEY", str(tmp_path / "bad.pem"))
    with pytest.raises(SigningKeyError):
        run(tmp_path, make_compiler(tmp_path / "mine", EDGE))
    assert engine.images == []
    assert not [*tmp_path.glob("out*")]


def test_a_name_that_is_no_text(tmp_path: Path, engine: HostEngine) -> None:
    wanted = Wanted(tmp_path / "int8.tflite", "edgetpu", str(tmp_path))
    odd = tmp_path / os.fsdecode(b"\xe4.tflite")
    with pytest.raises(UsageError, match="is not text in UTF-8"):
        compile_file(wanted, odd, lambda *_, **__: None)
    assert engine.images == []


def test_a_single_program_sees_the_file_and_the_target(tmp_path: Path, engine: HostEngine) -> None:
    folder = make_compiler(
        tmp_path / "mine", EDGE,
        "assert source.read_bytes()[4:8] == b'TFL3'; sys.exit(f'{target}, {target_file.name}')",
    )  # fmt: skip
    with pytest.raises(CompilerError, match=r"ended with code 1 for edgetpu: edgetpu, model.tflit"):
        run(tmp_path, folder / "compile")


@pytest.mark.parametrize(
    ("does", "error", "words"),
    [
        ("sys.exit(3)", CompilerError, "ended with code 3"),
        ("os.kill(os.getpid(), 11)", CompilerError, "ended with code 139"),
        ("time.sleep(60)", StageTimeoutError, "not finished for edgetpu after 1 s"),
        ("pass", CompilerError, "wrote no file for edgetpu"),
        ("target_file.write_bytes(b'')", CompilerError, "it is not a TFLite model"),
        ("target_file.write_bytes(os.urandom(9999))", CompilerError, "it is not a TFLite model"),
        ("target_file.write_bytes(source.read_bytes())", CompilerError, "nothing in it is compil"),
        (f"{ANSWER}; (target_file.parent / 'log').write_bytes(b'')", StageOutputError, "only /out"),
        ("target_file.symlink_to('/etc/passwd')", StageOutputError, "neither a plain file"),
        ("target_file.mkdir()", CompilerError, "wrote no file"),
        ("target_file.mkdir(); (target_file / 'x').touch()", StageOutputError, "only /out"),
        ("[(target_file.parent / str(i)).touch() for i in range(1200)]", StageOutputError, "1,000"),
    ],
)
def test_failures_have_names_and_leave_nothing(
    tmp_path: Path, engine: HostEngine, does: str, error: type[KilnError], words: str
) -> None:
    folder = make_compiler(tmp_path / "mine", EDGE, does)
    with pytest.raises(error) as caught:
        run(tmp_path, folder, timeout=1.0 if "sleep" in does else 60.0)
    assert words in caught.value.message
    assert caught.value.remedy
    assert not [*tmp_path.glob("out*")]


def test_another_models_outputs_are_refused(tmp_path: Path, engine: HostEngine) -> None:
    other = compiled_toy(fixture("toy_centernet_annotated"), "edgetpu-custom-op")
    with pytest.raises(CompilerError, match=r"not a compiled form of .*int8.tflite: input 0 has"):
        run(tmp_path, make_compiler(tmp_path / "mine", other))


def test_what_is_no_program_is_its_own_failure(tmp_path: Path, engine: HostEngine) -> None:
    folder = make_compiler(tmp_path / "mine", EDGE)
    (folder / "compile").write_bytes(b"\x7fELF but not really")
    with pytest.raises(CompilerError, match="ended with code 12"):
        run(tmp_path, folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"compiler": "NOWHERE"}, "There is no program"),
        ({"compiler": None, "target": "ethos-u65"}, "There is no target 'ethos-u65' (did you mean"),
        ({"compiler": None, "system_config": "X"}, "There is no system_config of ethos-u65-256"),
        ({"system_config": "X"}, "cannot be combined with --with"),
        ({"memory_mode": "X"}, "cannot be combined with --with"),
        ({"least_mapped": 0.5}, "cannot be combined with --with"),
        ({"compiler": "No Image!"}, "There is no compiler No Image!"),
        ({"compiler": "../nothing"}, "There is no compiler ../nothing"),
        ({"target": "a\nb"}, "is not a name"),
        ({"target": ""}, "is not a name"),
        ({"target": "x" * 101}, "is not a name"),
    ],
)
def test_refused_before_anything_starts(
    tmp_path: Path, engine: HostEngine, change: dict[str, Any], words: str
) -> None:
    folder = make_compiler(tmp_path / "mine", EDGE)
    if change.get("compiler") == "NOWHERE":
        (tmp_path / "empty").mkdir()
        change = {"compiler": str(tmp_path / "empty")}
    given = {"target": "ethos-u65-256", "compiler": str(folder), **change}
    with pytest.raises(UsageError) as caught:
        compile_file(
            Wanted(tmp_path / "int8.tflite", **given), tmp_path / "o", lambda *_, **__: None
        )
    assert words in caught.value.message
    assert engine.images == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (fixture("toy_ssd_annotated"), "takes float32; an NPU computes in whole numbers"),
        (EDGE, "is compiled for an NPU already"),
        (compiled_toy(ORIGINAL), "is compiled for an NPU already"),
    ],
)
def test_vela_is_given_only_what_it_takes(
    tmp_path: Path, engine: HostEngine, data: bytes, words: str
) -> None:
    (tmp_path / "int8.tflite").write_bytes(data)
    wanted = Wanted(tmp_path / "int8.tflite", "ethos-u65-256")
    with pytest.raises(UnsupportedModelError, match=words):
        compile_file(wanted, tmp_path / "o", lambda *_, **__: None)
    assert engine.images == []


def test_files_are_not_replaced_unasked(tmp_path: Path, engine: HostEngine) -> None:
    (tmp_path / "out.tflite.json").write_text("mine")
    folder = make_compiler(tmp_path / "mine", EDGE)
    with pytest.raises(UsageError, match="exists"):
        run(tmp_path, folder)
    wanted = Wanted(tmp_path / "int8.tflite", "edgetpu", str(folder))
    compile_file(wanted, tmp_path / "out.tflite", lambda *_, **__: None, force=True)
    assert json.loads((tmp_path / "out.tflite.json").read_text())["target"] == "edgetpu"


def test_a_damaged_file_never_reaches_the_compiler(tmp_path: Path, engine: HostEngine) -> None:
    (tmp_path / "int8.tflite").write_bytes(ORIGINAL[:900])
    with pytest.raises(UnsupportedModelError):
        run(tmp_path, make_compiler(tmp_path / "mine", EDGE))
    assert engine.images == []


def test_a_name_that_is_no_image_s_is_told_at_once() -> None:
    """An expression that may split a name in many ways would try them all."""
    name = "a" + "_" * 5_000 + "!"
    assert compiled_file._IMAGE.fullmatch(name) is None
    for good in ("vela:1", "example.org/some_one/edge-tpu:v1.2", f"vela@sha256:{'0' * 64}"):
        assert compiled_file._IMAGE.fullmatch(good)
