"""Read and validate recipes: what a model is made from, how, and into which variants.

A recipe is ``models/<name>/recipe.toml``. :func:`load` reads one and reports all its problems in a
single :class:`~kiln.core.errors.RecipeError`, each with its key path; :func:`discover` lists the
recipes below a folder without reading them, so that one broken recipe does not hide the others.

The files that a recipe names are not read here: they are checked where they are used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from kiln.core.errors import RecipeError
from kiln.core.untrusted import MalformedError, parse_toml, read_file
from kiln.project import bounds
from kiln.recipes import export_options, targets
from kiln.recipes.messages import describe
from kiln.recipes.source import KINDS, AnySource
from kiln.recipes.values import (
    ANYWHERE,
    FileName,
    Fraction,
    ModelName,
    Part,
    RecipePath,
    SourcePath,
    Text,
    duration_or_none,
    not_bool,
    refuse_repeats,
    size_or_none,
    tuples,
    wrong,
)

RECIPE_FILE = "recipe.toml"

#: Key of the validation context: the :class:`RecipeFile` being read.
FILE = "file"

Variant = Literal["float32", "float16", "dynamic", "int8", "int16x8", "prebuilt"]
Architecture = Literal["ssd", "centernet", "efficientdet"]
ImageName = Literal["odapi", "modelmaker"]
Profile = Literal["default", "seed"]
Compilable = Literal["int8", "int16x8"]
LiteSpec = Literal[
    "efficientdet_lite0",
    "efficientdet_lite1",
    "efficientdet_lite2",
    "efficientdet_lite3",
    "efficientdet_lite4",
]
OutputOrder = Literal["tf1", "tf2"]
InferenceIo = Literal["uint8", "int8"]
Postprocess = Literal["tflite", "none"]
Allowance = Literal[
    "untrained-heads", "structure", "parity", "normalization", "feeding", "labels", "runtimes"
]

VARIANTS: tuple[Variant, ...] = get_args(Variant)

#: The variants that the converter makes; ``prebuilt`` is the publisher's own file.
CONVERTED: tuple[Variant, ...] = ("float32", "float16", "dynamic", "int8", "int16x8")

#: The variants whose activations are measured on the calibration images.
CALIBRATED: tuple[Variant, ...] = ("int8", "int16x8")

#: Variant of each architecture in the seed profile: the one that the hand-written recipe made.
SEED_VARIANTS: dict[Architecture, Variant] = {"ssd": "dynamic", "efficientdet": "int8"}


def _not_empty(values: tuple[Variant, ...]) -> tuple[Variant, ...]:
    if not values:
        raise ValueError("must not be empty")
    return values


class Labels(Part):
    """Location of the label map: beside the recipe (``file``) or ``in_source``; exactly one."""

    file: RecipePath | None = None
    in_source: SourcePath | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Labels:
        if (self.file is None) == (self.in_source is None):
            raise wrong("give exactly one of 'file' and 'in_source'")
        return self


class Export(Part):
    """Overrides of the model's own configuration; an absent key leaves the model's own value.

    ``image_size`` is ``(height, width)`` in pixels. ``score_threshold`` (0 to 1) is declared in
    the metadata: apps should not show detections below it. ``output_order`` is that of the files'
    outputs: ``tf1`` is boxes, classes, scores, count; ``tf2`` as the converter orders them.

    ``regular_nms`` suppresses overlapping boxes within each class instead of across classes. The
    next two are the score (0 to 1) and the overlap (above 0, up to 1) from which boxes are
    suppressed; ``max_detections_per_class`` goes with ``regular_nms``.

    ``inference_io`` is the type of the int8 variant's input.

    ``postprocess`` is what the files' graphs end in: ``tflite`` is TFLite's detection operator (or
    CenterNet's own arithmetic), ``none`` are raw boxes and raw scores, for an SSD-like checkpoint.
    Suppression then is the matter of who decodes them: the options above are written into the file.
    """

    max_detections: Annotated[int, Field(ge=1, le=1000)] | None = None
    image_size: (
        tuple[Annotated[int, Field(ge=32, le=4096)], Annotated[int, Field(ge=32, le=4096)]] | None
    ) = None
    score_threshold: Fraction | None = None
    output_order: OutputOrder = "tf2"
    regular_nms: bool = False
    nms_score_threshold: Fraction | None = None
    nms_iou_threshold: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    max_detections_per_class: Annotated[int, Field(ge=1, le=1000)] | None = None
    inference_io: InferenceIo = "uint8"
    postprocess: Postprocess = "tflite"


class Calibration(Part):
    """What integer quantisation measures activations on.

    ``images`` is a folder; ``number`` is how many pictures are made of its images, by mirroring and
    cropping (``None``: each image as it is).
    """

    images: RecipePath
    number: Annotated[int, Field(ge=1, le=1000)] | None = None


class Int8(Part):
    """How the int8 and int16x8 variants are quantised.

    ``float_layers`` are names of layers, or kinds of operators, that stay in float. Whether the
    model has them, its conversion says.
    """

    float_layers: tuple[Text, ...] = ()


class Expectation(Part):
    """An object that the model must find.

    ``image`` is the name of a check image; ``label`` must be found in it with a score of
    ``least_score`` or more.
    """

    image: FileName
    label: Text
    least_score: Fraction = 0.3


class CheckLimits(Part):
    """Limits on how a variant's detections may differ from the source's; ``None``: the default.

    ``score_difference`` is the largest between paired detections, ``iou`` the smallest overlap of
    their boxes (one pair in twenty left out), ``unmatched`` the largest share of detections
    without a partner, ``agreement`` the smallest :func:`stages.detect.matching.agreement`.
    """

    score_difference: Fraction | None = None
    iou: Fraction | None = None
    unmatched: Fraction | None = None
    agreement: Fraction | None = None


class Check(Part):
    """What a variant is checked against before it is published.

    ``images`` is a folder; ``None``: the calibration images. ``score_threshold`` is the score from
    which detections count. ``ap`` is the COCO AP expected of a variant, or of the ``source``.
    """

    images: RecipePath | None = None
    score_threshold: Fraction | None = None
    expect: tuple[Expectation, ...] = ()
    limits: dict[Variant, CheckLimits] = Field(default_factory=dict)
    ap: dict[Variant | Literal["source"], Fraction] = Field(default_factory=dict)
    ap_tolerance: Fraction = 0.01


class Compile(Part):
    """An NPU to compile a variant for.

    ``target``, ``system_config`` and ``memory_mode`` are names that Arm's Vela knows
    (:mod:`kiln.recipes.targets`). ``least_mapped`` is the smallest share of operators (0 to 1) that
    must run on the NPU. ``keep_float_layers``: the layers of :attr:`Int8.float_layers` stay in
    float in this file, too; an NPU leaves them to the processor.
    """

    target: Text
    variant: Compilable = "int8"
    system_config: Text | None = None
    memory_mode: Text | None = None
    least_mapped: Fraction = targets.LEAST_MAPPED
    keep_float_layers: bool = False

    @model_validator(mode="after")
    def _exists(self) -> Compile:
        try:
            self.chip()
        except ValueError as error:
            raise wrong(str(error)) from None
        return self

    @property
    def name(self) -> str:
        """The name of the compiled variant."""
        return targets.compiled_name(self.variant, self.target)

    def chip(self) -> targets.Target:
        """Return the target with its configuration."""
        return targets.target(self.target, self.system_config, self.memory_mode)


class EfficientDet(Part):
    """Which of Model Maker's detectors the model is."""

    spec: LiteSpec


class Limits(Part):
    """Bounds of each stage container: ``memory`` in bytes, ``timeout`` in seconds."""

    memory: Annotated[int | None, BeforeValidator(size_or_none), Field(gt=0)] = None
    timeout: Annotated[int | None, BeforeValidator(duration_or_none), Field(gt=0)] = None


@dataclass(frozen=True)
class RecipeFile:
    """The file of a recipe: its absolute path, and its bytes as they were read.

    ``from_options``: a command wrote it for one run, from its own options.
    """

    path: Path
    data: bytes
    from_options: bool = False


class Recipe(Part):
    """One model's recipe; immutable."""

    format: Annotated[Literal[1], BeforeValidator(not_bool)] = Field(alias="schema")
    name: ModelName
    title: Text
    description: Text
    licence: Text
    author: Text
    version: Text
    architecture: Architecture
    image: ImageName
    sample: bool = False
    variants: Annotated[tuple[Variant, ...], AfterValidator(_not_empty)]
    profile: Profile = "default"
    allow: tuple[Allowance, ...] = ()
    source: AnySource
    labels: Labels
    efficientdet: EfficientDet | None = None
    export: Export = Export()
    calibration: Calibration | None = None
    int8: Int8 = Int8()
    check: Check = Check()
    compile: tuple[Compile, ...] = ()
    limits: Limits = Limits()

    _file: RecipeFile = PrivateAttr(default=RecipeFile(Path(), b""))

    def model_post_init(self, context: Any, /) -> None:
        """Store the file that the recipe was read from."""
        if context and FILE in context:
            self._file = context[FILE]

    @model_validator(mode="after")
    def _goes_together(self) -> Recipe:
        refuse_repeats("variants", self.variants)
        refuse_repeats("allow", self.allow)
        for variant in (*CALIBRATED, "prebuilt"):
            if variant in self.variants and self.calibration is None:
                raise wrong(f"variant {variant!r} needs [calibration] with a folder of images")
        refuse_repeats("int8.float_layers", self.int8.float_layers)
        if self.int8.float_layers and not set(CALIBRATED) & set(self.variants):
            raise wrong("int8.float_layers: none of 'int8', 'int16x8' is among the variants")
        if self.image == "modelmaker":
            self._check_model_maker()
        else:
            self._check_odapi()
        self._check_export()
        self._check_check()
        self._check_compile()
        self.source.check_recipe(self)
        if self.profile == "seed":
            self._check_seed()
        return self

    def _check_model_maker(self) -> None:
        if self.architecture != "efficientdet":
            raise wrong(f"image 'modelmaker' cannot make architecture {self.architecture!r}")
        if self.efficientdet is None:
            raise wrong("image 'modelmaker' needs [efficientdet] with a spec")

    def _check_odapi(self) -> None:
        if self.efficientdet is not None:
            raise wrong("[efficientdet] goes with image 'modelmaker'")

    def _check_export(self) -> None:
        options, exported = self.export.model_dump(), self.source.brings == "saved_model"
        found = export_options.contradiction(options, self.architecture)
        if found is None:
            found = export_options.why_not_raw(
                options, self.architecture, self.image, exported, self.variants
            )
        if found is not None:
            raise wrong(f"export.{found[0]}: {found[1]}")
        if self.export.inference_io != "uint8":
            why = self.why_not_int8()
            if why:
                raise wrong(f"export.inference_io: {why}")

    def why_not_int8(self, extractor: str = "") -> str:
        """Return why an int8 input cannot be had; see :func:`export_options.why_not_int8`."""
        stated = self.source.stated_normalization
        return export_options.why_not_int8(
            self.variants,
            self.architecture,
            self.image,
            extractor,
            None if stated is None else (stated.mean, stated.std),
        )

    def _check_check(self) -> None:
        for table in ("limits", "ap"):
            for variant in getattr(self.check, table):
                if variant not in (*self.variants, "source"):
                    raise wrong(f"check.{table}.{variant}: {variant!r} is not among the variants")
        if self.check.expect and self.check.images is None and self.calibration is None:
            raise wrong(
                "check.expect needs check.images, or [calibration], with a folder of images"
            )

    def _check_compile(self) -> None:
        for item in self.compile:
            if item.variant not in self.variants:
                raise wrong(f"compile: variant {item.variant!r} is not among the variants")
        if self.compile and self.profile == "seed":
            raise wrong("compile: profile 'seed' keeps what the recipe had")
        refuse_repeats("compile", (item.name for item in self.compile))

    def _check_seed(self) -> None:
        known = SEED_VARIANTS.get(self.architecture)
        if known is None:
            raise wrong(f"profile 'seed' knows no architecture {self.architecture!r}")
        if self.variants != (known,):
            raise wrong(f"profile 'seed' knows only variants = [\"{known}\"]")
        changed = export_options.given(self.export.model_dump())
        if self.export.output_order != "tf2":
            changed["output_order"] = self.export.output_order
        if self.export.inference_io != "uint8":
            changed["inference_io"] = self.export.inference_io
        if self.export.postprocess != export_options.TFLITE:
            changed["postprocess"] = self.export.postprocess
        if self.int8.float_layers:
            raise wrong("int8.float_layers: profile 'seed' keeps what the recipe had")
        if self.calibration is not None and self.calibration.number is not None:
            raise wrong("calibration.number: profile 'seed' keeps what the recipe had")
        if changed:
            raise wrong(f"export.{next(iter(changed))}: profile 'seed' keeps what the recipe had")
        if self.image == "modelmaker" and self.source.brings != "feature_vector":
            raise wrong("profile 'seed' of Model Maker needs a source of kind 'hub'")

    @property
    def default_variant(self) -> Variant:
        """The variant meant when none is named: the first in the list."""
        return self.variants[0]

    @property
    def folder(self) -> Path:
        """The folder the recipe was loaded from, absolute."""
        return self._file.path.parent

    @property
    def file(self) -> RecipeFile:
        """The file the recipe was loaded from."""
        return self._file

    def resolve(self, relative: str) -> Path:
        """Return the absolute path of a file that the recipe names relative to its folder."""
        return self.folder / relative

    def how_to_allow(self, faults: Iterable[str]) -> str:
        """Return what to do to publish despite ``faults``: words for the end of a remedy.

        Whoever gave options has no recipe to write into.
        """
        wanted = sorted({*self.allow, *faults})
        if self.file.from_options:
            return f"add {' '.join(f'--allow {fault}' for fault in wanted)} to the command"
        return f"write allow = {json.dumps(wanted)} in its recipe"

    def local_paths(self) -> dict[str, str]:
        """Map the key path of every local file or folder to its path.

        Paths are relative to the recipe's folder, or absolute where the source is local or a
        SavedModel.
        """
        found = {}
        if self.labels.file is not None:
            found["labels.file"] = self.labels.file
        if self.calibration is not None:
            found["calibration.images"] = self.calibration.images
        if self.check.images is not None:
            found["check.images"] = self.check.images
        for key, path in self.source.local_paths().items():
            found[f"source.{key}"] = path
        return found


def discover(models_dir: Path) -> dict[str, Path]:
    """List the recipes below ``models_dir``: model name (the folder's name) -> ``recipe.toml``.

    Sorted by name. The recipes are not read; :func:`load` refuses one whose ``name`` differs
    from its folder's.

    Raises:
        RecipeError: ``models_dir`` is not a folder, or two recipes have the same name.
    """
    if not models_dir.is_dir():
        raise RecipeError(
            f"There is no models folder at {models_dir}.",
            "Change into the folder that holds models/, or name it where the command has "
            "--models-dir. `kiln init` writes a first recipe; `kiln convert` needs none.",
        )
    found: dict[str, Path] = {}
    for path in sorted(models_dir.glob(f"**/{RECIPE_FILE}")):
        name = path.parent.name
        if name in found:
            raise RecipeError(
                f"Two recipes are called {name!r}: {found[name]} and {path}.",
                "Rename one of the folders and the 'name' in its recipe.",
            )
        found[name] = path
    return dict(sorted(found.items()))


def load(path: Path, models_dir: Path | None = None, *, from_options: bool = False) -> Recipe:
    """Read and validate the recipe at ``path``.

    Args:
        path: the ``recipe.toml``.
        models_dir: the folder that no path in the recipe may leave, unless its source is only on
            this machine; by default the folder that holds the recipe's own folder.
        from_options: see :class:`RecipeFile`.

    Raises:
        RecipeError: the file cannot be read, is not TOML, or is invalid; the message names the
            file and the key path of every problem.
    """
    folder = path.parent.absolute()
    root = (models_dir if models_dir is not None else folder.parent).absolute()
    data = _read(path)
    table = _parse(path, data)
    file = RecipeFile(path.absolute(), data, from_options)
    context = {ANYWHERE: _is_only_here(table), FILE: file}
    try:
        recipe = Recipe.model_validate(tuples(table), context=context)
    except ValidationError as error:
        raise _recipe_error(path, [describe(item, Recipe) for item in error.errors()]) from None
    problems = []
    if recipe.name != folder.name:
        problems.append(f"name: {recipe.name!r} is not the folder's name, {folder.name!r}")
    for key, relative in recipe.local_paths().items():
        if not recipe.source.only_here and not _stays_inside(folder, relative, root):
            problems.append(f"{key}: {relative!r} leaves the models folder")
    if problems:
        raise _recipe_error(path, problems)
    return recipe


def _is_only_here(table: dict[str, Any]) -> bool:
    """Whether a recipe's source is of a kind that is only on this machine."""
    source = table.get("source")
    kind = str(source.get("kind")) if isinstance(source, dict) else ""
    return kind in KINDS and KINDS[kind].only_here


def _read(path: Path) -> bytes:
    try:
        return read_file(path, bounds.RECIPE.most, links=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecipeError(
            f"{path}: the recipe cannot be read: {reason}.",
            "Check the path; `kiln models` lists the recipes.",
        ) from None
    except MalformedError as error:
        raise _recipe_error(path, [f"{error}: this is not a recipe"]) from None


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        return parse_toml(raw.decode("utf-8"), size=bounds.RECIPE.most)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _recipe_error(path, [f"line {line}: not UTF-8 text"]) from None
    except MalformedError as error:
        raise _recipe_error(path, [str(error)]) from None


def _stays_inside(folder: Path, relative: str, root: Path) -> bool:
    # Lexically first (".." must not even pass through the outside), then with links resolved.
    parts = list(folder.parts)
    for part in PurePosixPath(relative).parts:
        if part == "..":
            parts.pop()
            if len(parts) < len(root.parts):
                return False
        else:
            parts.append(part)
    return Path(*parts).is_relative_to(root) and (
        (folder / relative).resolve().is_relative_to(root.resolve())
    )


def _recipe_error(path: Path, problems: list[str]) -> RecipeError:
    if len(problems) == 1:
        text = f"{path}: {problems[0]}."
    else:
        lines = "".join(f"\n  {problem}" for problem in problems)
        text = f"{path}: {len(problems)} problems:{lines}"
    return RecipeError(text, "Correct the recipe and run again.")
