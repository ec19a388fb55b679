"""A project whose stages are toys, run by the real stage runner in a process of its own.

Everything of a build but the container is real: sources, plan, store, request, the runner with its
protocol, checks, statements, signatures, page. A stage's output follows from its inputs alone, and
says which they were.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from places import ROOT
from tflite_files import fixture
from toy_container import Container, Doorman
from toy_project import add_recipe, make_project
from training_folder import CONFIG, photo

from kiln.building.build import Builder
from kiln.core.store import Store
from kiln.project.folders import Project
from kiln.running.limits import Outcome

#: What the runner is made of.
RUNNER = ("__init__.py", "__main__.py", "protocol", "steps/__init__.py")
MODEL = "toy"
VARIANTS = ("float32", "int8", "prebuilt")
REASON = "all scores are flat"
LABELS = "class 2 has no name"

#: Stage -> its parameters, and the body of its ``run``.
STAGES: dict[str, tuple[str, str]] = {
    "export": (
        "max_detections image_size exact_batch_norm regular_nms nms_score_threshold "
        "nms_iou_threshold max_detections_per_class",
        """
        weights = (inputs["checkpoint"] / "checkpoint" / "ckpt-0.data").read_bytes()
        (out / "saved_model" / "variables").mkdir(parents=True)
        (out / "saved_model" / "saved_model.pb").write_bytes(weights + b" as a graph")
        (out / "saved_model" / "variables" / "v.index").write_bytes(b"index" * 5)
        return {**FACTS, "untrained": [REASON]}
        """,
    ),
    "adopt": (
        "",
        """
        (out / "model.tflite").write_bytes(inputs["model"].read_bytes())
        (out / "detections.json").write_bytes(b"{}")
        return {**FACTS, "untrained": [], "roles": {}, "checkpoint": {"by": "adopt"}}
        """,
    ),
    "convert": (
        "variant normalization feeding suppression inference_io float_layers",
        """
        graph = (inputs["saved_model"] / "saved_model.pb").read_bytes()
        digest = hashlib.sha256(graph).hexdigest()
        made = graph + f"{params['variant']} of {digest}".encode()
        if params["float_layers"]:
            made += f", {params['float_layers']} in float".encode()
        (out / "model.tflite").write_bytes(made)
        return {}
        """,
    ),
    "annotate": (
        "profile name description version author license score_threshold architecture num_classes "
        "normalization feeding roles output_order role_names",
        """
        model = inputs["model"].read_bytes()
        (out / "model.tflite").write_bytes(model + hashlib.sha256(model).digest())
        (out / "labelmap.txt").write_bytes(inputs["label_map"].read_bytes())
        return {"label_notes": [LABELS]}
        """,
    ),
    "compare": ("", "return {'differ': 0}"),
    "compile": (
        "target system_config memory_mode least_mapped",
        """
        if params["target"] == "ethos-u55-32":
            raise StageError("compiler", "Vela crashed (signal 11) on it.", "Choose another.")
        model = inputs["model"].read_bytes()
        (out / "model.tflite").write_bytes(model + params["target"].encode())
        judged = hashlib.sha256(model + params["target"].encode()).hexdigest()
        return {"target": params["target"], "gates": [gate("compiled", judged)]}
        """,
    ),
    "reference": (
        "max_detections image_size crops enough regular_nms nms_score_threshold nms_iou_threshold "
        "max_detections_per_class",
        """
        (out / "detections.json").write_bytes(b"{}")
        return {"weights": [1, 2], "checkpoint": {"by": "reference"}}
        """,
    ),
    "previews": (
        "",
        """
        for path in inputs["images"].iterdir():
            (out / f"{path.name}.jpg").write_bytes(b"small " + path.read_bytes())
        names = sorted(path.name for path in inputs["images"].iterdir())
        return {"images": {name: {"height": 8, "width": 8} for name in names}}
        """,
    ),
    "check": (
        "variant score_threshold limits expect prove_normalization reference_kernels architecture "
        "num_classes input normalization untrained roles weights nms_score_threshold inference_io",
        """
        seen = {path.name: [] for path in sorted(inputs["images"].iterdir())}
        judged = hashlib.sha256(inputs["model"].read_bytes()).hexdigest()
        gates = [gate("parity", judged, "failed" if params["variant"] == "int8" else "passed")]
        found = {"gates": gates, "detections": seen, "source": seen, "rounded": seen}
        (out / "check.json").write_text(json.dumps(found))
        (out / "pixels").mkdir()
        for name in seen:
            (out / "pixels" / f"{name}.npy").write_bytes(b"pixels" * 7)
        return {"score_threshold": 0.3, "compared_from": 0.3, "nms_score_threshold": 0.0}
        """,
    ),
    "task_library": (
        "score_threshold nms_score_threshold",
        """
        judged = hashlib.sha256(inputs["model"].read_bytes()).hexdigest()
        (out / "check.json").write_text(json.dumps({"gates": [gate("task-library", judged)]}))
        return {}
        """,
    ),
    "litert": (
        "score_threshold nms_score_threshold",
        """
        judged = hashlib.sha256(inputs["model"].read_bytes()).hexdigest()
        (out / "check.json").write_text(json.dumps({"gates": [gate("runtime-litert", judged)]}))
        return {}
        """,
    ),
    "mediapipe": (
        "score_threshold nms_score_threshold",
        """
        judged = hashlib.sha256(inputs["model"].read_bytes()).hexdigest()
        (out / "check.json").write_text(json.dumps({"gates": [gate("runtime-mediapipe", judged)]}))
        return {}
        """,
    ),
}
HEAD = """\
import hashlib
import json

