"""Compare EfficientDet-Lite0 in int8 with a bare Model Maker script.

Both start from the same checkpoint in the same image. The script (``baseline/lite/export.py``) uses
only Model Maker: it restores the weights into its network and calls ``ObjectDetector.export``,
which also writes the metadata.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from PIL import Image

from benchmarks import common
from benchmarks.common import Row, Run
from kiln.project.folders import Project
from kiln.running.engine import Engine

SAMPLE = "efficientdet_lite0_shapes"
MODEL = "bench_lite0"


def measure(project: Project, engine: Engine, image: str, folder: Path, rounds: int) -> list[Row]:
    """Compare the int8 variant made by kiln and by hand."""
    _prepare(project, folder)
    mounts = {
        folder / "in": ("/in", "ro"),
        common.BASELINE / "lite": ("/baseline", "ro"),
        project.stages: ("/kiln/stages", "ro"),
        common.out_folder(folder): ("/out", "rw"),
    }

    def kiln() -> Run:
        common.empty(folder)
        return common.build(project, folder, [MODEL, "--models-dir", str(folder / "models")])

    def hand() -> Run:
        return common.by_hand(engine, image, ["python", "-B", "/baseline/export.py"], mounts)

    runs = common.take_turns(rounds, {"kiln": kiln, "by hand": hand})
    return common.compared("EfficientDet-Lite0, int8", runs["kiln"], runs["by hand"], 0.8)


def _prepare(project: Project, folder: Path) -> None:
    """Prepare the sample's checkpoint as an archive with a recipe, and as plain files."""
    common.prepared(project, folder, SAMPLE, "int8")
    images = project.models / "samples" / "shapes"
    (folder / "in" / "images").mkdir()
    for path in sorted(images.glob("*.png")):
        # Model Maker's reader of annotations takes JPEG only.
        with Image.open(path) as image:
            image.save(folder / "in" / "images" / f"{path.stem}.jpg", quality=95)
    models = folder / "models" / MODEL
    models.mkdir(parents=True)
    shutil.copytree(images, folder / "models" / "images")
    shutil.copy(folder / "in" / "model" / "label_map.pbtxt", models / "label_map.pbtxt")
    archive = models / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / "in" / "model", arcname="bench")
    (models / "recipe.toml").write_text(
        f'schema = 1\nname = "{MODEL}"\ntitle = "bench"\ndescription = "bench"\n'
        'licence = "Apache-2.0"\nauthor = "bench"\nversion = "1"\n'
        'architecture = "efficientdet"\nimage = "modelmaker"\nvariants = ["int8"]\n'
        '[efficientdet]\nspec = "efficientdet_lite0"\n'
        f'[source]\nkind = "archive"\nurl = "{archive.as_uri()}"\ncheckpoint = "checkpoint"\n'
        '[labels]\nfile = "label_map.pbtxt"\n[calibration]\nimages = "../images"\n'
    )
