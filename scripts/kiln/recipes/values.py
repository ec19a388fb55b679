"""Validate the single values of a recipe: sizes, durations, names, digests, paths.

Each is a type for pydantic, or a function that raises a clear error for an invalid value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

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
    """Parse a size such as ``6GiB``, ``1.5 GiB`` or ``500MB`` into bytes.

    Raises:
        ValueError: ``text`` is not a positive size with a known unit.

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
    """Parse a duration such as ``30min``, ``90s`` or ``1h30min`` into seconds.

    Raises:
        ValueError: ``text`` is not a positive duration in hours, minutes and seconds.

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


def plain_path(text: str) -> str:
    """Refuse all but a relative POSIX path."""
    if not text or text != text.strip() or any(ord(c) < 32 for c in text):
        raise ValueError("must be a relative path")
    if "\\" in text:
        raise ValueError(f"{text!r}: write paths with '/'")
    if text.startswith(("/", "~")) or re.match(r"[A-Za-z]:", text):
        raise ValueError(f"{text!r} is absolute; write it relative to the recipe's folder")
    return text


def local_path(text: str) -> str:
    """Refuse what cannot be a local path; it may be absolute and hold ``..``."""
    if not text or "\0" in text:
        raise ValueError("must be a path")
    if text == "~" or text.startswith("~/"):
        raise ValueError(f"{text!r}: '~' is the shell's; write the folder itself")
    return text


#: Key of the validation context: whether a recipe's paths may lead anywhere on this machine.
ANYWHERE = "anywhere"


def recipe_path(text: str, info: ValidationInfo) -> str:
    """Check a path in a recipe by the rule for its kind of source."""
    return local_path(text) if (info.context or {}).get(ANYWHERE) else plain_path(text)


def file_name(text: str) -> str:
    if not text or "/" in text or text in (".", "..") or any(ord(c) < 32 for c in text):
        raise ValueError(f"{text!r} is not the name of a file, without a folder")
    return text


def inner_path(text: str) -> str:
    plain_path(text)
    if ".." in PurePosixPath(text).parts:
        raise ValueError(f"{text!r} leaves the source; '..' is not allowed here")
    return text


def web_address(text: str) -> str:
    if not re.match(r"(https?|file)://[^\s]+$", text):
        raise ValueError(f"{text!r} is not an http(s) or file address")
    return text


def finite_json(value: Any) -> Any:
    """Refuse what canonical JSON, and so a stage's key, cannot hold: dates, NaN, infinity."""
    if isinstance(value, Mapping):
        return {str(key): finite_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(finite_json(item) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("parameters cannot hold nan or inf")
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"parameters cannot hold a {type(value).__name__}")


def not_bool(value: Any) -> Any:
    # Python takes True for 1, TOML does not.
    return str(value).lower() if isinstance(value, bool) else value


def size_or_none(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


def duration_or_none(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
GitBlobSha1 = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
#: Relative to the recipe's folder; may climb with ``..`` but not out of the models folder, except
#: in a recipe with a source of kind ``local`` or ``saved_model``.
RecipePath = Annotated[str, AfterValidator(recipe_path)]
#: Anywhere on this machine: relative to the recipe's folder, or absolute.
LocalPath = Annotated[str, AfterValidator(local_path)]
FileName = Annotated[str, AfterValidator(file_name)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
#: 0 to 1, both included.
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
#: Relative to the source's root; never climbs.
SourcePath = Annotated[str, AfterValidator(inner_path)]
WebAddress = Annotated[str, AfterValidator(web_address)]
Params = Annotated[dict[str, Any], AfterValidator(finite_json)]


class Part(BaseModel):
    """Base of every table in a recipe: immutable, unknown keys refused, no type coercion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def tuples(value: Any) -> Any:
    """Turn TOML arrays into tuples, as strict validation requires for immutable fields."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(tuples(item) for item in value)
    return value


def wrong(message: str) -> PydanticCustomError:
    # Braces would be taken for pydantic's own placeholders.
    return PydanticCustomError("recipe", "{what}", {"what": message})


def refuse_repeats(what: str, items: Iterable[str]) -> None:
    seen: set[str] = set()
    for item in items:
        if item in seen:
            raise wrong(f"{what}: {item!r} is there twice")
        seen.add(item)
