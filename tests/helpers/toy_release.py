"""Model folders as a build publishes them, without a build: every statement fits its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toy_project import DEVICE, SEALED, add_recipe, make_project

from kiln.core.digest import sha256_bytes
from kiln.project.closures import StageCode, read_stage_code
from kiln.recipes.contents import Contents
from kiln.recipes.plan import Plan, make_plan
from kiln.recipes.recipe import load
from kiln.running.limits import Limits
from kiln.statements import make
from kiln.statements.package import Package
from kiln.statements.repository import Repository

COMMIT = "c" * 40


@dataclass(frozen=True)
class ToyModel:
    """What :func:`kiln.release.publish.publish` takes, and what it was made from."""

    files: dict[str, bytes]
    statements: dict[str, dict[str, Any]]
    plan: Plan


def toy_model(
    root: Path,
    name: str,
    artefacts: Mapping[str, bytes],
    more: Mapping[str, bytes] | None = None,
    *,
    checked: bool = True,
    sbom: bytes | None = None,
    device_sbom: bytes | None = None,
    original: bytes | None = None,
    package: Package | None = None,
    stages: Mapping[str, str] | None = None,
    edit: Callable[[StageCode], StageCode] = lambda code: code,
) -> ToyModel:
    """A model whose artefacts hold what is given, variant to content; ``more`` files beside.

    Args:
        root: an empty folder for a project.
        checked: whether there is a ``checks.json``.
        sbom: the image's list of components, where it has one.
        device_sbom: that of the image that it was checked in.
        original: the publisher's own file; goes with the variant ``prebuilt``.
        package: the installed kiln that made it; by default the code of a checkout did.
        stages: more files of stage code, by their path below the folder.
        edit: changes what the plan says of the stage code.
    """
    project = make_project(root)
    for image, content in (("odapi", sbom), ("device", device_sbom)):
        if content is not None:
            (project.docker / image / "sbom.cdx.json").write_bytes(content)
    for below, text in (stages or {}).items():
        (project.stages / below).parent.mkdir(exist_ok=True)
        (project.stages / below).write_text(text)
    path = add_recipe(project, name, variants=json.dumps(list(artefacts)))
    if {"int8", "prebuilt"} & artefacts.keys():
        path.write_text(f'{path.read_text()}[calibration]\nimages = "images"\n')
    if original is not None:
        text = path.read_text()
        path.write_text(text.replace("[labels]", 'prebuilt = "toy.tflite"\n[labels]'))
    recipe = load(path, project.models)
    code = edit(read_stage_code(project.stages))
    contents = Contents(
        checkpoint={"pipeline.config": "1" * 64, "checkpoint/ckpt-0.index": "2" * 64},
        label_map="3" * 64,
        images={"cat.png": "6" * 64},
        prebuilt=sha256_bytes(original) if original is not None else None,
    )
    plan = make_plan(recipe, contents, recipe.variants, image=SEALED.identity, code=code)
    files = {f"{name}_{variant}.tflite": data for variant, data in artefacts.items()}
    made = {
        plan.artefacts[variant]: sha256_bytes(data)  # type: ignore[index]
        for variant, data in artefacts.items()
    }
    if original is not None:
        files[f"{name}_prebuilt_original.tflite"] = original
        made["adopt"] = sha256_bytes(original)
    record = {
        "schema": 1,
        "model": name,
        "recipe": {"sha256": sha256_bytes(path.read_bytes())},
        "source": {"kind": "archive", "url": "file:///nowhere.tar.gz", "sha256": "4" * 64},
        "image": {"name": "odapi", "identity": SEALED.identity, "layer": SEALED.layer},
        "other_images": [{"name": "device", "identity": DEVICE.identity, "layer": DEVICE.layer}],
        "stage_code": code.digest,
        "artefacts": {
            variant: {"file": f"{name}_{variant}.tflite", "sha256": sha256_bytes(data)}
            for variant, data in artefacts.items()
        },
        "stages": {
            step.id: {"key": step.key, "files": {"model.tflite": made.get(step.id, "5" * 64)}}
            for step in plan.steps
        },
    }
    records = {"conversion.json": json.dumps(record, indent=1).encode()}
    if checked:
        gates = [
            {"gate": gate, "status": status}
            for gate, status in (("parity", "passed"), ("labels", "allowed"), ("ap", "skipped"))
        ]
        variants = {
            variant: {**entry, "gates": gates}
            for variant, entry in record["artefacts"].items()  # type: ignore[attr-defined]
        }
        records["checks.json"] = json.dumps({"variants": variants}, indent=1).encode()
    about = [
        make.About(variant, f"{name}_{variant}.tflite", sha256_bytes(data), step)
        for (variant, data), step in zip(artefacts.items(), plan.artefacts.values(), strict=True)
    ]
    if original is not None:
        file = f"{name}_prebuilt_original.tflite"
        about.append(make.About("prebuilt_original", file, sha256_bytes(original), "adopt"))
    state = Repository("git+https://example.com/kiln.git", COMMIT, False)
    gathered = make.gather(project, recipe, code.digest, None if package else state, package)
    stated = make.statements(recipe, Limits(), plan, gathered, about, records)
    everything = {**files, **records, **gathered.files("odapi", ["device"]), **(more or {})}
    return ToyModel(everything, stated, plan)
