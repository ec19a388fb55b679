"""Values that nobody expects, and documents that hold them where something else was."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

#: Paths that lead out, for wherever a name of a file is wanted; ``{canary}`` is replaced.
PATHS = (
    "{canary}", "../{canary}", "../../../../../../../../../../..{canary}", "/etc/passwd",
    "/dev/zero", "/dev/stdin", "/proc/self/environ", "..", ".", "", "/", "a/../../b", "a//b", "./a",
    "a/", "\0",
    "a\0b", "~/x", "C:\\x", "..\\..\\x", "-rf", "--help", "x" * 300, "/".join("d" * 200),
    "a/" * 3000,
    "\u202etxt", "\x1b[2J", "a\nb", "\ud800", "$(id)", "%s%n", "{0}", "file:///etc/passwd",
)  # fmt: skip
TEXTS = (
    "", " ", "x" * 100_000, "\x1b]0;t\x07", "\u202e", "\u2066", "\x00", "\x9b31m", "\ud800",
    "\U0010ffff",
    "<script>alert(1)</script>", "[bold]x[/bold]", "'; --", "a" * 64, "0" * 64,
    "sha256:" + "f" * 64, "sha256:..", "null", "NaN", "1e999", "9" * 5000, "2026-13-45T99:99:99Z",
    "git+https://x/y@z",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**18, 10**400, 0.0, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), float("-inf"), True, False, 3.7,
)  # fmt: skip


def odd_value(dice: random.Random) -> Any:
    """Some value of some type."""
    makers: list[Callable[[], Any]] = [
        lambda: None,
        lambda: dice.choice(NUMBERS),
        lambda: dice.choice(TEXTS),
        lambda: dice.choice(PATHS),
        list,
        dict,
        lambda: [odd_value(dice) for _ in range(dice.randrange(4))],
        lambda: {dice.choice(TEXTS): odd_value(dice)},
        lambda: [None] * dice.choice([10, 10_000]),
        lambda: nested(dice.choice([5, 70, 400]), dice),
    ]
    return dice.choice(makers)()


def nested(depth: int, dice: random.Random) -> Any:
    """Lists or tables in each other."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if dice.random() < 0.5 else {"a": value}
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) below a value."""
    todo = [value]
    while todo:
        item = todo.pop()
        keys = item.items() if isinstance(item, dict) else enumerate(item)
        for key, below in list(keys):
            yield item, key
            if isinstance(below, dict | list):
                todo.append(below)


def changed(document: Any, dice: random.Random, canary: str) -> Any:
    """A copy of plain data with one to three things in it otherwise."""
    made = copy.deepcopy(document)
    for _ in range(dice.randint(1, 3)):
        places = list(_places(made))
        if not places:
            return odd_value(dice)
        holder, key = dice.choice(places)
        how = dice.randrange(7)
        old = holder[key]
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[dice.choice(PATHS)] = holder.pop(key)
        elif how == 2 and isinstance(old, str):
            holder[key] = dice.choice(PATHS)
        elif how == 3 and isinstance(old, int | float):
            holder[key] = dice.choice(NUMBERS)
        elif how == 4 and isinstance(old, list):
            holder[key] = old * dice.choice([2, 50])
        elif how == 5 and isinstance(holder, dict):
            holder[dice.choice(["path", "files", "extra", "__class__", *PATHS[:5]])] = old
        else:
            holder[key] = odd_value(dice)
    return _with_paths(made, canary)


def _with_paths(value: Any, canary: str) -> Any:
    if isinstance(value, str):
        return value.replace("{canary}", canary)
    if isinstance(value, list):
        return [_with_paths(item, canary) for item in value]
    if isinstance(value, dict):
        return {key.replace("{canary}", canary): _with_paths(v, canary) for key, v in value.items()}
    return value


def json_text(document: Any) -> bytes:
    """As JSON, with everything in it that Python's writer would write, right or wrong."""
    return json.dumps(document).encode("utf-8", "surrogatepass")


