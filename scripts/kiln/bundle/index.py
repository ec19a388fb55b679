"""Define the index of a bundle: ``bundle.json``, its first member.

A bundle is a plain tar, the same bytes for the same contents: ``bundle.json``, then one member
``blobs/sha256/<hex>`` for each content. Bundles are untrusted, and contents are named by digest.
Facts that a store *remembers* (which file a pin resolved to, which archive was used first, which
content is an image's archive) are not copied: the index holds what they follow from, and an import
derives them again. So no bundle can make a pin resolve to another content.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kiln.core.digest import canonical_json, sha256_bytes
from kiln.core.errors import ArchiveError
from kiln.core.untrusted import parse_json
from kiln.images.archived import size_of
from kiln.images.lock import Locked
from kiln.project import bounds
from kiln.recipes.values import ModelName, Sha256

SCHEMA = 1
INDEX = "bundle.json"

MAX_INDEX = bounds.BUNDLE_INDEX.most

Role = Literal["debian", "python", "source", "input", "recipe", "image"]
_Line = Annotated[str, Field(min_length=1, max_length=1000)]
_Size = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Use(_Part):
    """What a content is for, for people; ``name`` never becomes a path."""

    role: Role
    name: _Line


class BlobEntry(_Part):
    """A content; ``size`` in bytes."""

    sha256: Sha256
    size: _Size
    uses: Annotated[list[Use], Field(min_length=1)]


class PackageChoice(_Part):
    """The file chosen for a pin of a Python lock; :mod:`kiln.sources.pypi` remembers it."""

    kind: Literal["pypi"]
    name: _Line
    version: _Line
    hashes: Annotated[list[Sha256], Field(min_length=1)]
    python: _Line
    platforms: list[_Line]
    filename: _Line
    sha256: Sha256

    @model_validator(mode="after")
    def _fits(self) -> PackageChoice:
        if self.sha256 not in self.hashes:
            raise ValueError(f"{self.filename} is not one of the files that the pin allows")
        try:
            if self.filename.endswith(".whl"):
                name, version, _, _ = parse_wheel_filename(self.filename)
            else:
                name, version = parse_sdist_filename(self.filename)
            fits = (name, version) == (canonicalize_name(self.name), Version(self.version))
        except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
            fits = False
        if not fits or "/" in self.filename:
            raise ValueError(f"{self.filename!r} is not a file of {self.name} {self.version}")
        return self


class FirstUse(_Part):
    """The first archive used for a model whose recipe pins none."""

    kind: Literal["archive"]
    model: ModelName
    url: _Line
    sha256: Sha256


class ImageEntry(_Part):
    """A sealed image; ``sha256`` is its archive's, the other fields are as in ``images.lock``."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=64)]
    identity: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    layer: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    size: _Size
    config: _Line
    sha256: Sha256

    @property
    def locked(self) -> Locked:
        """Convert to a lock entry; the files the image was built from are unknown."""
        return Locked(self.name, self.identity, self.layer, "", self.size, self.config)

    @model_validator(mode="after")
    def _holds(self) -> ImageEntry:
        digest = hashlib.sha256(self.config.encode()).hexdigest()
        try:
            layers = parse_json(self.config)["rootfs"]["diff_ids"]
        except (ValueError, TypeError, KeyError):
            layers = None
        if f"sha256:{digest}" != self.identity or layers != [self.layer]:
            raise ValueError(f"image {self.name} does not have the identity it claims")
        return self


class Index(_Part):
    """The whole index; lists are sorted."""

    kiln: _Line
    blobs: list[BlobEntry]
    refs: list[Annotated[PackageChoice | FirstUse, Field(discriminator="kind")]]
    images: list[ImageEntry]

    @model_validator(mode="after")
    def _complete(self) -> Index:
        names = [item.sha256 for item in self.blobs]
        if names != sorted(set(names)):
            raise ValueError("the contents are not in order, or one is there twice")
        sizes = {item.sha256: item.size for item in self.blobs}
        for item in (*self.refs, *self.images):
            if item.sha256 not in sizes:
                raise ValueError(f"the content {item.sha256} is used but not in the list")
        for image in self.images:
            if sizes[image.sha256] != size_of(image.locked):
                raise ValueError(f"the archive of image {image.name} has another size")
        return self

    def as_bytes(self) -> bytes:
        """Encode ``bundle.json`` canonically, with a digest over it against damage."""
        data = self.model_dump(mode="json")
        return canonical_json(
            {"schema": SCHEMA, "index": data, "sha256": sha256_bytes(canonical_json(data))}
        )


def parse(data: bytes, called: str) -> Index:
    """Read ``bundle.json``.

    Args:
        called: the bundle's name for messages.

    Raises:
        ArchiveError: it is damaged, of a later schema, or contradicts itself.
    """
    try:
        head = parse_json(data, size=MAX_INDEX)
        schema, index, digest = head["schema"], head["index"], head["sha256"]
        if schema != SCHEMA:
            raise ArchiveError(
                f"{called} is a bundle of schema {schema!r}; this kiln reads {SCHEMA}.",
                "Use the kiln that wrote it, or a later one.",
            )
        if canonical_json(head) != data or sha256_bytes(canonical_json(index)) != digest:
            raise ValueError("its list of contents is damaged")
        return Index.model_validate(index)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise damaged(called, f"{where}: {first['msg']}".removeprefix(": ")) from error
    except (ValueError, KeyError, TypeError) as error:
        why = str(error) if "damaged" in str(error) else "its list of contents cannot be read"
        raise damaged(called, why) from error


def damaged(called: str, why: str) -> ArchiveError:
    """Build the error about a damaged bundle."""
    return ArchiveError(
        f"{called} is not a complete bundle: {why}.",
        "Copy it again from where it was made, or make a new one with `kiln bundle create`.",
    )
