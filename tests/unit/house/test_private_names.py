"""No module uses a name with a leading underscore of another one of ours.

Ruff refuses such an attribute (SLF001), but not ``from module import _name``, and sees no code in
strings, which some programs run in processes of their own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from places import ROOT

OURS = ("kiln", "stages", "locks", "variations", "benchmarks")
FILES = sorted(
    path
    for folder in ("scripts", "docker")
    for path in (ROOT / folder).rglob("*.py")
    if ".venv" not in path.parts
)


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS


def code_in_strings(tree: ast.AST) -> Iterator[ast.AST]:
    """The trees of string constants that are programs with an import."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and "import " in node.value
        ):
            try:
                yield ast.parse(node.value)
            except (SyntaxError, ValueError):
                continue


def reached(tree: ast.AST) -> list[str]:
    """Private names of our other modules that are used in a program, and in those within it."""
    modules: set[str] = set()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or is_ours(node.module or "")):
            found += [f"{node.module}.{item.name}" for item in node.names if is_private(item.name)]
            modules |= {item.asname or item.name for item in node.names}
        elif isinstance(node, ast.Import):
            modules |= {item.asname or item.name for item in node.names if is_ours(item.name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            holder = ast.unparse(node.value)
            if holder in modules:
                found.append(f"{holder}.{node.attr}")
    return found + [name for inner in code_in_strings(tree) for name in reached(inner)]


@pytest.mark.parametrize(
    "code",
    [
        "from kiln.core.store import _name",
        "from kiln.core.store import _name as name",
        "from . import _name",
        "from kiln.core import store\nstore._name()",
        "from kiln.core import store as other\nother._name",
        "import kiln.core.store\nkiln.core.store._name",
        "run('from stages.tflite import packing; packing._name()')",
        "def f():\n    from kiln.core import store\n    return [store._name]",
    ],
)
def test_what_is_refused(code: str) -> None:
    assert len(reached(ast.parse(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "from kiln.core.store import Store\nStore.__name__",
        "from tensorflow.lite.python import lite\nlite._mlir_quantize",
        "from __future__ import annotations\nself._name",
        "'from kiln, import _'",
    ],
)
def test_what_is_not(code: str) -> None:
    assert reached(ast.parse(code)) == []


def test_no_module_uses_private_names_of_another() -> None:
    trees = {path: ast.parse(path.read_text("utf-8")) for path in FILES}
    assert len(trees) > 200, "the programs were not found"
    found = {str(path.relative_to(ROOT)): reached(tree) for path, tree in trees.items()}
    assert {path: names for path, names in found.items() if names} == {}
