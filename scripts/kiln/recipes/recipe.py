"""The typed recipe: what a model is made from, how, and into which variants.

A recipe is ``models/<name>/recipe.toml``. :func:`load` reads one and reports everything that is
wrong with it in a single :class:`~kiln.core.errors.RecipeError`, each problem with its key path;
:func:`discover` lists the recipes below a folder without reading them, so that one broken
recipe does not hide the others.

Nothing here looks at the files a recipe names: whether they exist and have their digests is
found out where they are used.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from kiln.core import bounds
from kiln.core.errors import RecipeError
from kiln.core.untrusted import MalformedError, parse_toml, read_file
from kiln.recipes.messages import describe
from kiln.recipes.values import (
    ANYWHERE,
    FileName,
    Finite,
    Fraction,
    GitBlobSha1,
    Identifier,
    LocalPath,
    ModelName,
    Params,
    Positive,
    RecipePath,
    Sha256,
    SourcePath,
    Text,
    WebAddress,
    duration_or_none,
    not_bool,
    refuse_repeats,
    size_or_none,
    tuples,
    wrong,
)

RECIPE_FILE = "recipe.toml"

Variant = Literal["float32", "float16", "dynamic", "int8", "prebuilt"]
Architecture = Literal["ssd", "centernet", "efficientdet"]
ImageName = Literal["odapi", "modelmaker"]
Profile = Literal["default", "seed"]
LiteSpec = Literal[
    "efficientdet_lite0",
    "efficientdet_lite1",
    "efficientdet_lite2",
    "efficientdet_lite3",
    "efficientdet_lite4",
]
Allowance = Literal["untrained-heads", "structure", "parity", "normalization", "labels", "runtimes"]

VARIANTS: tuple[Variant, ...] = get_args(Variant)

#: The variants that the converter makes; ``prebuilt`` is the publisher's own file.
CONVERTED: tuple[Variant, ...] = ("float32", "float16", "dynamic", "int8")

#: What the seed profile makes: exactly what the hand-written recipe made, of each architecture.
SEED_VARIANTS: dict[Architecture, Variant] = {"ssd": "dynamic", "efficientdet": "int8"}


def _not_empty(values: tuple[Variant, ...]) -> tuple[Variant, ...]:
    if not values:
        raise ValueError("must not be empty")
    return values


def _one_or_three(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) not in (1, 3):
        raise ValueError(f"must be one number, or three for red, green and blue, not {len(values)}")
    return values


class _Part(BaseModel):
    """Base of every table in a recipe: immutable, unknown keys refused, no type coercion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SourceFile(_Part):
    """Fingerprint of one file inside an archive; ``size`` is in bytes."""

    path: SourcePath
    size: Annotated[int, Field(ge=0)] | None = None
    sha256: Sha256 | None = None
    git_blob_sha1: GitBlobSha1 | None = None

    @model_validator(mode="after")
    def _says_something(self) -> SourceFile:
        if self.size is None and self.sha256 is None and self.git_blob_sha1 is None:
            raise wrong("pins nothing: give size, sha256 or git_blob_sha1")
        return self


class ArchiveSource(_Part):
    """An archive with a checkpoint: downloaded from ``url`` or a mirror, or handed over.

    ``checkpoint`` (a folder or a checkpoint prefix), ``pipeline_config`` (Object Detection API
    models have one), ``prebuilt`` (a ready ``.tflite``) and the paths in ``files`` are relative
    to ``root``, the archive's top folder; ``None``: the only folder at its top, whatever its name.
    """

    kind: Literal["archive"]
    url: WebAddress
    mirrors: tuple[WebAddress, ...] = ()
    root: SourcePath | None = None
    checkpoint: SourcePath
    pipeline_config: SourcePath | None = None
    prebuilt: SourcePath | None = None
    sha256: Sha256 | None = None
    git_blob_sha1: GitBlobSha1 | None = None
    files: tuple[SourceFile, ...] = ()

    @model_validator(mode="after")
    def _files_once(self) -> ArchiveSource:
        refuse_repeats("files", (item.path for item in self.files))
        return self


