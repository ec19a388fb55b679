"""Define the kinds of source that a recipe may name.

A source is what a model is made from. Other packages use only the properties of :class:`Source`,
so a new kind needs a class here, in :data:`AnySource`, and a fetcher (:mod:`kiln.sources.kinds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from kiln.recipes import export_options
from kiln.recipes.messages import models_in
from kiln.recipes.values import (
    FileName,
    Finite,
    GitBlobSha1,
    Identifier,
    LocalPath,
    Params,
    Part,
    Positive,
    RecipePath,
    Sha256,
    SourcePath,
    WebAddress,
    refuse_repeats,
    wrong,
)

if TYPE_CHECKING:
    from kiln.recipes.recipe import Recipe

#: What a source holds; it decides the first steps of a plan.
Brings = Literal["checkpoint", "feature_vector", "saved_model"]


@dataclass(frozen=True)
class StageCall:
    """A stage with its parameters."""

    stage: str
    params: Mapping[str, Any]


class SourceFile(Part):
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


def _one_or_three(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) not in (1, 3):
        raise ValueError(f"must be one number, or three for red, green and blue, not {len(values)}")
    return values


class Normalization(Part):
    """Input normalisation of a graph: (pixel - mean) / std, pixels from 0 to 255.

    One number for all channels, or one each for red, green and blue.
    """

    mean: Annotated[tuple[Finite, ...], AfterValidator(_one_or_three)]
    std: Annotated[tuple[Positive, ...], AfterValidator(_one_or_three)]


class Source(Part):
    """Base of the kinds of source, with defaults that fit most of them.

    Attributes:
        kind: its name in a recipe.
        brings: what it holds.
        only_here: whether it is only on this machine. The paths of such a recipe may leave the
            models folder, so that a training needs no copy, which would go stale. Its files are
            never written to.
    """

    brings: ClassVar[Brings] = "checkpoint"
    only_here: ClassVar[bool] = False

    kind: str

    @property
    def obtainable(self) -> bool:
        """Whether any machine can get the source, and a digest identifies it.

        False for an archive that is only trusted on first use.
        """
        return False

    @property
    def made_by(self) -> StageCall | None:
        """The stage that makes the checkpoint from files kept with the recipe, if any."""
        return None

    @property
    def stated_normalization(self) -> Normalization | None:
        """The model's input normalisation, if the recipe states it."""
        return None

    def local_paths(self) -> dict[str, str]:
        """Map the key path below ``source`` of every local file or folder to its path."""
        return {}

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse a recipe that does not fit this kind of source.

        Raises:
            PydanticCustomError: it does not fit; the message says why.
        """
        if "prebuilt" in recipe.variants:
            raise wrong("variant 'prebuilt' needs source.prebuilt, a .tflite in the archive")
        if self.only_here and recipe.labels.file is None:
            raise wrong(f"a source of kind {self.kind!r} goes with labels.file")


def _check_config(recipe: Recipe, config: str | None) -> None:
    """Refuse a checkpoint without the configuration it needs, or with an unused one."""
    if recipe.image == "odapi" and config is None:
        raise wrong("image 'odapi' needs source.pipeline_config")
    _refuse_unread_config(recipe, config)


def _refuse_unread_config(recipe: Recipe, config: str | None) -> None:
    if recipe.image == "modelmaker" and config is not None:
        raise wrong("image 'modelmaker' reads no source.pipeline_config")


class ArchiveSource(Source):
    """An archive with a checkpoint: downloaded from ``url`` or a mirror, or a local file.

    ``checkpoint`` (a folder or a checkpoint prefix), ``pipeline_config`` (Object Detection API
    models have one), ``prebuilt`` (a ready ``.tflite``) and the paths in ``files`` are relative
    to ``root``, the archive's top folder; ``None``: the only folder at its top, of any name.
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

    @property
    def obtainable(self) -> bool:
        """Whether the recipe pins it."""
        return bool(self.sha256 or self.git_blob_sha1 or self.files)

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse a recipe without the configuration, or with a variant it cannot have."""
        if self.prebuilt is None:
            super().check_recipe(recipe)
        elif recipe.image == "modelmaker" and "prebuilt" in recipe.variants:
            raise wrong("image 'modelmaker' cannot make variant 'prebuilt'")
        _check_config(recipe, self.pipeline_config)


class HubSource(Source):
    """A TF-Hub feature vector: from a hub cache, downloaded, or a local file.

    ``handle`` is the module's address on the hub, which also names its folder in a
    ``TFHUB_CACHE_DIR``; ``url`` is the address of the packed module, by default
    ``<handle>?tf-hub-format=compressed``. The paths in ``files`` are relative to the module.
    """

    brings: ClassVar[Brings] = "feature_vector"

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
        """The address that the packed module is downloaded from."""
        return self.url or f"{self.handle}?tf-hub-format=compressed"

    @property
    def obtainable(self) -> bool:
        """Whether the recipe pins it."""
        return bool(self.sha256 or self.files)

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse to make a detector of a feature vector, except in the seed profile."""
        super().check_recipe(recipe)
        if recipe.image != "modelmaker":
            raise wrong("a source of kind 'hub' goes with image 'modelmaker'")
        if recipe.profile != "seed":
            raise wrong(
                "a hub module is a feature vector without prediction heads: only profile 'seed' "
                "makes a detector of it"
            )


