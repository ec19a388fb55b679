"""The typed recipe: what a model is made from, how, and into which variants.

A recipe is ``models/<name>/recipe.toml``. :func:`load` reads one and reports everything that is
wrong with it in a single :class:`~kiln.errors.RecipeError`, each problem with its key path;
:func:`discover` lists the recipes below a folder without reading them, so that one broken
recipe does not hide the others.

Nothing here looks at the files a recipe names: whether they exist and have their digests is
found out where they are used.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, cast, get_args

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
from pydantic_core import ErrorDetails, PydanticCustomError

from kiln.errors import RecipeError

# By name: the two modules are one, but no single environment has both to type-check against.
_toml: Any = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

RECIPE_FILE = "recipe.toml"

Variant = Literal["float32", "float16", "dynamic", "int8"]
Architecture = Literal["ssd", "centernet", "efficientdet"]
ImageName = Literal["odapi", "modelmaker"]
Profile = Literal["default", "seed"]

VARIANTS: tuple[Variant, ...] = get_args(Variant)

_MAX_RECIPE_BYTES = 1 << 20  # our recipes have 1-3 kB; anything near this is no recipe

_BYTE_UNITS = {
    "b": 1,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_TIME_UNITS = {"s": 1, "min": 60, "h": 3600}


def parse_size(text: str) -> int:
    """Bytes in a size such as ``6GiB``, ``1.5 GiB`` or ``500MB``.

    Raises:
        ValueError: ``text`` is no positive size with a known unit.

    >>> parse_size("6GiB")
    6442450944
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)", text)
    factor = _BYTE_UNITS.get(match[2].lower()) if match else None
    size = int(float(match[1]) * factor) if match and factor else 0
    if size <= 0:
        raise ValueError(f"{text!r} is not a size; write a number and a unit, such as '6GiB'")
    return size


def parse_duration(text: str) -> int:
    """Seconds in a duration such as ``30min``, ``90s`` or ``1h30min``.

    Raises:
        ValueError: ``text`` is no positive duration in hours, minutes and seconds.

    >>> parse_duration("1h30min")
    5400
    """
    match = re.fullmatch(r"(?:([0-9]+)h)?(?:([0-9]+)min)?(?:([0-9]+)s)?", text.replace(" ", ""))
    parts = match.groups() if match else ()
    seconds = sum(
        int(part) * factor
        for part, factor in zip(parts, (_TIME_UNITS[u] for u in ("h", "min", "s")), strict=False)
        if part
    )
    if seconds <= 0:
        raise ValueError(f"{text!r} is not a duration; write for example '30min' or '1h30min'")
    return seconds


def _plain_path(text: str) -> str:
    """Refuse what is no relative POSIX path in normal form (``..`` only at the front)."""
    if not text or text != text.strip() or any(ord(c) < 32 for c in text):
        raise ValueError("must be a relative path")
    if "\\" in text:
        raise ValueError(f"{text!r}: write paths with '/'")
    if text.startswith(("/", "~")) or re.match(r"[A-Za-z]:", text):
        raise ValueError(f"{text!r} is absolute; write it relative to the recipe's folder")
    return text


def _inner_path(text: str) -> str:
    _plain_path(text)
    if ".." in PurePosixPath(text).parts:
        raise ValueError(f"{text!r} leaves the source; '..' is not allowed here")
    return text


def _web_address(text: str) -> str:
    if not re.match(r"(https?|file)://[^\s]+$", text):
        raise ValueError(f"{text!r} is not an http(s) or file address")
    return text


def _finite_json(value: Any) -> Any:
    """Stage parameters become canonical JSON in keys: no dates, no NaN, no infinity."""
    if isinstance(value, Mapping):
        return {str(key): _finite_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_finite_json(item) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("parameters cannot hold nan or inf")
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"parameters cannot hold a {type(value).__name__}")


def _not_bool(value: Any) -> Any:
    # Python takes True for 1, TOML does not.
    return str(value).lower() if isinstance(value, bool) else value


def _not_empty(values: tuple[Variant, ...]) -> tuple[Variant, ...]:
    if not values:
        raise ValueError("must not be empty")
    return values


