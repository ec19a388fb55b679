"""A build with [[compile]]: what is compiled is published like any other file, or named."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_container import Doorman
from toy_project import DEVICE, SEALED
from toy_reproduce import Toy
from toy_stages import MODEL, VARIANTS, make_builder, make_toy, run_stages

from kiln.building.build import ModelBuild
from kiln.core.digest import key_of, sha256_bytes
from kiln.core.errors import CheckFailedError, CompilerError, VerificationError
from kiln.core.store import Store
from kiln.project.folders import Project
from kiln.recipes.recipe import discover
from kiln.recipes.selection import select
from kiln.release.verify import verify
from kiln.reproduce.targets import recorded_in
from kiln.signing import dsse
from kiln.signing.keys import load_or_create_key
from kiln.signing.signer import KeySigner
from kiln.signing.statement_names import provenance_path
from kiln.statements.plan_data import plan_from_data
from kiln.statements.verify import ModelFiles, statement_problems

GOOD, ALSO, BAD = "ethos-u65-256", "ethos-u85-128", "ethos-u55-32"


class Place:
    """A project with a store and a release."""

    def __init__(self, root: Path, *targets: str) -> None:
        self.root = root
        self.project, self.recipe = make_toy(root / "project")
        tables = "".join(f'[[compile]]\ntarget = "{name}"\n' for name in targets)
        self.recipe.write_text(self.recipe.read_text() + tables)
        self.store, self.dist = Store(root / "store"), root / "dist"
        self.door: Doorman | None = None

    def build(self, *variants: Any) -> ModelBuild:
        builder, _, self.door = make_builder(self.project, self.store, self.dist)
        models = self.project.models
        (found,) = builder.build(select(models, discover(models), [MODEL]), variants)
        return found

    def ran(self) -> list[tuple[str, list[str]]]:
        """The containers of the last build: image, and the stages in it that compile."""
        assert self.door is not None
        return [
            (call["image"], [s["id"] for s in call["request"]["stages"] if s["stage"] == "compile"])
            for call in self.door.calls
        ]

    def file(self, target: str) -> Path:
        """The compiled file; that of no target is the one it is compiled from."""
        return self.dist / MODEL / f"{MODEL}_int8{target and '_' + target}.tflite"

    def json(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.dist / MODEL / name).read_bytes())
        return found

    def statement(self, target: str, kind: str = "provenance") -> dict[str, Any]:
        path = self.dist / MODEL / "attestations" / f"{self.file(target).name}.{kind}.sigstore.json"
        payload = json.loads(path.read_bytes())["dsseEnvelope"]["payload"]
        found: dict[str, Any] = json.loads(b64decode(payload))
        return found

    def verify(self) -> None:
        verify(self.dist, load_or_create_key().public_pem)


@pytest.fixture(scope="module", autouse=True)
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        for name in ("KILN_SIGNING_KEY", "KILN_SIGNING_KEY_PEM", "KILN_PROJECT"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, private: None) -> Place:
    place = Place(tmp_path_factory.mktemp("released"), GOOD, ALSO)
    built = place.build()
    assert built.error is None
    assert {f"int8_{GOOD}", f"int8_{ALSO}"} < {item.variant for item in built.artefacts}
    return place


def test_compiled_files_are_published_like_others(released: Place) -> None:
    place = released
    assert place.ran()[2:] == [
        ("device:1", ["compile-int8-ethos-u65-256"]),
        ("device:1", ["compile-int8-ethos-u85-128"]),
    ]
    assert place.ran()[0] == ("odapi:1", [])
    int8 = (place.dist / MODEL / f"{MODEL}_int8.tflite").read_bytes()
    for target in (GOOD, ALSO):
        assert place.file(target).read_bytes() == int8 + target.encode()
    place.verify()
    record, checks = place.json("conversion.json"), place.json("checks.json")
    assert record["compiled"]["int8_ethos-u65-256"]["target"] == GOOD
    assert record["compiled"]["int8_ethos-u65-256"]["from"] == "int8"
    assert [item["identity"] for item in record["other_images"]] == [DEVICE.identity]
    assert record["image"]["identity"] == SEALED.identity
    (gate,) = checks["variants"]["int8_ethos-u65-256"]["gates"]
    assert (gate["gate"], gate["status"]) == ("compiled", "passed")
    assert place.statement(GOOD, "test-result")["predicate"]["passedTests"] == ["compiled"]


def test_provenance_names_both_images(released: Place) -> None:
    place = released
    build = place.statement(GOOD)["predicate"]["buildDefinition"]
    plan = build["internalParameters"]["plan"]
    steps = {step["id"]: step for step in plan["steps"]}
    assert plan["artefact"] == "compile-int8-ethos-u65-256"
    assert steps["compile-int8-ethos-u65-256"]["image"] == DEVICE.identity
    assert all("image" not in step for name, step in steps.items() if "compile" not in name)
    materials = {item["name"]: item["digest"] for item in build["resolvedDependencies"]}
    assert materials["image/device"]["sha256"] == DEVICE.identity.removeprefix("sha256:")
    assert "lock/docker/device/Dockerfile" in materials
    assert "image/odapi" in materials


class FloatLayers(Place):
    """One whose recipe leaves a layer of int8 in float."""

    def __init__(self, root: Path, *targets: str) -> None:
        super().__init__(root, *targets)
        layers = '[int8]\nfloat_layers = ["conv"]\n'
        self.recipe.write_text(
            self.recipe.read_text().replace("[[compile]]", f"{layers}[[compile]]", 1)
        )


def test_without_layers_in_float(tmp_path: Path, released: Place) -> None:
    """What is compiled is not the published file but its form without such layers."""
    place = FloatLayers(tmp_path, GOOD)
    assert place.build().error is None
    whole = (released.dist / MODEL / f"{MODEL}_int8.tflite").read_bytes()
    assert place.file("").read_bytes() != whole
    assert (
        place.file(GOOD).read_bytes() == released.file(GOOD).read_bytes() == whole + GOOD.encode()
    )
    record = place.json("conversion.json")
    assert record["compiled"][f"int8_{GOOD}"]["from"] == "int8"
    assert record["compiled"][f"int8_{GOOD}"]["integer_form"] is True
    assert set(record["artefacts"]) == {*VARIANTS, f"int8_{GOOD}"}
    judged = place.json("checks.json")["variants"][f"int8_{GOOD}"]
    assert [gate["gate"] for gate in judged["gates"]] == ["compiled"]
    form = judged["integer_form"]
    assert form["sha256"] == sha256_bytes(whole)
    assert [gate["gate"] for gate in form["gates"]] == [
        "parity", "task-library", "runtime-litert", "runtime-mediapipe"
    ]  # fmt: skip
    place.verify()
    plan = place.statement(GOOD)["predicate"]["buildDefinition"]["internalParameters"]["plan"]
    assert "convert-int8-integer" in {item["id"] for item in plan["steps"]}
    # Building another variant keeps it, and runs nothing.
    assert (place.build("float32").error, place.ran()) == (None, [])
    assert place.file(GOOD).exists()


def test_a_form_that_fails_its_checks_is_not_compiled(tmp_path: Path) -> None:
    place = FloatLayers(tmp_path, GOOD)
    stage = place.project.stages / "steps" / "check.py"
    text = stage.read_text()
    told = text.replace("]\n    found", '] + [gate("labels", judged, "failed")] * '
                        '(params["variant"] == "int8" and b"in float" not in '
                        'inputs["model"].read_bytes())\n    found')  # fmt: skip
    assert told != text
    stage.write_text(told)
    built = place.build()
    assert isinstance(built.error, CheckFailedError)
    assert "other files were published. No file compiled from it" in built.error.remedy
    assert not place.file(GOOD).exists()
    assert place.file("").exists()
    assert "compiled" not in place.json("conversion.json")
    place.verify()


def test_a_target_that_fails_is_named_and_the_others_are_built(tmp_path: Path) -> None:
    place = Place(tmp_path, BAD, GOOD)
    built = place.build()
    assert isinstance(built.error, CompilerError)
    assert "stage compile-int8-ethos-u55-32: Vela crashed (signal 11)" in built.error.message
    assert "other files were published" in built.error.remedy
    assert place.file(GOOD).exists()
    assert not place.file(BAD).exists()
    assert f"int8_{BAD}" not in place.json("conversion.json")["artefacts"]
    assert "compile-int8-ethos-u55-32" not in place.json("conversion.json")["stages"]
    place.verify()
    # What was compiled stays where only another variant is built; what failed is not tried again.
    again = place.build("float32")
    assert (again.error, place.ran()) == (None, [])
    assert place.file(GOOD).exists()
    place.verify()


def test_without_int8_nothing_is_compiled(tmp_path: Path) -> None:
    place = Place(tmp_path, GOOD)
    built = place.build("float32")
    assert [item.variant for item in built.artefacts] == ["float32"]
    assert "compiled" not in place.json("conversion.json")
    place.verify()


def test_reproduced_in_both_images(released: Place) -> None:
    key = load_or_create_key()
    artefacts = recorded_in(
        released.dist, lambda data, model, name: dsse.open_bundle(data, key.public_pem, name)
    )
    compiled = [item for item in artefacts if item.variant == f"int8_{GOOD}"]
    assert compiled[0].images == {
        "odapi": SEALED.identity, "device": DEVICE.identity
    }  # fmt: skip
    checkout = Project(released.project.root)
    toy = Toy(released.store, checkout=checkout, on_event=lambda *_, **__: None, fetch=False)
    door = Doorman(lambda container: run_stages(released.project, container))
    toy._engine.append(door)  # type: ignore[arg-type]
    verdicts = toy.run(artefacts)
    assert {verdict.outcome for verdict in verdicts} == {"identical"}
    assert "device:1" in [call["image"] for call in door.calls]


def test_a_step_in_another_image_is_noticed(released: Place) -> None:
    statement = released.statement(GOOD)
    plan = statement["predicate"]["buildDefinition"]["internalParameters"]["plan"]
    (step,) = (item for item in plan["steps"] if "image" in item)
    for image, words in (
        (f"sha256:{'0' * 64}", "the key of the step"),
        (SEALED.identity, "the key of the step"),
        ("device:latest", "names no image"),
        (7, "damaged"),
    ):
        step["image"] = image
        with pytest.raises(VerificationError, match=words):
            plan_from_data(plan)


def test_a_signed_plan_in_an_image_that_is_not_locked_does_not_verify(released: Place) -> None:
    folder = released.dist / MODEL
    signer = KeySigner(load_or_create_key())
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "model.sig"
    }

    def problems() -> dict[str, list[str]]:
        digests = {name: sha256_bytes(data) for name, data in files.items()}
        return statement_problems(ModelFiles(MODEL, digests, files.__getitem__), signer)

    assert problems() == {}
    statement = released.statement(GOOD)
    plan = statement["predicate"]["buildDefinition"]["internalParameters"]["plan"]
    step = plan["steps"][-1]
    above = {item["id"]: item["key"] for item in plan["steps"]}
    step["image"] = f"sha256:{'0' * 64}"
    code = plan["closures"][step["stage"]]["code"]
    step["key"] = key_of(  # as docs/build-type.md has it
        {
            "protocol": plan["protocol"], "image": step["image"], "code": code,
            "stage": step["stage"], "params": step["params"], "params_from": {},
            "inputs": {
                name: {"stage": above[item["step"]], "path": item["path"]}
                for name, item in step["inputs"].items()
            },
        }
    )  # fmt: skip
    place = provenance_path(released.file(GOOD).name)
    files[place] = signer.seal(statement)
    assert "has a step in another image than source.tar locks" in problems()[place]