class LocalFile(SourceFile):
    """Fingerprint of one file of a local source.

    ``path`` is the file's name beside the checkpoint (``ckpt-7.index``), or ``pipeline.config``
    for the configuration, whatever its file name.
    """

    path: FileName


class LocalSource(Source):
    """A local checkpoint, such as a training leaves it.

    ``checkpoint`` is a folder or a checkpoint prefix (``training/ckpt-7``), ``pipeline_config``
    the configuration it was trained with (Object Detection API models have one). Both are
    relative to the recipe's folder, or absolute.
    """

    only_here: ClassVar[bool] = True

    kind: Literal["local"]
    checkpoint: LocalPath
    pipeline_config: LocalPath | None = None
    files: tuple[LocalFile, ...] = ()

    @model_validator(mode="after")
    def _files_once(self) -> LocalSource:
        refuse_repeats("files", (item.path for item in self.files))
        return self

    def local_paths(self) -> dict[str, str]:
        """The checkpoint and its configuration."""
        found = {"checkpoint": self.checkpoint}
        if self.pipeline_config is not None:
            found["pipeline_config"] = self.pipeline_config
        return found

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse a recipe without a label map of its own, or without the configuration."""
        super().check_recipe(recipe)
        _check_config(recipe, self.pipeline_config)


class SavedModelSource(Source):
    """A local SavedModel, for a model without a checkpoint.

    ``path`` is its folder: one that the Object Detection API exported for TFLite, or one of TFLite
    Model Maker (image ``modelmaker``). ``normalization`` states the graph's input normalisation,
    where nothing else does; ``pipeline_config`` is another way to state it. Paths may lead
    anywhere, as those of a :class:`LocalSource`; those in ``files`` are relative to the SavedModel,
    or ``pipeline.config``.
    """

    brings: ClassVar[Brings] = "saved_model"
    only_here: ClassVar[bool] = True

    kind: Literal["saved_model"]
    path: LocalPath
    pipeline_config: LocalPath | None = None
    normalization: Normalization | None = None
    files: tuple[SourceFile, ...] = ()

    @model_validator(mode="after")
    def _files_once(self) -> SavedModelSource:
        refuse_repeats("files", (item.path for item in self.files))
        return self

    @property
    def stated_normalization(self) -> Normalization | None:
        """The normalisation that the recipe states."""
        return self.normalization

    def local_paths(self) -> dict[str, str]:
        """The SavedModel and the configuration beside it."""
        found = {"path": self.path}
        if self.pipeline_config is not None:
            found["pipeline_config"] = self.pipeline_config
        return found

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse options that would change an already exported graph."""
        super().check_recipe(recipe)
        _refuse_unread_config(recipe, self.pipeline_config)
        if recipe.profile == "seed":
            raise wrong("profile 'seed' makes nothing of a SavedModel")
        if recipe.image == "modelmaker":
            if self.normalization is not None:
                raise wrong("image 'modelmaker' knows its normalisation: no source.normalization")
            return
        options = recipe.export.model_dump()
        changed = {key: options[key] for key in ("max_detections", "image_size")}
        for key, value in {**changed, **export_options.given(options)}.items():
            if value is not None:
                raise wrong(f"export.{key}: an exported graph has its own, which cannot be changed")


class PinnedFile(Part):
    """A file kept with the recipe, pinned by its SHA-256."""

    path: RecipePath
    sha256: Sha256


class StageSource(Source):
    """A checkpoint made by one of our own stages from files kept with the recipe."""

    kind: Literal["stage"]
    stage: Identifier
    params: Params = Field(default_factory=dict)
    inputs: dict[Identifier, PinnedFile] = Field(default_factory=dict)

    @property
    def obtainable(self) -> bool:
        """Always: its files are kept with the recipe."""
        return True

    @property
    def made_by(self) -> StageCall | None:
        """The stage that the recipe names."""
        return StageCall(self.stage, self.params)

    def local_paths(self) -> dict[str, str]:
        """The files that the stage reads."""
        return {f"inputs.{name}.path": item.path for name, item in self.inputs.items()}


#: A source of any kind.
AnySource = Annotated[
    ArchiveSource | HubSource | LocalSource | SavedModelSource | StageSource,
    Field(discriminator="kind"),
]

#: Value of ``source.kind`` in a recipe -> its class.
KINDS: dict[str, type[Source]] = {
    get_args(kind.model_fields["kind"].annotation)[0]: kind
    for kind in models_in(AnySource)
    if issubclass(kind, Source)
}