def spoilt_json(text: bytes, dice: random.Random) -> bytes:
    """A JSON document spoilt as text: what no writer of values would write."""
    deep = dice.choice([100, 5000, 200_000])
    ways: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: text[: dice.randrange(len(text) or 1)],
        lambda: b"\xff\xfe" + text,
        lambda: b"\xef\xbb\xbf" + text,
        lambda: text + text,
        lambda: text.replace(b"{", b'{"a": 1, "a": 2,', 1),
        lambda: b"[" * deep + b"]" * deep,
        lambda: b'{"a":' * deep + b"1" + b"}" * deep,
        lambda: text.replace(b"1", b"9" * 5000, 1),
        lambda: text.replace(b"1", b"1e999", 1),
        lambda: text.replace(b'"', b'"\\ud800', 1),
        lambda: text.replace(b'":', b'": NaN, "x":', 1),
        lambda: text.decode("utf-8", "replace").encode("utf-16"),
        lambda: flipped(text, dice),
        lambda: b" " * (20 << 20) + text,
    ]
    return dice.choice(ways)()


def flipped(data: bytes, dice: random.Random, most: int = 8) -> bytes:
    """Some bytes otherwise."""
    made = bytearray(data)
    for _ in range(dice.randint(1, most) if made else 0):
        made[dice.randrange(len(made))] = dice.randrange(256)
    return bytes(made)


def spoilt_toml(text: str, dice: random.Random) -> bytes:
    """A TOML document with something odd in it."""
    lines = text.splitlines()
    deep = dice.choice([70, 1000, 50_000])
    parts = dice.choice([70, 5000, 100_000])
    odd = [
        f"x = {'[' * deep}{']' * deep}",
        f"x = {'{a=' * deep}1{'}' * deep}",
        f"{'a.' * parts}b = 1",
        f"[{'a.' * parts}b]",
        f"x = {'9' * 5000}",
        "x = 1e999",
        "x = nan",
        "x = inf",
        "x = -inf",
        "x = 1979-05-27T07:32:00Z",
        "x = 07:32:00",
        'x = "\\ud800"',
        f'x = "{"y" * 1_000_000}"',
        f'x = """{"y" * 300_000}"""',
        "\n".join(f"k{number} = {number}" for number in range(20_000)),
        "\n".join(f"[t{number}]" for number in range(5000)),
        "[[signer]]\n" * 5000,
        "x = \x01",
        "\ufeff",
        "= 1",
        '"" = 1',
        'x = "\u202e\x1b"',
    ]
    ways: list[Callable[[], str | bytes]] = [
        lambda: "",
        lambda: "\n".join([*lines, dice.choice(odd)]),
        lambda: "\n".join([dice.choice(odd), *lines]),
        lambda: "\n".join([*lines, dice.choice(odd)]),
        lambda: "\n".join([dice.choice(odd), *lines]),
        lambda: "\n".join(_replaced(lines, dice)),
        lambda: "\n".join(_replaced(lines, dice)),
        lambda: "\n".join(_replaced(lines, dice)),
        lambda: "\n".join(line for line in lines if dice.random() > 0.1),
        lambda: "\n".join(dice.sample(lines, len(lines))),
        lambda: text + text,
        lambda: text.encode("utf-16"),
        lambda: flipped(text.encode(), dice),
        lambda: b"\xff" + text.encode(),
    ]
    made = dice.choice(ways)()
    return made if isinstance(made, bytes) else made.encode("utf-8", "surrogatepass")


def _replaced(lines: list[str], dice: random.Random) -> list[str]:
    """One value otherwise."""
    values = [number for number, line in enumerate(lines) if " = " in line]
    if not values:
        return lines
    number = dice.choice(values)
    odd = [
        *("1", "-1", "0", "1.5", "nan", "inf", "true", "[]", "{}", '""', "[1]", "[[]]", '["a", 1]'),
        *("{ a = 1 }", "1979-05-27", "9999999999999999999999", "07:32:00", f'"{"x" * 3000}"'),
        *(json.dumps(path) for path in PATHS if "\ud800" not in path),
        *(json.dumps(text[:3000]) for text in TEXTS if "\ud800" not in text),
    ]
    changed_line = f"{lines[number].partition(' = ')[0]} = {dice.choice(odd)}"
    return [*lines[:number], changed_line, *lines[number + 1 :]]
