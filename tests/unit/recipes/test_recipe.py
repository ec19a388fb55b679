"""The typed recipe: what is read, what is refused, and how the message helps."""

from __future__ import annotations

from pathlib import Path

import pytest
from import_cost import also_imported
from places import ROOT
from pydantic import ValidationError
from recipe_texts import GOOD, load, refused, with_stage_source, write

from kiln.core.digest import sha256_file
from kiln.core.errors import RecipeError
from kiln.recipes import recipe
from kiln.recipes.source import ArchiveSource, SourceFile, StageSource

MODELS = ROOT / "models"


def test_every_key_is_read(tmp_path: Path) -> None:
    got = load(tmp_path, GOOD)
    assert (got.format, got.name, got.version, got.sample, got.profile) == (
        1,
        "toy",
        "1",
        False,
        "default",
    )
    assert got.variants == ("dynamic", "int8")
    assert got.default_variant == "dynamic"
    assert isinstance(got.source, ArchiveSource)
    assert got.source.mirrors == ("https://127.0.0.1/copy.tar.gz",)
    assert got.source.sha256 == "ab" * 32
    assert got.source.files == (SourceFile(path="checkpoint/ckpt-0.index", size=12),)
    assert got.labels.in_source == "label_map.pbtxt"
    assert got.labels.file is None
    assert got.export.image_size == (320, 256)
    assert got.export.max_detections is None
    assert got.limits.memory == 3 * 2**29
    assert got.limits.timeout == 5400
    assert got.folder == tmp_path / "models" / "toy"
    assert got.calibration is not None
    assert got.resolve(got.calibration.images).resolve() == tmp_path / "models" / "images"


def test_a_stage_source_has_parameters_and_pinned_inputs(tmp_path: Path) -> None:
    got = load(tmp_path, with_stage_source())
    assert isinstance(got.source, StageSource)
    assert got.source.stage == "make_it"
    assert got.source.params == {"seed": 3, "scales": (1.0, 2.5), "deep": {"on": True}}
    assert got.source.inputs["weights"].sha256 == "0c" * 32
    assert got.local_paths() == {
        "labels.file": "../labels/x.pbtxt",
        "source.inputs.weights.path": "w/x.tflite",
    }


