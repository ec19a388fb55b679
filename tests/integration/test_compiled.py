"""Files for NPUs: Vela in its sealed image, and somebody else's compilers in containers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compiled_toy import compiled_toy
from places import FIXTURES
from support import SAMPLE, Kiln, Sample, Stages, Wanted
from tflite_files import fixture
from toy_compiler import ANSWER, make_compiler

from kiln.core.errors import SourceUnavailableError
from kiln.core.store import Store
from kiln.images.lock import Locked
from kiln.running.engine import Engine
from kiln.signing import dsse
from kiln.signing.statement_names import PROVENANCE_SUFFIX
from kiln.tflite.inspect import inspect
from proofs.variations.emulation import emulated, find_emulator

NAME = "toy_ssd_uint8_annotated"
TOY = FIXTURES / f"{NAME}.tflite"
CHIP = {
    "target": "ethos-u65-256",
    "system_config": "Ethos_U65_Client_Server",
    "memory_mode": "Dedicated_Sram_384KB",
    "least_mapped": 0.3,
}
EDGE = compiled_toy(fixture(NAME), "edgetpu-custom-op", keeps_metadata=False)


def without_numbers(part: Any) -> Any:
    """A part of what ``kiln inspect`` says, without the numbers of tensors: Vela numbers anew."""
    if isinstance(part, list):
        return [without_numbers(item) for item in part]
    if isinstance(part, dict):
        return {key: without_numbers(item) for key, item in part.items() if key != "tensor"}
    return part


def test_the_samples_keep_labels_and_bytes_repeat(
    sample: Sample, device_stages: Stages, tmp_path: Path
) -> None:
    """One container, twice the same file: equal bytes, with what `kiln inspect` reads in it."""
    model = {"model": sample.artefact("int8")}
    params = {**CHIP, "least_mapped": 0.5}
    u55 = {
        "target": "ethos-u55-128", "system_config": "Ethos_U55_High_End_Embedded",
        "memory_mode": "Shared_Sram", "least_mapped": 0.5,
    }  # fmt: skip
    ran = device_stages.run(
        Wanted("one", "compile", params, model),
        Wanted("two", "compile", params, model),
        Wanted("u55", "compile", u55, model),
    )
    data = device_stages.model(ran["one"])
    assert device_stages.model(ran["two"]) == data
    assert device_stages.model(ran["u55"]) != data
    facts = ran["one"].facts
    assert facts["operators"]["npu"] > 50
    assert sum(facts["left"].values()) == facts["operators"]["cpu"]
    assert facts["restored"] == ["feeding.json", "labelmap.txt"]
    assert facts["estimate"]["cycles"] > 1_000_000
    assert facts["calls"] >= 1
    before, after = (inspect(item).as_json() for item in (sample.artefact("int8"), data))
    for part in ("inputs", "outputs", "metadata", "labels", "packed_files"):
        assert without_numbers(after[part]) == without_numbers(before[part]), part
    assert "compiled for an Arm Ethos-U NPU:" in inspect(data).text()


@pytest.mark.nightly  # two conversions, twice; the parts of it are proved on small files
def test_the_samples_recipes_with_a_target(
    shared: Kiln, modelmaker: Locked, device: Locked, tmp_path: Path
) -> None:
    """Most of them runs on the NPU, and what is published has labels, verifies, and is made again.

    The SSD's recipe leaves layers of its int8 file in float.
    """
    names = (SAMPLE, "efficientdet_lite0_shapes")
    models = tmp_path / "models"
    shutil.copytree(shared.project / "models", models)
    for name in names:
        with (models / "samples" / name / "recipe.toml").open("a") as recipe:
            recipe.write(f'[[compile]]\ntarget = "{CHIP["target"]}"\n')
    only = ("--models-dir", models, "--variant", "int8")
    shared("build", *names, *only, timeout=1200).ok()
    for name in names:
        folder = shared.dist / name
        made = inspect(folder / f"{name}_int8_{CHIP['target']}.tflite").as_json()
        assert made["labels"] == inspect(folder / f"{name}_int8.tflite").as_json()["labels"]
        record = json.loads((folder / "conversion.json").read_text("utf-8"))
        (found,) = record["compiled"].values()
        npu, cpu = (found["operators"][kind] for kind in ("npu", "cpu"))
        assert npu / (npu + cpu) > 0.96, name
        assert found["integer_form"] == (name == SAMPLE)
    shared("verify", shared.dist).ok()
    compiled = ("--variant", f"int8_{CHIP['target']}")
    shared("reproduce", shared.dist, *compiled, timeout=1200).ok()


def test_a_command_of_one_file(shared: Kiln, device: Locked, tmp_path: Path) -> None:
    made = tmp_path / "made.tflite"
    options = ("--target", "ethos-u55-64", "-o", str(made))
    said = shared("compile", str(TOY), *options).refused(14, "57.1 %", "least_mapped")
    assert "8 of 14" in said
    assert not made.exists()
    ended = shared("compile", str(TOY), *options, "--least-mapped", "0.3").ok()
    assert "8 of 14 operators" in ended.out
    assert "labels: labelmap.txt, 3 lines" in inspect(made).text()
    record = json.loads(made.with_name("made.tflite.json").read_text("utf-8"))
    assert record["image"]["identity"] == device.identity
    assert record["compiler"]["name"] == "Vela"
    stated = dsse.peek_unverified(made.with_name(f"made.tflite{PROVENANCE_SUFFIX}").read_bytes())
    parts = stated["predicate"]["buildDefinition"]["resolvedDependencies"]
    named = {item["name"]: item["digest"] for item in parts}
    assert named["image/device"] == {"sha256": device.identity.removeprefix("sha256:")}
    assert named["stage-code"] == {"kilnTree": record["stage_code"]}
    assert "no test result beside it" in shared("verify", made).ok().out


def test_somebody_elses_compiler_sees_the_file_and_nothing_else(
    shared: Kiln, device: Locked, area: Path
) -> None:
    folder = make_compiler(
        area / "edge", EDGE,
        f"import socket\n"
        "assert source.read_bytes()[4:8] == b'TFL3'\n"
        f"assert not pathlib.Path({str(area)!r}).exists()\n"
        "assert os.getuid() >= 1000 or os.getuid() == 0\n"
        "for place in ('/in/x', '/kiln/compiler/x', '/x'):\n"
        "    try: pathlib.Path(place).touch()\n"
        "    except OSError: continue\n"
        "    sys.exit('wrote ' + place)\n"
        "try: socket.create_connection(('192.0.2.1', 80), 2)\n"
        "except OSError: pass\n"
        "else: sys.exit('has a network')\n"
        f"(pathlib.Path(os.environ['HOME']) / 'scratch').touch()\n{ANSWER}",
    )  # fmt: skip
    made = area / "edge.tflite"
    shared("compile", TOY, "--with", folder, "--target", "edgetpu", "-o", made).ok()
    text = inspect(made).text()
    assert "labels: labelmap.txt, 3 lines" in text
    assert "compiled for the Edge TPU" in text
    assert EDGE in made.read_bytes()


@pytest.mark.parametrize(
    ("does", "code", "words"),
    [
        ("time.sleep(99)", 25, "not finished for edgetpu after 1 s"),
        ("os.kill(os.getpid(), 11)", 28, "ended with code 139"),
        ("target_file.write_bytes(os.urandom(5000))", 28, "it is not a TFLite model"),
        ("target_file.symlink_to('/etc/hostname')", 27, "neither a plain file nor a folder"),
    ],
)
def test_compilers_that_fail_are_named(
    shared: Kiln, device: Locked, tmp_path: Path, does: str, code: int, words: str
) -> None:
    folder = make_compiler(tmp_path / "mine", EDGE, does)
    made = tmp_path / "made.tflite"
    timeout = ("--timeout", "1") if "sleep" in does else ()
    shared(
        "compile", TOY, "--with", folder, "--target", "edgetpu", "-o", made, *timeout
    ).refused(code, words)  # fmt: skip
    assert not made.exists()


def test_a_compiler_in_an_image(
    shared: Kiln, device: Locked, engine: Engine, tmp_path: Path
) -> None:
    folder = make_compiler(tmp_path / "edge", EDGE)
    tag = "kiln-test-compiler:1"
    (folder / "compile").chmod(0o755)
    (folder / "Dockerfile").write_text(
        f'FROM {device.tag}\nCOPY compile answer.tflite /edge/\nENTRYPOINT ["/edge/compile"]\n'
    )
    made = tmp_path / "made.tflite"
    options = ("--target", "edgetpu", "-o", made)
    try:
        engine.client.images.build(path=str(folder), tag=tag, network_mode="none", rm=True)
        shared("compile", TOY, "--with", tag, *options).ok()
        record = json.loads(made.with_name("made.tflite.json").read_text("utf-8"))
        assert record["compiler"]["image"].startswith("sha256:")
        made.unlink()
        shared("compile", TOY, "--with", device.tag, *options, "--force").refused(
            2, "has no entry point"
        )
    finally:
        engine.client.images.remove(tag, force=True)
    shared("compile", TOY, "--with", tag, *options, "--force").refused(2, "There is no compiler")


@pytest.mark.nightly
@pytest.mark.parametrize("cpu", ["Haswell", "SandyBridge"])
def test_bytes_do_not_depend_on_the_processor(
    device_stages: Stages, sample: Sample, store: Store, area: Path, cpu: str
) -> None:
    try:
        emulator = find_emulator(store)
    except SourceUnavailableError as error:
        pytest.skip(str(error))

    def made(stages: Stages, where: str) -> Any:
        # Another bound makes another key: no result of another processor is taken from the store.
        params = {**CHIP, "seconds": {"native": 600, "Haswell": 1800, "SandyBridge": 1801}[where]}
        return stages.run(Wanted("c", "compile", params, {"model": sample.artefact("int8")}))["c"]

    native = made(device_stages, "native")
    place = area / f"compiled-{cpu}"
    other = made(
        replace(device_stages, engine=emulated(device_stages.engine, emulator, cpu, place)), cpu
    )
    assert other.key != native.key
    assert other.files == native.files
    assert other.facts == native.facts
