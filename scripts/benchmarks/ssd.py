"""Compare an SSD with the notebooks' way: export, then two processes for each variant.

These are one conversion and one metadata process (``baseline/ssd/``). Both ways start from the same
checkpoint and run in the same sealed image.
"""

from __future__ import annotations

import shutil
import statistics
import tarfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import common
from benchmarks.common import Row, Run
from kiln.project.folders import Project
from kiln.recipes.recipe import Variant
from kiln.running.engine import Engine

SAMPLE = "ssd_mobilenet_v2_oidv4"
MODEL = "bench_ssd"

#: What is made by hand, too.
VARIANTS: tuple[Variant, ...] = ("float32", "float16", "dynamic", "int8")


def measure(project: Project, engine: Engine, image: str, folder: Path, rounds: int) -> list[Row]:
    """Measure four variants, two of them alone, and a build with nothing to do."""
    _prepare(project, folder)

    def kiln(variants: Sequence[str]) -> Run:
        common.empty(folder)
        return again(variants)

    def again(variants: Sequence[str]) -> Run:
        arguments = [MODEL, "--models-dir", str(folder / "models")]
        for variant in variants:
            arguments += ["--variant", variant]
        return common.build(project, folder, arguments)

    def hand(variants: Sequence[str]) -> Run:
        mounts = {
            folder / "in": ("/in", "ro"),
            common.BASELINE / "ssd": ("/kiln/stages", "ro"),
            common.out_folder(folder): ("/out", "rw"),
        }
        return common.by_hand(engine, image, ["/bin/sh", "-c", _script(variants)], mounts)

    rows = []
    for what, variants, bound in (
        ("SSD, four variants", VARIANTS, 0.6),
        ("SSD, float32 alone", ("float32",), 1.1),
        # By hand one conversion; kiln takes the weights that stay in float from a second one.
        ("SSD, dynamic alone", ("dynamic",), 1.1),
    ):
        ways = {
            "kiln": lambda wanted=variants: kiln(wanted),
            "by hand": lambda wanted=variants: hand(wanted),
        }
        runs = common.take_turns(rounds, ways)
        rows += common.compared(what, runs["kiln"], runs["by hand"], bound)
    rows += _convert(project, engine, image, folder, rounds)
    kiln(VARIANTS)
    unchanged = [again(VARIANTS).seconds for _ in range(5)]
    rows.append({"what": "SSD, nothing changed, wall s", "kiln": statistics.median(unchanged),
                 "bound": 1.5})  # fmt: skip
    return rows


def _convert(project: Project, engine: Engine, image: str, folder: Path, rounds: int) -> list[Row]:
    """Compare ``kiln convert`` of a training, with checks, with bare export and conversion."""
    training = folder / "in" / "model"
    arguments = ["convert", "--checkpoint", str(training / "checkpoint")]
    arguments += ["--pipeline-config", str(training / "pipeline.config")]
    arguments += ["--label-map", str(folder / "models" / MODEL / "label_map.pbtxt")]
    arguments += ["--images", str(folder / "in" / "images"), "--variant", "dynamic"]
    arguments += ["--name", MODEL, "--dist", str(folder / "dist")]

    def kiln() -> Run:
        common.empty(folder)
        return common.kiln(project, folder, arguments)

    def hand() -> Run:
        mounts = {
            folder / "in": ("/in", "ro"),
            common.BASELINE / "ssd": ("/kiln/stages", "ro"),
            common.out_folder(folder): ("/out", "rw"),
        }
        script = _script(("dynamic",), metadata=False)
        return common.by_hand(engine, image, ["/bin/sh", "-c", script], mounts)

    runs = common.take_turns(rounds, {"kiln convert": kiln, "bare": hand})
    what = "kiln convert of an SSD, dynamic, checked and signed, beside bare export and convert"
    return common.compared(what, runs["kiln convert"], runs["bare"], 1.3, memory=False)


def _script(variants: Sequence[str], *, metadata: bool = True) -> str:
    lines = [
        "set -e",
        "mkdir -p /tmp/checkpoint && cp /in/model/checkpoint/* /tmp/checkpoint/",
        "python /kiln/stages/export.py --pipeline_config_path /in/model/pipeline.config "
        "--trained_checkpoint_dir /tmp/checkpoint --output_directory /tmp/export "
        "--max_detections 100",
    ]
    for variant in variants:
        lines += [
            f"python /kiln/stages/convert.py /tmp/export/saved_model /tmp/{variant}.tflite "
            f"{variant} /in/images",
        ]
        lines += [
            f"/opt/metadata/bin/python /kiln/stages/metadata.py /tmp/{variant}.tflite "
            f"/in/labels.txt /out/{variant}.tflite",
        ] * metadata
    return "\n".join(lines)


def _prepare(project: Project, folder: Path) -> None:
    """Prepare the sample's checkpoint as a zoo-layout archive with a recipe, and as plain files."""
    common.prepared(project, folder, SAMPLE, "dynamic")
    sample = project.models / "samples" / SAMPLE
    images = project.models / "samples" / "images"
    shutil.copytree(images, folder / "in" / "images")
    shutil.copy(folder / "prepared" / SAMPLE / "labelmap.txt", folder / "in" / "labels.txt")
    models = folder / "models" / MODEL
    models.mkdir(parents=True)
    shutil.copytree(images, folder / "models" / "images")
    shutil.copy(sample / "label_map.pbtxt", models / "label_map.pbtxt")
    archive = models / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / "in" / "model", arcname="bench")
    (models / "recipe.toml").write_text(
        f'schema = 1\nname = "{MODEL}"\ntitle = "bench"\ndescription = "bench"\n'
        'licence = "Apache-2.0"\nauthor = "bench"\nversion = "1"\narchitecture = "ssd"\n'
        'image = "odapi"\nvariants = ["dynamic", "float32", "float16", "int8"]\n'
        f'[source]\nkind = "archive"\nurl = "{archive.as_uri()}"\nroot = "bench"\n'
        'checkpoint = "checkpoint"\npipeline_config = "pipeline.config"\n'
        '[labels]\nfile = "label_map.pbtxt"\n[calibration]\nimages = "../images"\n'
    )
