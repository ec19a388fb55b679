"""Read and write ``docker/images.lock``: each image's sealed identity and list of contents."""

from __future__ import annotations

import json
import lzma
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.core.digest import sha256_bytes
from kiln.core.errors import ImageMismatchError
from kiln.core.files import write_atomic
from kiln.core.untrusted import MalformedError, parse_json_object, parse_toml, read_file
from kiln.images.definition import IMAGE_NAME, recipe_digest
from kiln.images.seal import MAX_SIZE, FileFact, Sealed, pack_contents, read_contents
from kiln.project import bounds

LOCK_FILE = "images.lock"

_HEX = "[0-9a-f]{64}"
_FORMS = {"identity": f"sha256:{_HEX}", "layer": f"sha256:{_HEX}", "recipe": _HEX}

_HEAD = """\
# The sealed identity of each image; written by `kiln images build --update-lock`.
#   identity: digest of the image configuration (which names the layer)
#   layer:    digest of the one uncompressed layer (diff_id), size in bytes
#   config:   the configuration itself
#   recipe:   digest of what the image is built from (Dockerfile, locks, installer)
# The contents of the layers are listed in docker/<image>/contents.xz.
"""


@dataclass(frozen=True)
class Locked:
    """The lock entry of one image."""

    name: str
    identity: str
    layer: str
    recipe: str
    size: int
    config: str

    @classmethod
    def of(cls, name: str, sealed: Sealed, recipe: str) -> Locked:
        """Make the lock entry for ``sealed``."""
        return cls(name, sealed.identity, sealed.layer, recipe, sealed.size, sealed.config.decode())

    @property
    def tag(self) -> str:
        """The engine's tag for exactly this image."""
        return f"tflite-kiln/{self.name}:{self.identity.removeprefix('sha256:')[:16]}"

    @property
    def sound(self) -> bool:
        """Whether the identity is that of the configuration, which names the layer."""
        config = self.config.encode()
        try:
            layers = parse_json_object(config)["rootfs"]["diff_ids"]
        except (MalformedError, KeyError, TypeError):
            return False
        return self.identity == f"sha256:{sha256_bytes(config)}" and layers == [self.layer]


def read_lock(docker_dir: Path) -> dict[str, Locked]:
    """Read all locked images by name; empty when there is no lock yet.

    Raises:
        ImageMismatchError: the file is damaged.
    """
    path = docker_dir / LOCK_FILE
    try:
        return parse_lock(read_file(path, bounds.LOCK.most, links=True))
    except FileNotFoundError:
        return {}
    except MalformedError as error:
        raise ImageMismatchError(f"{path} {error}.", "Restore it from version control.") from error


def parse_lock(text: bytes | str) -> dict[str, Locked]:
    """Parse the images of an untrusted ``images.lock``.

    Raises:
        MalformedError: it is not TOML, or not a lock of images.
    """
    return {name: _locked(name, entry) for name, entry in parse_toml(text).items()}


def _locked(name: str, entry: Any) -> Locked:
    fields = {*_FORMS, "size", "config"}
    if not IMAGE_NAME.fullmatch(name) or not isinstance(entry, dict) or set(entry) != fields:
        raise MalformedError(f"has missing or unknown fields for the image {name[:80]!r}")
    for field, form in _FORMS.items():
        if not isinstance(entry[field], str) or not re.fullmatch(form, entry[field]):
            raise MalformedError(f"has an invalid {field} of the image {name!r}")
    if type(entry["size"]) is not int or not 0 < entry["size"] <= MAX_SIZE:
        raise MalformedError(f"has an invalid size of the image {name!r}")
    if not isinstance(entry["config"], str):
        raise MalformedError(f"has no valid configuration of the image {name!r}")
    return Locked(name=name, **entry)


def write_lock(docker_dir: Path, name: str, sealed: Sealed, recipe: str) -> Locked:
    """Record ``sealed`` as the identity of image ``name``, with its contents list."""
    locked = read_lock(docker_dir)
    locked[name] = Locked.of(name, sealed, recipe)
    write_atomic(docker_dir / name / "contents.xz", pack_contents(sealed.contents))
    text = _HEAD
    for entry in sorted(locked.values(), key=lambda item: item.name):
        text += (
            f'\n[{entry.name}]\nidentity = "{entry.identity}"\nlayer = "{entry.layer}"\n'
            f'recipe = "{entry.recipe}"\nsize = {entry.size}\n'
            # A JSON string is a TOML string too.
            f"config = {json.dumps(entry.config)}\n"
        )
    write_atomic(docker_dir / LOCK_FILE, text.encode())
    return locked[name]


def locked_contents(docker_dir: Path, name: str) -> list[FileFact]:
    """Read the contents list of a locked image; empty when none is recorded.

    Raises:
        ImageMismatchError: the list is damaged.
    """
    path = docker_dir / name / "contents.xz"
    try:
        return read_contents(read_file(path, bounds.CONTENTS.most, links=True))
    except FileNotFoundError:
        return []
    except (lzma.LZMAError, ValueError) as error:
        raise ImageMismatchError(
            f"{path} cannot be read ({error}).", "Restore it from version control."
        ) from error


def locked_image(docker_dir: Path, name: str) -> Locked:
    """Return the lock entry of image ``name``.

    Raises:
        ImageMismatchError: there is no entry, or it was written for other sources.
    """
    entry = read_lock(docker_dir).get(name)
    recipe = recipe_digest(docker_dir, name)
    if entry is None or entry.recipe != recipe:
        said = "does not name it" if entry is None else "was written for an older one"
        raise ImageMismatchError(
            f"The sources of image {name!r} have changed: docker/images.lock {said}.",
            f"Build and record it with `kiln images build {name} --update-lock`, and commit "
            "docker/images.lock.",
        )
    return entry