class HubSource(_Part):
    """A TF-Hub feature vector: from a hub cache, downloaded, or handed over by the user.

    ``handle`` is the module's address on the hub, which also names its folder in a
    ``TFHUB_CACHE_DIR``; ``url`` is where the packed module is, by default
    ``<handle>?tf-hub-format=compressed``. The paths in ``files`` are relative to the module.
    """

    kind: Literal["hub"]
    handle: WebAddress
    url: WebAddress | None = None
    mirrors: tuple[WebAddress, ...] = ()
    sha256: Sha256 | None = None
    files: tuple[SourceFile, ...] = ()

    @model_validator(mode="after")
    def _files_once(self) -> HubSource:
        refuse_repeats("files", (item.path for item in self.files))
        return self

    @property
    def address(self) -> str:
        """Where the packed module is downloaded from."""
        return self.url or f"{self.handle}?tf-hub-format=compressed"


class LocalFile(SourceFile):
    """Fingerprint of one file of a local source.

    ``path`` is the file's name beside the checkpoint (``ckpt-7.index``), or ``pipeline.config``
    for the configuration, whatever that file is called.
    """

    path: FileName


class LocalSource(_Part):
    """A checkpoint that is on this machine already, such as a training just left it.

    ``checkpoint`` is a folder or a checkpoint prefix (``training/ckpt-7``), ``pipeline_config``
    the configuration it was trained with (Object Detection API models have one). Both are
    relative to the recipe's folder, or absolute.

    The paths of this kind of source (and of :class:`SavedModelSource`) may leave the models
    folder, and the recipe's label map and images with them: an engineer's training is where it
    is, and copying it into the models folder would only make a second one that goes stale. Such a
    recipe is about its author's own files; nothing is ever written to them.
    """

    kind: Literal["local"]
    checkpoint: LocalPath
    pipeline_config: LocalPath | None = None
    files: tuple[LocalFile, ...] = ()

    @model_validator(mode="after")
    def _files_once(self) -> LocalSource:
        refuse_repeats("files", (item.path for item in self.files))
        return self


class Normalization(_Part):
    """How a graph wants its pixels: (pixel - mean) / std, pixels from 0 to 255.

    One number for all channels, or one each for red, green and blue.
    """

    mean: Annotated[tuple[Finite, ...], AfterValidator(_one_or_three)]
    std: Annotated[tuple[Positive, ...], AfterValidator(_one_or_three)]


class SavedModelSource(_Part):
    """A model of which there is only an exported SavedModel, on this machine.

    ``path`` is its folder: one that the Object Detection API exported for TFLite, or one of TFLite
    Model Maker (image ``modelmaker``). ``normalization`` is what its graph wants, where nothing
    else tells; ``pipeline_config`` is another way to tell. Paths may lead anywhere, as those of a
    :class:`LocalSource`; those in ``files`` are relative to the SavedModel, or ``pipeline.config``.
    """

    kind: Literal["saved_model"]
    path: LocalPath
    pipeline_config: LocalPath | None = None
    normalization: Normalization | None = None
    files: tuple[SourceFile, ...] = ()

    @model_validator(mode="after")
    def _files_once(self) -> SavedModelSource:
        refuse_repeats("files", (item.path for item in self.files))
        return self


class PinnedFile(_Part):
    """A file kept with the recipe, pinned by its SHA-256."""

    path: RecipePath
    sha256: Sha256


class StageSource(_Part):
    """A checkpoint made by one of our own stages from files kept with the recipe."""

    kind: Literal["stage"]
    stage: Identifier
    params: Params = Field(default_factory=dict)
    inputs: dict[Identifier, PinnedFile] = Field(default_factory=dict)


#: The kinds of source whose recipes may name files anywhere on this machine.
ANYWHERE_SOURCES = (LocalSource, SavedModelSource)


class Labels(_Part):
    """Where the label map is: beside the recipe (``file``) or ``in_source``; exactly one."""

    file: RecipePath | None = None
    in_source: SourcePath | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Labels:
        if (self.file is None) == (self.in_source is None):
            raise wrong("give exactly one of 'file' and 'in_source'")
        return self


class Export(_Part):
    """Overrides of the model's own configuration; an absent key leaves the model's own value.

    ``image_size`` is ``(height, width)`` in pixels. ``score_threshold`` (0 to 1) is declared in
    the metadata: what scores less is not worth showing.
    """

    max_detections: Annotated[int, Field(ge=1, le=1000)] | None = None
    image_size: (
        tuple[Annotated[int, Field(ge=32, le=4096)], Annotated[int, Field(ge=32, le=4096)]] | None
    ) = None
    score_threshold: Fraction | None = None


class Calibration(_Part):
    """The folder of images that full int8 quantisation measures activations on."""

    images: RecipePath


class Expectation(_Part):
    """An object that the model has to find: ``label`` in ``image``, a file of the check images,
    with a score of ``least_score`` or more."""

    image: FileName
    label: Text
    least_score: Fraction = 0.3


