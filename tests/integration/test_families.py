"""The zoo's families, one small model of each: ``kiln convert``, and what it finds is the model's.

Weights are random, but scores are spread as a trained detector's are (``stand_out`` of
``make_checkpoint``): some dozens of detections, from 0.3 to about 0.9, each with its own score.
`make nightly` runs the same with models of the zoo's own size.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import zoo
from families import CLASSES, FAMILIES, FULL_SIZE, LABEL_MAP
from support import FRONT, Kiln, Stages, Wanted

from kiln.core.store import Store
from kiln.tflite.reading import load, type_name
from stages.detect import detector, matching
from stages.files import pixels

litert = pytest.importorskip("ai_edge_litert.interpreter")

PHOTOS = ("camera.png", "chelsea.png", "coffee.png")
VARIANTS = ("float32", "dynamic")

ALL = {**FAMILIES, **FULL_SIZE}
#: Those that take long, and those whose kinds of layers another one has, too. (SSD MobileNet v2 is
#: the sample, and what most other tests convert.)
NIGHTLY = {
    "ssd_mobilenet_v2",
    "ssd_mobilenet_v1_fpn",
    "efficientdet_d1",
    "centernet_mobilenet_v2_fpn",
    *FULL_SIZE,
}
NAMES = [pytest.param(name, marks=pytest.mark.nightly) if name in NIGHTLY else name for name in ALL]

#: Where detections are compared, and how many at least reach it on all photos together.
SURE, LEAST = 0.3, 20

_FEW = 3  # parts more than of float32

_LIMIT = 1800  # seconds; the small ones take a minute on a busy machine


@dataclass(frozen=True)
class Made:
    """Families, converted into one release."""

    kiln: Kiln
    photos: Path
    families: tuple[str, ...]

    @cached_property
    def found(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """What each checkpoint itself finds, as the builds' own checks ran it."""
        found = {}
        for family in self.families:
            (digest,) = self.stage(family, "reference")["files"].values()
            text = Store(self.kiln.store).path(digest).read_text("utf-8")
            told = json.loads(text)
            found[family] = told["as_tflite"] or told["images"]
        return found

    def artefact(self, family: str, variant: str) -> Path:
        return self.kiln.dist / family / f"{family}_{variant}.tflite"

    def stage(self, family: str, step: str) -> dict[str, Any]:
        record = json.loads((self.kiln.dist / family / "conversion.json").read_text("utf-8"))
        stage: dict[str, Any] = record["stages"][step]
        return stage