def test_a_recipe_cannot_be_changed(tmp_path: Path) -> None:
    got = load(tmp_path, GOOD)
    with pytest.raises(ValidationError):
        got.name = "other"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        # unknown keys, each with the nearest known one
        ("licence =", "license =", ["license: unknown key", "did you mean 'licence'?"]),
        ("variants =", "varients =", ["varients", "did you mean 'variants'?", "variants: missing"]),
        ("mirrors =", "miror =", ["source.miror: unknown key", "'mirrors'"]),
        ("size = 12", "sise = 12", ["source.files[0].sise: unknown key", "'size'"]),
        ("in_source =", "in_sorce =", ["labels.in_sorce: unknown key", "'in_source'"]),
        ("image_size =", "imagesize =", ["export.imagesize: unknown key", "'image_size'"]),
        ("[limits]", "[limit]", ["limit: unknown key", "'limits'"]),
        ("version =", "zzzzzzz =", ["zzzzzzz: unknown key", "version: missing"]),
        # values that are not among the known ones
        ('"dynamic", "int8"', '"dynmic"', ["variants[0]: 'dynmic'", "'dynamic'", "float16, dyn"]),
        ('"dynamic", "int8"', '"dynamic", "dynamic"', ["'dynamic' is there twice"]),
        ('"dynamic", "int8"', "", ["variants: must not be empty"]),
        ('"dynamic", "int8"', "3", ["variants[0]: 3 is not known"]),
        ('= ["dynamic", "int8"]', '= "dynamic"', ["variants: must be a list, not a string"]),
        ('"ssd"', '"sdd"', ["architecture: 'sdd'", "did you mean 'ssd'", "centernet"]),
        ('"odapi"', '"modelmaker"', ["'modelmaker'", "'ssd'"]),
        ("schema = 1", "schema = 2", ["schema: 2", "known: 1"]),
        ("schema = 1", "schema = true", ["schema: 'true' is not a format"]),
        ("schema = 1", "", ["schema: missing"]),
        (
            'kind = "archive"',
            'kind = "archiv"',
            ["source.kind: 'archiv'", "hub, local, saved_model, stage"],
        ),
        (
            'kind = "archive"',
            "",
            ["source.kind: missing", "archive, hub, local, saved_model, stage"],
        ),
        # types and forms
        ('version = "1"', "version = 1", ["version: must be a string, not a whole number"]),
        ('"toy"\ntitle', '"to"\ntitle', ["name: 'to' is not the folder's name, 'toy'"]),
        ('"toy"\ntitle', '"Toy"\ntitle', ["name: 'Toy' must be a name of lower-case"]),
        ('title = "Toy"', 'title = ""', ["title: must not be empty"]),
        ("ab" * 32, "ab" * 31, ["source.sha256", "64 lower-case hexadecimal"]),
        ("ab" * 32, "AB" * 32, ["source.sha256", "64 lower-case hexadecimal"]),
        ("size = 12", "size = -1", ["source.files[0].size"]),
        ("size = 12", "size = true", ["source.files[0].size: must be a whole number"]),
        ("size = 12", "", ["source.files[0]: pins nothing"]),
        ('"http://127', '"gopher://127', ["source.url", "http"]),
        ("[320, 256]", "[320]", ["export.image_size"]),
        ("[320, 256]", "[320, 8]", ["export.image_size[1]: should be greater", "not 8"]),
        ("[320, 256]", "[320, 320, 3]", ["export.image_size: too many"]),
        ("image_size = [320, 256]", "max_detections = 0", ["export.max_detections"]),
        ("image_size = [320, 256]", "max_detections = 1001", ["export.max_detections"]),
        (
            "image_size = [320, 256]",
            'output_order = "tf3"',
            ["export.output_order", "known: tf1, tf2"],
        ),
        ("image_size = [320, 256]", 'postprocess = "no"', ["export.postprocess", "tflite, none"]),
        (
            "image_size = [320, 256]",
            'postprocess = "none"\noutput_order = "tf1"',
            ["export.output_order: without post-processing"],
        ),
        ("image_size = [320, 256]", "regular_nms = 1", ["export.regular_nms"]),
        ("image_size = [320, 256]", "nms_iou_threshold = 0", ["export.nms_iou_threshold"]),
        ("image_size = [320, 256]", "nms_iou_threshold = nan", ["export.nms_iou_threshold"]),
        ("image_size = [320, 256]", "nms_score_threshold = 1.5", ["export.nms_score_threshold"]),
        (
            "image_size = [320, 256]",
            "max_detections_per_class = 0\nregular_nms = true",
            ["export.max_detections_per_class"],
        ),
        (
            "image_size = [320, 256]",
            "max_detections_per_class = 5",
            ["export.max_detections_per_class: only regular NMS counts by class"],
        ),
        ('"1.5GiB"', '"much"', ["limits.memory: 'much'", "6GiB"]),
        ('"1.5GiB"', "true", ["limits.memory"]),
        ('"1h30min"', '"0s"', ["limits.timeout: '0s'", "30min"]),
        # things that do not go together
        ('[calibration]\nimages = "../images"\n', "", ["'int8'", "[calibration]"]),
        ('in_source = "label_map.pbtxt"', "", ["labels: give exactly one"]),
        ("in_source =", 'file = "x"\nin_source =', ["labels: give exactly one"]),
        ("version =", 'profile = "seed"\nversion =', ["profile 'seed'", "dynamic"]),
        # paths
        ('"../images"', '"../../images"', ["calibration.images", "leaves the models folder"]),
        ('"../images"', '"../../models/images"', ["leaves the models folder"]),
        ('"../images"', '"/images"', ["calibration.images", "absolute"]),
        ('"../images"', '"C:/images"', ["calibration.images", "absolute"]),
        ('"../images"', "'..\\images'", ["calibration.images", "'/'"]),
        ('"../images"', '""', ["calibration.images"]),
        ('root = "toy"', 'root = "../toy"', ["source.root", "leaves the source"]),
        ('"checkpoint/ckpt', '"checkpoint/../../ckpt', ["source.files[0].path", "leaves"]),
        ('"checkpoint"', '"/checkpoint"', ["source.checkpoint", "absolute"]),
        # TOML itself
        ('title = "Toy"', "title = Toy", ["not valid TOML", "line 3, column 9"]),
        ('title = "Toy"', 'title = "Toy"\ntitle = "Toy"', ["not valid TOML", "line 4"]),
        ('title = "Toy"', "title = " + "[" * 4000, ["nests deeper than 64 levels"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    message = refused(tmp_path, GOOD.replace(old, new, 1))
    for word in words:
        assert word in message


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("licence", "license").replace("12", "'x'").replace("../images", "/x")
    message = refused(tmp_path, text)
    assert "4 problems" in message
    for word in ("license", "licence: missing", "files[0].size", "calibration.images"):
        assert word in message


def test_the_same_file_cannot_be_pinned_twice(tmp_path: Path) -> None:
    extra = '[[source.files]]\npath = "checkpoint/ckpt-0.index"\nsize = 13\n[labels]'
    assert "ckpt-0.index' is there twice" in refused(tmp_path, GOOD.replace("[labels]", extra))


CHECK = """\
[check]
images = "photos"
score_threshold = 0.25
ap_tolerance = 0
[[check.expect]]
image = "harbour.jpg"
label = "boat"
least_score = 0.5
[[check.expect]]
image = "cat.png"
label = "cat"
[check.limits.int8]
iou = 0.7
[check.ap]
source = 0.41
int8 = 1
"""


def test_what_is_checked(tmp_path: Path) -> None:
    check = load(tmp_path, GOOD + CHECK).check
    assert (check.images, check.score_threshold, check.ap_tolerance) == ("photos", 0.25, 0)
    assert [(e.image, e.label, e.least_score) for e in check.expect] == [
        ("harbour.jpg", "boat", 0.5),
        ("cat.png", "cat", 0.3),
    ]
    assert check.limits == {"int8": recipe.CheckLimits(iou=0.7)}
    assert check.limits["int8"].agreement is None
    assert check.ap == {"source": 0.41, "int8": 1.0}


def test_nothing_is_checked_by_default(tmp_path: Path) -> None:
    check = load(tmp_path, GOOD).check
    assert (check.images, check.score_threshold, check.ap_tolerance) == (None, None, 0.01)
    assert (check.expect, check.limits, check.ap) == ((), {}, {})


def test_the_score_worth_showing(tmp_path: Path) -> None:
    text = GOOD.replace("[export]", "[export]\nscore_threshold = 0.4")
    assert load(tmp_path, text).export.score_threshold == 0.4
    assert load(tmp_path, GOOD).export.score_threshold is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('images = "photos"', 'images = "/photos"', ["check.images", "absolute"]),
        ('images = "photos"', 'images = "../../photos"', ["check.images", "leaves the models"]),
        ("score_threshold = 0.25", "score_threshold = 1.5", ["check.score_threshold", "not 1.5"]),
        ("score_threshold = 0.25", "score_threshold = nan", ["check.score_threshold", "nan"]),
        ("score_threshold = 0.25", "score_threshold = true", ["check.score_threshold"]),
        ("score_threshold = 0.25", 'score_threshold = "x"', ["check.score_threshold"]),
        ("ap_tolerance = 0", "ap_tolerence = 0", ["check.ap_tolerence", "'ap_tolerance'"]),
        ('"harbour.jpg"', '"a/harbour.jpg"', ["check.expect[0].image", "without a folder"]),
        ('label = "boat"', "", ["check.expect[0].label: missing"]),
        ("iou = 0.7", "iuo = 0.7", ["check.limits.int8.iuo: unknown key", "'iou'"]),
        ("iou = 0.7", "iou = -0.1", ["check.limits.int8.iou"]),
        ("limits.int8", "limits.int9", ["check.limits.int9", "'int8'"]),
        ("limits.int8", "limits.float16", ["check.limits.float16", "not among the variants"]),
        ("int8 = 1", "float32 = 1", ["check.ap.float32", "not among the variants"]),
        ("int8 = 1", "int8 = 41", ["check.ap.int8", "41"]),
    ],
)
def test_a_wrong_check_is_named(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in CHECK
    message = refused(tmp_path, GOOD + CHECK.replace(old, new, 1))
    for word in words:
        assert word in message


def test_expectations_need_images(tmp_path: Path) -> None:
    text = GOOD.replace('"dynamic", "int8"', '"dynamic"')
    text = text.replace('[calibration]\nimages = "../images"\n', "")
    text += '[[check.expect]]\nimage = "cat.png"\nlabel = "cat"\n'
    assert "check.expect needs check.images" in refused(tmp_path, text)


@pytest.mark.parametrize("fault", ["structure", "parity", "normalization", "labels", "runtimes"])
def test_faults_that_can_be_allowed(tmp_path: Path, fault: str) -> None:
    text = GOOD.replace("[source]", f'allow = ["{fault}"]\n[source]', 1)
    assert load(tmp_path, text).allow == (fault,)


def test_a_link_out_of_the_models_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    write(tmp_path, GOOD)
    (tmp_path / "models" / "images").symlink_to(tmp_path / "outside")
    assert "calibration.images" in refused(tmp_path, GOOD)


@pytest.mark.parametrize("bad", [b"\xff\xfe", b'schema = 1\nname = "\xe9"\n'])
def test_a_recipe_that_is_not_utf8(tmp_path: Path, bad: bytes) -> None:
    path = write(tmp_path, "")
    path.write_bytes(bad)
    with pytest.raises(RecipeError, match=r"line [12]: not UTF-8"):
        recipe.load(path)


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        recipe.load(tmp_path / "toy" / "recipe.toml")
    with pytest.raises(RecipeError, match="not a plain file"):
        recipe.load(tmp_path)
    path = write(tmp_path, "#" * (1 << 20) + "#")
    with pytest.raises(RecipeError, match="larger than 262,144 bytes"):
        recipe.load(path)


def test_discover_finds_recipes_at_any_depth_and_reads_none(tmp_path: Path) -> None:
    write(tmp_path, "not TOML at all", "b")
    write(tmp_path, GOOD, "samples/a")
    models = tmp_path / "models"
    assert recipe.discover(models) == {
        "a": models / "samples" / "a" / "recipe.toml",
        "b": models / "b" / "recipe.toml",
    }
    assert list(recipe.discover(models)) == ["a", "b"]


def test_discover_refuses_two_recipes_of_one_name(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "toy")
    write(tmp_path, GOOD, "samples/toy")
    with pytest.raises(RecipeError, match=r"(?s)'toy'.*samples/toy.*toy"):
        recipe.discover(tmp_path / "models")
    with pytest.raises(RecipeError, match="no models folder"):
        recipe.discover(tmp_path / "nowhere")


@pytest.mark.parametrize("name", sorted(recipe.discover(MODELS)))
def test_the_projects_own_recipes_load(name: str) -> None:
    path = recipe.discover(MODELS)[name]
    got = recipe.load(path, MODELS)
    assert got.name == name
    assert got.sample == path.is_relative_to(MODELS / "samples")
    if got.labels.file is not None:
        assert got.resolve(got.labels.file).is_file()


def test_the_samples_files_are_the_pinned_ones() -> None:
    checked = 0
    for path in recipe.discover(MODELS).values():
        got = recipe.load(path, MODELS)
        if isinstance(got.source, StageSource):
            for name, item in got.source.inputs.items():
                assert sha256_file(got.resolve(item.path)) == item.sha256, (got.name, name)
                checked += 1
    assert checked >= 4


def test_the_seed_profile_is_never_the_default() -> None:
    seeds = {
        name
        for name, path in recipe.discover(MODELS).items()
        if recipe.load(path, MODELS).profile == "seed"
    }
    assert seeds == {"ssd_mobilenet_v2_320x320_seed", "efficientdet_lite0_320x320_seed"}
    assert all(name.endswith("_seed") for name in seeds)
    seed = recipe.load(recipe.discover(MODELS)["ssd_mobilenet_v2_320x320_seed"], MODELS)
    plain = recipe.load(recipe.discover(MODELS)["ssd_mobilenet_v2_320x320"], MODELS)
    assert seed.source == plain.source
    assert seed.export.max_detections == 10
    assert plain.export.max_detections is None


@pytest.mark.parametrize(
    "line", ["regular_nms = true", "nms_score_threshold = 0", "nms_iou_threshold = 0.5"]
)
def test_a_centernet_suppresses_nothing(tmp_path: Path, line: str) -> None:
    text = GOOD.replace('"ssd"', '"centernet"')
    load(tmp_path, text)
    message = refused(tmp_path, text.replace("[export]", f"[export]\n{line}"))
    assert f"export.{line.partition(' ')[0]}: a CenterNet finds peaks" in message


def test_an_int8_input_needs_its_variant_and_one_scale(tmp_path: Path) -> None:
    text = GOOD.replace("[export]", '[export]\ninference_io = "int8"')
    assert load(tmp_path, text).export.inference_io == "int8"
    message = refused(tmp_path, text.replace('"dynamic", "int8"', '"dynamic"'))
    assert "export.inference_io: it is the input of variant 'int8'" in message
    message = refused(tmp_path, text.replace('"ssd"', '"efficientdet"'))
    assert "export.inference_io: an EfficientDet of the Object Detection API" in message


def test_float_layers_go_with_int8(tmp_path: Path) -> None:
    text = GOOD + '[int8]\nfloat_layers = ["net/first", "MAX_POOL_2D"]\n'
    assert load(tmp_path, text).int8.float_layers == ("net/first", "MAX_POOL_2D")
    assert load(tmp_path, GOOD).int8.float_layers == ()
    message = refused(tmp_path, text.replace('"dynamic", "int8"', '"dynamic"'))
    assert "int8.float_layers: none of 'int8', 'int16x8' is among the variants" in message
    message = refused(tmp_path, text.replace("MAX_POOL_2D", "net/first"))
    assert "int8.float_layers: 'net/first' is there twice" in message
    assert "int8.float_layers[1]" in refused(tmp_path, text.replace('"MAX_POOL_2D"', "3"))
    assert "int8.float_layer: unknown key" in refused(tmp_path, text.replace("layers", "layer"))


@pytest.mark.parametrize("number", ["0", "1001", "true", '"6"', "2.5"])
def test_a_number_of_pictures_is_a_number(tmp_path: Path, number: str) -> None:
    text = GOOD.replace('images = "../images"', 'images = "../images"\nnumber = 24')
    got = load(tmp_path, text)
    assert got.calibration is not None
    assert got.calibration.number == 24
    message = refused(tmp_path, text.replace("= 24", f"= {number}"))
    assert "calibration.number" in message


def test_int16x8_needs_images_to_calibrate_on(tmp_path: Path) -> None:
    text = GOOD.replace('"dynamic", "int8"', '"int16x8"')
    assert load(tmp_path, text).variants == ("int16x8",)
    message = refused(tmp_path, text.replace('[calibration]\nimages = "../images"\n', ""))
    assert "variant 'int16x8' needs [calibration]" in message


@pytest.mark.parametrize(
    "line", ["regular_nms = true", 'output_order = "tf1"', 'postprocess = "none"']
)
def test_the_seed_profile_stays_as_it_was(tmp_path: Path, line: str) -> None:
    text = GOOD.replace('["dynamic", "int8"]', '["dynamic"]\nprofile = "seed"')
    load(tmp_path, text)
    message = refused(tmp_path, text.replace("[export]", f"[export]\n{line}"))
    assert f"export.{line.partition(' ')[0]}: profile 'seed'" in message


def test_the_import_brings_nothing_heavy() -> None:
    heavy = ["model_signing", "sigstore", "docker", "requests", "rich", "cryptography"]
    assert also_imported("kiln.recipes.recipe", heavy) == []