class CheckLimits(_Part):
    """How far a variant's detections may be from the source model's; ``None``: the usual limit.

    ``score_difference`` is the largest between paired detections, ``iou`` the smallest overlap of
    their boxes (one pair in twenty left out), ``unmatched`` the largest share of detections
    without a partner, ``agreement`` the smallest :func:`stages.detect.matching.agreement`.
    """

    score_difference: Fraction | None = None
    iou: Fraction | None = None
    unmatched: Fraction | None = None
    agreement: Fraction | None = None


class Check(_Part):
    """What a variant is held against before it is published.

    ``images`` is a folder; ``None``: the calibration images. ``score_threshold`` is the score from
    which detections count. ``ap`` is the COCO AP expected of a variant, or of the ``source``.
    """

    images: RecipePath | None = None
    score_threshold: Fraction | None = None
    expect: tuple[Expectation, ...] = ()
    limits: dict[Variant, CheckLimits] = Field(default_factory=dict)
    ap: dict[Variant | Literal["source"], Fraction] = Field(default_factory=dict)
    ap_tolerance: Fraction = 0.01


class EfficientDet(_Part):
    """Which of Model Maker's detectors the model is."""

    spec: LiteSpec


class Limits(_Part):
    """Bounds of each stage container: ``memory`` in bytes, ``timeout`` in seconds."""

    memory: Annotated[int | None, BeforeValidator(size_or_none), Field(gt=0)] = None
    timeout: Annotated[int | None, BeforeValidator(duration_or_none), Field(gt=0)] = None


class Recipe(_Part):
    """One model's recipe. Compare and copy it freely; it cannot be changed."""

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
    source: Annotated[
        ArchiveSource | HubSource | LocalSource | SavedModelSource | StageSource,
        Field(discriminator="kind"),
    ]
    labels: Labels
    efficientdet: EfficientDet | None = None
    export: Export = Export()
    calibration: Calibration | None = None
    check: Check = Check()
    limits: Limits = Limits()

    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _goes_together(self) -> Recipe:
        refuse_repeats("variants", self.variants)
        refuse_repeats("allow", self.allow)
        for variant in ("int8", "prebuilt"):
            if variant in self.variants and self.calibration is None:
                raise wrong(f"variant {variant!r} needs [calibration] with a folder of images")
        if "prebuilt" in self.variants and getattr(self.source, "prebuilt", None) is None:
            raise wrong("variant 'prebuilt' needs source.prebuilt, a .tflite in the archive")
        if self.image == "modelmaker":
            self._check_model_maker()
        else:
            self._check_odapi()
        self._check_check()
        if isinstance(self.source, ANYWHERE_SOURCES) and self.labels.file is None:
            raise wrong(f"a source of kind {self.source.kind!r} goes with labels.file")
        if isinstance(self.source, SavedModelSource):
            self._check_saved_model(self.source)
        if self.profile == "seed":
            self._check_seed()
        elif isinstance(self.source, HubSource):
            raise wrong(
                "a hub module is a feature vector without prediction heads: only profile 'seed' "
                "makes a detector of it"
            )
        return self

    def _check_model_maker(self) -> None:
        if self.architecture != "efficientdet":
            raise wrong(f"image 'modelmaker' cannot make architecture {self.architecture!r}")
        if self.efficientdet is None:
            raise wrong("image 'modelmaker' needs [efficientdet] with a spec")
        if getattr(self.source, "pipeline_config", None) is not None:
            raise wrong("image 'modelmaker' reads no source.pipeline_config")
        if "prebuilt" in self.variants:
            raise wrong("image 'modelmaker' cannot make variant 'prebuilt'")

    def _check_odapi(self) -> None:
        if self.efficientdet is not None:
            raise wrong("[efficientdet] goes with image 'modelmaker'")
        if isinstance(self.source, HubSource):
            raise wrong("a source of kind 'hub' goes with image 'modelmaker'")
        if (
            isinstance(self.source, ArchiveSource | LocalSource)
            and self.source.pipeline_config is None
        ):
            raise wrong("image 'odapi' needs source.pipeline_config")

    def _check_saved_model(self, source: SavedModelSource) -> None:
        if self.profile == "seed":
            raise wrong("profile 'seed' makes nothing of a SavedModel")
        if self.image == "modelmaker":
            if source.normalization is not None:
                raise wrong("image 'modelmaker' knows its normalisation: no source.normalization")
            return
        for key in ("max_detections", "image_size"):
            if getattr(self.export, key) is not None:
                raise wrong(f"export.{key}: an exported graph has its own, which nothing changes")

    def _check_check(self) -> None:
        for table in ("limits", "ap"):
            for variant in getattr(self.check, table):
                if variant not in (*self.variants, "source"):
                    raise wrong(f"check.{table}.{variant}: {variant!r} is not among the variants")
        if self.check.expect and self.check.images is None and self.calibration is None:
            raise wrong(
                "check.expect needs check.images, or [calibration], with a folder of images"
            )

    def _check_seed(self) -> None:
        known = SEED_VARIANTS.get(self.architecture)
        if known is None:
            raise wrong(f"profile 'seed' knows no architecture {self.architecture!r}")
        if self.variants != (known,):
            raise wrong(f"profile 'seed' knows only variants = [\"{known}\"]")
        if self.image == "modelmaker" and not isinstance(self.source, HubSource):
            raise wrong("profile 'seed' of Model Maker needs a source of kind 'hub'")

    @property
    def default_variant(self) -> Variant:
        """The variant meant when none is named: the first in the list."""
        return self.variants[0]

    @property
    def folder(self) -> Path:
        """The folder the recipe was loaded from, absolute."""
        return self._folder

    def resolve(self, relative: str) -> Path:
        """The absolute path of a file that the recipe names relative to its folder."""
        return self._folder / relative

    def local_paths(self) -> dict[str, str]:
        """Key path -> path relative to the recipe's folder (or absolute, where the source is
        local or a SavedModel), for every file or folder on this machine."""
        found = {}
        if self.labels.file is not None:
            found["labels.file"] = self.labels.file
        if self.calibration is not None:
            found["calibration.images"] = self.calibration.images
        if self.check.images is not None:
            found["check.images"] = self.check.images
        if isinstance(self.source, StageSource):
            for name, item in self.source.inputs.items():
                found[f"source.inputs.{name}.path"] = item.path
        if isinstance(self.source, LocalSource):
            found["source.checkpoint"] = self.source.checkpoint
        if isinstance(self.source, SavedModelSource):
            found["source.path"] = self.source.path
        if isinstance(self.source, ANYWHERE_SOURCES) and self.source.pipeline_config is not None:
            found["source.pipeline_config"] = self.source.pipeline_config
        return found


