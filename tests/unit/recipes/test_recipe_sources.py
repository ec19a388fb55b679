"""What a recipe says of its source, by the kind of source."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_texts import GOOD, STAGE, load, refused, with_stage_source

from kiln.recipes.source import ArchiveSource, HubSource, LocalSource

LOCAL = """\
kind = "local"
checkpoint = "/data/run 7/ckpt-7"
pipeline_config = "../../../run 7/pipeline.config"
[[source.files]]
path = "ckpt-7.index"
size = 12
[labels]
file = "/data/möwen.pbtxt"
"""


def local(changed: str = LOCAL) -> str:
    """The good recipe with a source of kind local."""
    return GOOD.partition("kind =")[0] + changed + '[calibration]\nimages = "../../images"\n'


def test_a_local_source_may_name_files_anywhere(tmp_path: Path) -> None:
    found = load(tmp_path, local())
    assert isinstance(found.source, LocalSource)
    assert found.source.files[0].path == "ckpt-7.index"
    assert found.resolve(found.source.checkpoint) == Path("/data/run 7/ckpt-7")
    assert found.local_paths() == {
        "labels.file": "/data/möwen.pbtxt",
        "calibration.images": "../../images",
        "source.checkpoint": "/data/run 7/ckpt-7",
        "source.pipeline_config": "../../../run 7/pipeline.config",
    }


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("/data/run 7/ckpt-7", "", ["source.checkpoint", "must be a path"]),
        ("/data/run 7/ckpt-7", "a\\u0000b", ["source.checkpoint", "must be a path"]),
        ("/data/run 7/ckpt-7", "~/run", ["source.checkpoint", "'~' is the shell's"]),
        (
            "checkpoint =",
            "chekpoint =",
            ["source.chekpoint", "'checkpoint'", "checkpoint: missing"],
        ),
        ('"ckpt-7.index"', '"run/ckpt-7.index"', ["source.files[0].path", "without a folder"]),
        ("size = 12", "", ["source.files[0]: pins nothing"]),
        (
            "[labels]",
            '[[source.files]]\npath = "ckpt-7.index"\nsize = 3\n[labels]',
            ["is there twice"],
        ),
        ('file = "/data/möwen.pbtxt"', 'in_source = "m.pbtxt"', ["goes with labels.file"]),
        (
            'pipeline_config = "../../../run 7/pipeline.config"\n',
            "",
            ["needs source.pipeline_config"],
        ),
    ],
)
def test_a_wrong_local_source_is_named(
    tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    assert old in LOCAL
    message = refused(tmp_path, local(LOCAL.replace(old, new, 1)))
    for word in words:
        assert word in message


LITE = """\
architecture = "efficientdet"
image = "modelmaker"
variants = ["int8"]
[efficientdet]
spec = "efficientdet_lite0"
[source]
kind = "archive"
url = "http://127.0.0.1/lite0.tgz"
root = "efficientdet-lite0"
checkpoint = "."
"""

HUB = """\
kind = "hub"
handle = "https://127.0.0.1/lite0/1"
"""


def lite(changed: str = LITE) -> str:
    """The good recipe as one for EfficientDet-Lite."""
    general = GOOD.partition("architecture")[0]
    return f"{general}{changed}[labels]\nfile = 'l.pbtxt'\n[calibration]\nimages = '../images'\n"


def as_hub(text: str) -> str:
    return text.partition("kind =")[0] + HUB


def test_a_recipe_for_model_maker(tmp_path: Path) -> None:
    found = load(tmp_path, lite())
    assert found.efficientdet is not None
    assert found.efficientdet.spec == "efficientdet_lite0"
    assert isinstance(found.source, ArchiveSource)
    assert found.source.pipeline_config is None


def test_a_recipe_for_a_hub_module(tmp_path: Path) -> None:
    text = as_hub(
        LITE.replace("variants", 'profile = "seed"\nallow = ["untrained-heads"]\nvariants')
    )
    found = load(tmp_path, lite(text))
    assert isinstance(found.source, HubSource)
    assert found.source.address == "https://127.0.0.1/lite0/1?tf-hub-format=compressed"
    assert found.allow == ("untrained-heads",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lite(LITE.replace("lite0", "lite5", 1)), ["efficientdet.spec", "did you mean", "lite4"]),
        (lite(LITE.replace('[efficientdet]\nspec = "efficientdet_lite0"\n', "")), ["a spec"]),
        (lite(LITE.replace('"int8"', '"prebuilt"')), ["'prebuilt'", "source.prebuilt"]),
        (lite(LITE + 'pipeline_config = "p"\n'), ["reads no source.pipeline_config"]),
        (lite(LITE.replace('"modelmaker"', '"odapi"')), ["[efficientdet] goes with"]),
        (lite(LITE.replace('"efficientdet"', '"ssd"')), ["cannot make architecture 'ssd'"]),
        (lite(as_hub(LITE)), ["hub", "without prediction heads", "'seed'"]),
        (lite(LITE.replace("variants", 'profile = "seed"\nvariants')), ["kind 'hub'"]),
        (lite(LITE.replace("variants", 'allow = ["all"]\nvariants')), ["'all'", "untrained-heads"]),
        (GOOD.replace('pipeline_config = "pipeline.config"\n', ""), ["needs source.pipeline"]),
        (GOOD.replace('"dynamic", "int8"', '"prebuilt"'), ["needs source.prebuilt"]),
        (
            GOOD.replace('"ssd"', '"centernet"').replace("variants", 'profile = "seed"\nvariants'),
            ["knows no architecture 'centernet'"],
        ),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, text: str, words: list[str]) -> None:
    message = refused(tmp_path, text)
    for word in words:
        assert word in message


def test_prebuilt_needs_images_to_be_run_on(tmp_path: Path) -> None:
    text = GOOD.replace('"dynamic", "int8"', '"prebuilt"').replace(
        "pipeline_config", 'prebuilt = "model.tflite"\npipeline_config'
    )
    assert load(tmp_path, text).variants == ("prebuilt",)
    without = text.replace('[calibration]\nimages = "../images"\n', "")
    assert "'prebuilt' needs [calibration]" in refused(tmp_path, without)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("weights =", "Weights =", ["source.inputs.Weights", "lower-case"]),
        ('"w/x.tflite"', '"../../x"', ["source.inputs.weights.path", "leaves the models folder"]),
        ("sha256 =", "sha =", ["source.inputs.weights.sha: unknown key", "'sha256'"]),
        ("seed = 3", "seed = nan", ["source.params", "nan"]),
        ("seed = 3", "seed = 1979-05-27", ["source.params", "date"]),
        ('stage = "make_it"', 'stage = "make it"', ["source.stage", "lower-case"]),
        ("params =", "url =", ["source.url: unknown key"]),
    ],
)
def test_a_wrong_stage_source_is_named(
    tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    assert old in STAGE
    message = refused(tmp_path, with_stage_source(STAGE.replace(old, new, 1)))
    for word in words:
        assert word in message