from stages.protocol.failures import StageError

ENVIRONMENT = "main"
PARAMS = dict.fromkeys({names!r})
REASON = {reason!r}
LABELS = {labels!r}
FACTS = {{
    "architecture": "ssd",
    "num_classes": 1,
    "nms_score_threshold": 0.0,
    "normalization": {{"mean": [127.5], "std": [127.5]}},
    "feeding": {{"fit": "stretch"}},
    "input": {{}},
}}


def gate(name, judged, status="passed"):
    return {{"gate": name, "status": status, "summary": judged, "problems": [], "figures": {{}}}}


def run(params, inputs, out, emit):
"""


class ToyBuilder(Builder):
    """One whose engine holds every image."""

    def _image(self, name: str) -> str:
        return f"{name}:1"


def make_toy(root: Path) -> tuple[Project, Path]:
    """The project in ``root``, and the recipe of its model; see :func:`add_toy`."""
    project = make_project(root)
    return project, add_toy(project)


def add_toy(project: Project) -> Path:
    """Put the toys in the place of a project's stages, and add their model; returns its recipe.

    Of its three variants those that are converted were never trained, and int8 fails a check; its
    recipe allows both.
    """
    shutil.rmtree(project.stages / "steps", ignore_errors=True)
    source = ROOT / "docker" / "stages"
    for name in RUNNER:
        target = project.stages / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target, dirs_exist_ok=True)
        else:
            shutil.copy(source / name, target)
    for name, (params, body) in STAGES.items():
        text = (
            HEAD.format(names=params.split(), reason=REASON, labels=LABELS)
            + f"    {body.strip()}\n"
        )
        (project.stages / "steps" / f"{name}.py").write_text(text.replace("\n        ", "\n    "))
    packed = project.root / "toy.tar"  # uncompressed: nothing in it notices a flipped bit
    ready = fixture("toy_ssd")
    contents = {
        "pipeline.config": CONFIG.encode(),
        "checkpoint/ckpt-0.index": b"index",
        "checkpoint/ckpt-0.data": ready + b"weights",
        "toy.tflite": ready,
    }
    with tarfile.open(packed, "w") as tar:
        for name, data in contents.items():
            info = tarfile.TarInfo(f"toy/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path = add_recipe(project, MODEL, packed.as_uri(), variants=json.dumps(VARIANTS))
    text = path.read_text().replace("[labels]", 'prebuilt = "toy.tflite"\n[labels]')
    text = text.replace("[source]", 'allow = ["parity", "untrained-heads"]\n[source]')
    path.write_text(f'{text}[calibration]\nimages = "images"\n')
    (path.parent / "images").mkdir()
    for name in ("cat.png", "dog.png"):
        (path.parent / "images" / name).write_bytes(photo(name * 9))
    return path


def make_builder(project: Project, store: Store, dist: Path) -> tuple[Builder, list[Any], Doorman]:
    """A builder, what it tells, and who stands where its engine would."""
    events: list[dict[str, Any]] = []

    def tell(event: str, **fields: Any) -> None:
        events.append({"event": event, **fields})

    builder = ToyBuilder(project, store, dist, tell)
    door = Doorman(lambda container: run_stages(project, container))
    builder._engine = door  # type: ignore[assignment]
    return builder, events, door


def run_stages(project: Project, container: Container) -> Outcome:
    """The request, by the stage runner, in a process of its own."""
    places = {"KILN_IN": str(container.inputs), "KILN_OUT": str(container.outputs)}
    ended = subprocess.run(
        [sys.executable, "-B", "-m", "stages"],
        cwd=project.docker,
        env={**os.environ, **places, "KILN_METADATA_PYTHON": sys.executable},
        capture_output=True,
        check=False,
    )
    container.say(ended.stdout)
    return Outcome(ended.returncode, False, False, ended.stderr.decode())
