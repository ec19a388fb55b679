"""Turn pydantic's errors about a recipe into one line each, with the key path."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

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


def describe(error: ErrorDetails, recipe: type[BaseModel]) -> str:
    """Describe one problem as ``key path: what is wrong``.

    Args:
        error: pydantic's error.
        recipe: the model of the whole recipe; unknown keys are compared with its keys.
    """
    loc, kind, context = error["loc"], error["type"], error.get("ctx", {})
    value = error["input"]
    key = _key_path(loc, source_kinds(recipe))
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_did_you_mean(str(loc[-1]), _known_keys(loc, recipe))}"
    if kind == "missing":
        return f"{key}: missing"
    if kind == "too_long":
        return f"{key}: too many values"
    if kind == "union_tag_not_found":
        return f"{key}.kind: missing; known: {', '.join(source_kinds(recipe))}"
    if kind == "union_tag_invalid":
        return f"{key}.kind: {_not_known(str(context['tag']), source_kinds(recipe))}"
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


def _key_path(loc: tuple[int | str, ...], kinds: list[str]) -> str:
    """Format ``("source", "archive", "files", 0, "size")`` as ``source.files[0].size``."""
    text = ""
    for at, part in enumerate(loc):
        if isinstance(part, int):
            text += f"[{part}]"
        elif at == 1 and loc[0] == "source" and part in kinds:
            continue  # pydantic's name of the union's branch, not a key
        elif part != "[key]":
            text += f".{part}" if text else part
    return text


def source_kinds(recipe: type[BaseModel]) -> list[str]:
    """List the values that ``source.kind`` may have."""
    return [
        get_args(model.model_fields["kind"].annotation)[0]
        for model in models_in(recipe.model_fields["source"].annotation)
    ]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """List the recipe tables that a field's type may hold, inside unions and containers too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for item in get_args(annotation) for model in models_in(item)]


def _known_keys(loc: tuple[int | str, ...], recipe: type[BaseModel]) -> list[str]:
    """List the keys of the table that holds the unknown key at ``loc``."""
    kinds = source_kinds(recipe)
    models: list[type[BaseModel]] = [recipe]
    for part in loc[:-1]:
        if part in kinds and len(models) > 1:
            models = [models[kinds.index(str(part))]]
            continue
        below = [
            model
            for holder in models
            if isinstance(part, str) and part in holder.model_fields
            for model in models_in(holder.model_fields[part].annotation)
        ]
        models = below or models
    return [field.alias or name for model in models for name, field in model.model_fields.items()]