def discover(models_dir: Path) -> dict[str, Path]:
    """Every recipe below ``models_dir``: model name (the folder's name) -> ``recipe.toml``.

    Sorted by name. The recipes are not read; :func:`load` refuses one whose ``name`` differs
    from its folder's.

    Raises:
        RecipeError: ``models_dir`` is no folder, or two recipes have the same name.
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


def load(path: Path, models_dir: Path | None = None) -> Recipe:
    """Read and check the recipe at ``path``.

    Args:
        path: the ``recipe.toml``.
        models_dir: the folder no path in the recipe may leave (see :class:`LocalSource` for the
            exception); by default the folder that holds the recipe's own folder.

    Raises:
        RecipeError: the file cannot be read, is not TOML, or says something wrong; the message
            names the file and the key path of every problem.
    """
    folder = path.parent.absolute()
    root = (models_dir if models_dir is not None else folder.parent).absolute()
    table = _read_toml(path)
    try:
        recipe = Recipe.model_validate(tuples(table), context={ANYWHERE: _says_anywhere(table)})
    except ValidationError as error:
        raise _recipe_error(path, [describe(item, Recipe) for item in error.errors()]) from None
    problems = []
    if recipe.name != folder.name:
        problems.append(f"name: {recipe.name!r} is not the folder's name, {folder.name!r}")
    anywhere = isinstance(recipe.source, ANYWHERE_SOURCES)
    for key, relative in recipe.local_paths().items():
        if not anywhere and not _stays_inside(folder, relative, root):
            problems.append(f"{key}: {relative!r} leaves the models folder")
    if problems:
        raise _recipe_error(path, problems)
    recipe._folder = folder
    return recipe


def _says_anywhere(table: dict[str, Any]) -> bool:
    source = table.get("source")
    return isinstance(source, dict) and source.get("kind") in ("local", "saved_model")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        raw = read_file(path, bounds.RECIPE.most, links=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecipeError(
            f"{path}: the recipe cannot be read: {reason}.",
            "Check the path; `kiln models` shows the recipes there are.",
        ) from None
    except MalformedError as error:
        raise _recipe_error(path, [f"{error}: this is no recipe"]) from None
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