@pytest.fixture(scope="module")
def made(
    request: pytest.FixtureRequest,
    session_kiln: Kiln,
    stages: Stages,
    images_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    """The families that the tests of this run name."""
    here = [item for item in request.session.items if item.path == request.path]
    named = {item.callspec.params["name"] for item in here if hasattr(item, "callspec")}
    families = {name: family for name, family in ALL.items() if name in named} or FAMILIES
    place = tmp_path_factory.mktemp("families")
    photos = place / "photos"
    photos.mkdir()
    for name in PHOTOS:
        (photos / name).write_bytes((images_folder / name).read_bytes())
    (place / "labels.pbtxt").write_text(LABEL_MAP)
    wanted = []
    for name, family in families.items():
        config = place / f"{name}.config"
        config.write_text(family.config)
        given = {"pipeline_config": config, "images": photos}
        params = {"seed": family.seed, "number": 7, "stand_out": family.stand_out}
        wanted.append(Wanted(name, "make_checkpoint", params, given))
    ran = stages.run(*wanted)
    for name in families:
        for path, data in zoo.files_of(ran[name], stages.store).items():
            target = place / "trained" / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    kiln = session_kiln.but(dist=place / "release")
    options = ["--label-map", place / "labels.pbtxt", "--images", photos, "-o", kiln.dist]
    for variant in VARIANTS:
        options += ["--variant", variant]

    def convert(name: str) -> None:
        checkpoint = place / "trained" / name
        kiln("convert", "--checkpoint", checkpoint, "--name", name, *options, timeout=_LIMIT).ok()

    with ThreadPoolExecutor(2) as pool:  # two models at a time, into one release
        list(pool.map(convert, families))
    return Made(kiln, photos, tuple(families))


def test_one_release(made: Made) -> None:
    assert made.kiln("verify", made.kiln.dist).code == 0
    assert {name.split("/")[0] for name in made.kiln.published()} == {
        *FRONT, *made.families,
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_it_is(made: Made, name: str) -> None:
    family = ALL[name]
    facts = made.stage(name, "export")["facts"]
    assert facts["feature_extractor"] in family.config
    assert facts["num_classes"] == len(CLASSES)
    assert facts["input"] == {"height": family.side, "width": family.side}
    assert facts["untrained"] == []
    assert facts["exact_batch_norms"] > 20
    # Object Detection API's own names; what the recipe said of it is another thing.
    assert facts["architecture"] == ("center_net" if family.architecture == "centernet" else "ssd")
    labels = (made.kiln.dist / name / "labelmap.txt").read_text("utf-8").splitlines()
    assert labels == list(CLASSES)


@pytest.mark.parametrize("name", NAMES)
def test_its_detections_are_spread(made: Made, name: str) -> None:
    """What the comparisons below are worth: not all scores 0 or 1, nor a crowd of equals."""
    scores = [item["score"] for items in made.found[name].values() for item in items]
    sure = sorted(score for score in scores if score >= SURE)
    assert LEAST <= len(sure) <= ALL[name].stand_out
    assert sure[-1] > 0.8
    assert sure[len(sure) // 2] < 0.75
    assert len({round(score, 4) for score in sure}) > 0.8 * len(sure)
    assert max(len(items) for items in made.found[name].values()) == 100


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_the_checkpoint(made: Made, name: str) -> None:
    model = detector.load(made.artefact(name, "float32"))
    compared = 0
    for photo, own in made.found[name].items():  # of a large input, not of all
        found = model.detect(pixels.load_rgb(made.photos / photo))
        if ALL[name].architecture == "centernet":  # its own boxes end where the image does
            for item in found:
                item["box"] = [min(max(side, 0.0), 1.0) for side in item["box"]]
        sure = [item for item in own if item["score"] >= SURE]
        pairs = matching.match(sure, found, 0.9)
        assert len(pairs) == len(sure), photo
        for pair in pairs:
            assert pair.iou > 0.99
            assert abs(sure[pair.left]["score"] - found[pair.right]["score"]) < 1e-3
        compared += len(pairs)
    assert compared >= LEAST


@pytest.mark.parametrize("name", NAMES)
def test_dynamic_is_near(made: Made, name: str) -> None:
    models = [detector.load(made.artefact(name, variant)) for variant in VARIANTS]
    for photo in PHOTOS:
        image = pixels.load_rgb(made.photos / photo)
        left, right = (model.detect(image, score_threshold=SURE) for model in models)
        if len(left) >= 5:
            # 0.811 was the least in LiteRT's reference, builtin and XNNPACK kernels.
            assert matching.agreement(left, right) > 0.75, photo


@pytest.mark.parametrize("name", NAMES)
def test_dynamic_keeps_depthwise_weights_and_no_others_in_float(made: Made, name: str) -> None:
    """As many parts as float32 has run in XNNPACK, whose operators these are."""
    floats, dynamic = (load(made.artefact(name, variant)) for variant in VARIANTS)
    stored: dict[str, set[str]] = {"CONV_2D": set(), "DEPTHWISE_CONV_2D": set()}
    for one, other in zip(floats.graphs[0].operators, dynamic.graphs[0].operators, strict=True):
        assert (one.name, one.version) == (other.name, other.version) or one.name == "CONV_2D"
        if one.name in stored:
            tensor = dynamic.graphs[0].tensors[other.inputs[1]]
            values = dynamic.model.buffers[tensor.buffer]
            kind = type_name(tensor)
            stored[one.name].add(kind)
            if kind == "float32":
                source = floats.graphs[0].tensors[one.inputs[1]]
                assert values == floats.model.buffers[source.buffer]
                # TensorFlow leaves small kernels as they are.
                assert one.name == "DEPTHWISE_CONV_2D" or len(values) < 4 * 1024
    assert "int8" in stored["CONV_2D"]
    assert stored["DEPTHWISE_CONV_2D"] <= {"float32"}
    assert parts(made.artefact(name, "dynamic")) <= parts(made.artefact(name, "float32")) + _FEW


def parts(file: Path) -> int:
    """How many parts of a file LiteRT hands to XNNPACK."""
    interpreter = litert.Interpreter(model_path=str(file))
    interpreter.allocate_tensors()
    return sum(item["op_name"] == "DELEGATE" for item in interpreter._get_ops_details())