def _size_or_none(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


def _duration_or_none(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
GitBlobSha1 = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
#: Relative to the recipe's folder; may climb with ``..`` but not out of the models folder.
RecipePath = Annotated[str, AfterValidator(_plain_path)]
#: Relative to the source's root; never climbs.
SourcePath = Annotated[str, AfterValidator(_inner_path)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Params = Annotated[dict[str, Any], AfterValidator(_finite_json)]


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
            raise _wrong("pins nothing: give size, sha256 or git_blob_sha1")
        return self


class ArchiveSource(_Part):
    """A zoo-layout archive: downloaded from ``url`` or a mirror, or handed over by the user.

    ``checkpoint`` (a folder or a checkpoint prefix), ``pipeline_config`` and the paths in
    ``files`` are relative to ``root``, the archive's top folder.
    """

    kind: Literal["archive"]
    url: WebAddress
    mirrors: tuple[WebAddress, ...] = ()
    root: SourcePath
    checkpoint: SourcePath
    pipeline_config: SourcePath
    sha256: Sha256 | None = None
    git_blob_sha1: GitBlobSha1 | None = None
    files: tuple[SourceFile, ...] = ()

    @model_validator(mode="after")
    def _files_once(self) -> ArchiveSource:
        _refuse_repeats("files", (item.path for item in self.files))
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


class Labels(_Part):
    """Where the label map is: beside the recipe (``file``) or ``in_source``; exactly one."""

    file: RecipePath | None = None
    in_source: SourcePath | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Labels:
        if (self.file is None) == (self.in_source is None):
            raise _wrong("give exactly one of 'file' and 'in_source'")
        return self


class Export(_Part):
    """Overrides of the model's own configuration; an absent key leaves the model's own value.

    ``image_size`` is ``(height, width)`` in pixels.
    """

    max_detections: Annotated[int, Field(ge=1, le=1000)] | None = None
    image_size: (
        tuple[Annotated[int, Field(ge=32, le=4096)], Annotated[int, Field(ge=32, le=4096)]] | None
    ) = None


class Calibration(_Part):
    """The folder of images that full int8 quantisation measures activations on."""

    images: RecipePath


class Limits(_Part):
    """Bounds of each stage container: ``memory`` in bytes, ``timeout`` in seconds."""

    memory: Annotated[int | None, BeforeValidator(_size_or_none), Field(gt=0)] = None
    timeout: Annotated[int | None, BeforeValidator(_duration_or_none), Field(gt=0)] = None


class Recipe(_Part):
    """One model's recipe. Compare and copy it freely; it cannot be changed."""

    format: Annotated[Literal[1], BeforeValidator(_not_bool)] = Field(alias="schema")
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
    source: Annotated[ArchiveSource | StageSource, Field(discriminator="kind")]
    labels: Labels
    export: Export = Export()
    calibration: Calibration | None = None
    limits: Limits = Limits()

    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _goes_together(self) -> Recipe:
        _refuse_repeats("variants", self.variants)
        if "int8" in self.variants and self.calibration is None:
            raise _wrong("variant 'int8' needs [calibration] with a folder of images")
        if self.profile == "seed" and self.variants != ("dynamic",):
            raise _wrong("profile 'seed' knows only variants = [\"dynamic\"]")
        if self.image == "modelmaker" and self.architecture != "efficientdet":
            raise _wrong(f"image 'modelmaker' cannot make architecture {self.architecture!r}")
        return self

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
        """Key path -> path relative to the recipe's folder, for every local file or folder."""
        found = {}
        if self.labels.file is not None:
            found["labels.file"] = self.labels.file
        if self.calibration is not None:
            found["calibration.images"] = self.calibration.images
        if isinstance(self.source, StageSource):
            for name, item in self.source.inputs.items():
                found[f"source.inputs.{name}.path"] = item.path
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
            "Run kiln from the project's folder or name the models folder.",
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
        models_dir: the folder no path in the recipe may leave; by default the folder that
            holds the recipe's own folder.

    Raises:
        RecipeError: the file cannot be read, is not TOML, or says something wrong; the message
            names the file and the key path of every problem.
    """
    folder = path.parent.absolute()
    root = (models_dir if models_dir is not None else folder.parent).absolute()
    table = _read_toml(path)
    try:
        recipe = Recipe.model_validate(_tuples(table))
    except ValidationError as error:
        raise _recipe_error(path, [_describe(item, table) for item in error.errors()]) from None
    problems = []
    if recipe.name != folder.name:
        problems.append(f"name: {recipe.name!r} is not the folder's name, {folder.name!r}")
    for key, relative in recipe.local_paths().items():
        if not _stays_inside(folder, relative, root):
            problems.append(f"{key}: {relative!r} leaves the models folder")
    if problems:
        raise _recipe_error(path, problems)
    recipe._folder = folder
    return recipe


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_RECIPE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecipeError(
            f"{path}: the recipe cannot be read: {reason}.",
            "Check the path; `kiln models` shows the recipes there are.",
        ) from None
    if len(raw) > _MAX_RECIPE_BYTES:
        raise _recipe_error(path, ["is larger than 1 MiB: this is no recipe"])
    try:
        return cast("dict[str, Any]", _toml.loads(raw.decode("utf-8")))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _recipe_error(path, [f"line {line}: not UTF-8 text"]) from None
    except _toml.TOMLDecodeError as error:
        raise _recipe_error(path, [f"not valid TOML: {error}"]) from None
    except RecursionError:
        raise _recipe_error(path, ["not valid TOML: nested too deeply"]) from None


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


def _tuples(value: Any) -> Any:
    """TOML arrays as tuples: strict validation takes nothing else for an immutable field."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value


def _wrong(message: str) -> PydanticCustomError:
    # Braces would be taken for pydantic's own placeholders.
    return PydanticCustomError("recipe", "{what}", {"what": message})


def _refuse_repeats(what: str, items: Iterable[str]) -> None:
    seen: set[str] = set()
    for item in items:
        if item in seen:
            raise _wrong(f"{what}: {item!r} is there twice")
        seen.add(item)


# --- messages ------------------------------------------------------------------------------


def _recipe_error(path: Path, problems: list[str]) -> RecipeError:
    if len(problems) == 1:
        text = f"{path}: {problems[0]}."
    else:
        lines = "".join(f"\n  {problem}" for problem in problems)
        text = f"{path}: {len(problems)} problems:{lines}"
    return RecipeError(text, "Correct the recipe and run again.")


_TYPE_WORDS = {
    "string_type": "a string",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
_TOML_WORDS = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number with decimals",
    tuple: "a list",
    dict: "a table",
}
_PATTERN_WORDS = {
    r"^[0-9a-f]{64}$": "64 lower-case hexadecimal digits",
    r"^[0-9a-f]{40}$": "40 lower-case hexadecimal digits",
    r"^[a-z][a-z0-9_]*$": "a name of lower-case letters, digits and '_'",
    r"^[a-z0-9][a-z0-9_.-]*$": "a name of lower-case letters, digits, '_', '-' and '.'",
}


def _describe(error: ErrorDetails, table: Mapping[str, Any]) -> str:
    loc, kind, context = error["loc"], error["type"], error.get("ctx", {})
    value = error["input"]
    key = _key_path(loc)
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_did_you_mean(str(loc[-1]), _known_keys(loc))}"
    if kind == "missing":
        return f"{key}: missing"
    if kind == "too_long":
        return f"{key}: too many values"
    if kind == "union_tag_not_found":
        return f"{key}.kind: missing; known: {', '.join(_source_kinds())}"
    if kind == "union_tag_invalid":
        return f"{key}.kind: {_not_known(str(context['tag']), _source_kinds())}"
    if kind == "literal_error":
        if loc == ("schema",):
            return f"schema: {value!r} is not a format this version reads; known: 1"
        known = re.findall(r"'([^']*)'", str(context["expected"]))
        return f"{key}: {_not_known(value, known)}"
    if kind == "string_pattern_mismatch":
        words = _PATTERN_WORDS.get(str(context["pattern"]), str(context["pattern"]))
        return f"{key}: {value!r} must be {words}"
    if kind in ("value_error", "recipe"):
        what = context["error"] if kind == "value_error" else context["what"]
        return f"{key}: {what}" if key else str(what)
    if kind in _TYPE_WORDS:
        is_now = _TOML_WORDS.get(type(value), f"a {type(value).__name__}")
        return f"{key}: must be {_TYPE_WORDS[kind]}, not {is_now}"
    if kind == "string_too_short":
        return f"{key}: must not be empty"
    message = error["msg"].removeprefix("Input ")
    return f"{key}: {message[:1].lower()}{message[1:]}, not {value!r}"


def _not_known(value: object, known: list[str]) -> str:
    return f"{value!r} is not known{_did_you_mean(str(value), known)}; known: {', '.join(known)}"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _key_path(loc: tuple[int | str, ...]) -> str:
    """``("source", "archive", "files", 0, "size")`` -> ``source.files[0].size``."""
    text = ""
    for at, part in enumerate(loc):
        if isinstance(part, int):
            text += f"[{part}]"
        elif at == 1 and loc[0] == "source" and part in _source_kinds():
            continue  # pydantic names the union's branch; it is no key
        elif part != "[key]":
            text += f".{part}" if text else part
    return text


def _source_kinds() -> list[str]:
    return [
        get_args(model.model_fields["kind"].annotation)[0]
        for model in _models_in(Recipe.model_fields["source"].annotation)
    ]


def _models_in(annotation: Any) -> list[type[_Part]]:
    """The recipe tables that a field's type may hold, looking through unions and containers."""
    if isinstance(annotation, type) and issubclass(annotation, _Part):
        return [annotation]
    return [model for item in get_args(annotation) for model in _models_in(item)]


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """The keys of the table that holds the unknown key at ``loc``."""
    models: list[type[_Part]] = [Recipe]
    for part in loc[:-1]:
        if part in _source_kinds() and len(models) > 1:
            at = _source_kinds().index(str(part))
            models = [models[at]]
            continue
        below = [
            model
            for holder in models
            if isinstance(part, str) and part in holder.model_fields
            for model in _models_in(holder.model_fields[part].annotation)
        ]
        models = below or models
    return [field.alias or name for model in models for name, field in model.model_fields.items()]
