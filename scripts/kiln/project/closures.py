"""Find which part of the stage code each stage runs: the closure of its imports, with a digest.

The source is read, not run. A closure may hold a module too many (one that is only imported for
types); it must not lack one. So a module that imports by a way that cannot be followed here, or
that cannot be parsed, needs the whole folder, unless :data:`FOLLOWED` says why it does not. And
:mod:`kiln.running.executor` gives a container no more than the closures of its stages: a module
that is missing here is missing there, and the stage fails.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kiln.core.digest import sha256_bytes, tree_files, tree_key

if TYPE_CHECKING:
    from kiln.core.store import Store

#: Modules whose dynamic imports need nothing more of the stage code, and why.
FOLLOWED: Mapping[str, str] = {
    "protocol/parallel.py": "starts this package again, to run stages of the same request",
    "protocol/runner.py": "imports stages by name; each of a request has its own closure",
    "lite/model_maker.py": "imports modules of tflite-model-maker",
    "steps/compile.py": "runs Vela",
}

_PACKAGE = "stages"
_MAIN = f"{_PACKAGE}.__main__"

#: Imports and names by which code can reach what no import statement names.
_DYNAMIC_MODULES = ("importlib", "imp", "pkgutil", "runpy", "zipimport")
_PLAIN_MODULES = ("importlib.metadata",)
_DYNAMIC_NAMES = frozenset({"__import__", "__file__", "__path__", "__spec__", "exec", "eval"})
_TELLING = re.compile(
    rb"""['"]%s['".]|\\[xuUN0-7]|%s"""
    % (_PACKAGE.encode(), "|".join(sorted(_DYNAMIC_NAMES)).encode())
)
_MODULE_NAME = re.compile(rf"{_PACKAGE}(\.[A-Za-z_][A-Za-z0-9_]*)*")

#: Bounds of code that is worth reading, many times the size of ours; beyond, closures are whole.
_MAX_FILES = 2_000
_MAX_SOURCE = 1 << 20

#: What is remembered of a folder was found by this version of the reader.
_READER = 1
_REF = "stage-closures"


@dataclass(frozen=True)
class Closure:
    """The stage code that one stage runs.

    Args:
        digest: as :func:`kiln.core.digest.tree_digest`, of these files alone.
        files: their paths below the folder of stage code, sorted; empty for all of it.
    """

    digest: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageCode:
    """A folder of stage code.

    Args:
        digest: of the whole folder.
        closures: of the stages that run less than the whole.
    """

    digest: str
    closures: Mapping[str, Closure] = field(default_factory=dict)

    def of(self, stage: str) -> Closure:
        """Return what a stage runs: the whole, where nothing less is known."""
        return self.closures.get(stage, Closure(self.digest))

    def wrong_in(self, files: Mapping[str, tuple[bool, str]]) -> list[str]:
        """List the stages whose closure is not what a folder holds.

        Args:
            files: of the folder, as :func:`kiln.core.digest.tree_files`.
        """
        return [
            stage
            for stage, closure in self.closures.items()
            if not files.keys() >= set(closure.files)
            or _digest(closure.files, files) != closure.digest
        ]


def read_stage_code(folder: Path, store: Store | None = None) -> StageCode:
    """Read a folder of stage code.

    Args:
        store: remembers what was found, so that an unchanged folder is parsed once.

    Raises:
        StoreError: as :func:`kiln.core.digest.tree_digest`.
    """
    files = tree_files(folder)
    whole = tree_key(files)
    name = f"{_READER}-{whole}"
    known = None if store is None else _remembered(store, name, files)
    if known is None:
        known, unchanged = _read(folder, files)
        if store is not None and unchanged:
            store.set_ref(_REF, name, {stage: list(paths) for stage, paths in known.items()})
    closures = {stage: Closure(_digest(paths, files), paths) for stage, paths in known.items()}
    return StageCode(whole, closures)


def _digest(paths: Iterable[str], files: Mapping[str, tuple[bool, str]]) -> str:
    return tree_key({path: files[path] for path in paths})


def _remembered(
    store: Store, name: str, files: Mapping[str, object]
) -> dict[str, tuple[str, ...]] | None:
    found = store.get_ref(_REF, name)
    if found is None:
        return None
    sound = all(
        isinstance(paths, list) and paths and all(isinstance(path, str) for path in paths)
        for paths in found.values()
    )
    if not sound or not files.keys() >= {path for paths in found.values() for path in paths}:
        return None
    return {stage: tuple(paths) for stage, paths in found.items()}


def _read(
    folder: Path, files: Mapping[str, tuple[bool, str]]
) -> tuple[dict[str, tuple[str, ...]], bool]:
    """Return the closures by stage, and whether the files are still those of the digests."""
    sources = {}
    unchanged = True
    for path, (_, digest) in files.items():
        if path.endswith(".py"):
            with (folder / path).open("rb") as file:
                data = file.read(_MAX_SOURCE + 1)
            unchanged &= len(data) > _MAX_SOURCE or sha256_bytes(data) == digest
            sources[path] = data
    return closures_of(files, sources), unchanged


def closures_of(files: Iterable[str], sources: Mapping[str, bytes]) -> dict[str, tuple[str, ...]]:
    """Find the closures of all stages, by stage: the paths of the files that it runs, sorted.

    A stage that needs the whole folder is left out. The code may be anybody's: nothing in it makes
    this fail.

    Args:
        files: all paths below the folder.
        sources: the content of those that are Python.
    """
    paths = sorted(files)
    if len(paths) > _MAX_FILES:
        return {}
    code = _Code(paths, sources)
    found = {}
    for name, path in code.modules.items():
        if path.startswith("steps/") and path.count("/") == 1 and not path.endswith("__init__.py"):
            closure = code.closure([_MAIN, name])
            if closure is not None and len(closure) < len(paths):
                found[PurePosixPath(path).stem] = closure
    return found


class _Code:
    """The modules of a folder, each parsed once."""

    def __init__(self, paths: list[str], sources: Mapping[str, bytes]) -> None:
        self._sources = sources
        self.modules = {_module_name(path): path for path in paths if path.endswith(".py")}
        self._data = _data_by_folder(paths)
        self._needs: dict[str, set[str] | None] = {}

    def closure(self, roots: Iterable[str]) -> tuple[str, ...] | None:
        """Return the files that modules need; None for all of them."""
        found: set[str] = set()
        waiting = list(roots)
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            if name not in self.modules:
                return None  # not a folder of the form that we know
            found.add(name)
            needs = self._needed(name)
            if needs is None:
                return None
            waiting += needs
        paths = {self.modules[name] for name in found}
        data = (item for path in paths for item in self._data.get(_folder(path), ()))
        return tuple(sorted(paths.union(data)))

    def _needed(self, name: str) -> set[str] | None:
        if name not in self._needs:
            path = self.modules[name]
            tree = _parsed(self._sources[path])
            imports = None if tree is None else self._imports(tree, name, path)
            self._needs[name] = imports
        return self._needs[name]

    def _imports(self, tree: ast.AST, name: str, path: str) -> set[str] | None:
        """Return the modules of the folder that a module needs; None if that cannot be said."""
        nodes = list(_nodes(tree, self._sources[path]))
        if path not in FOLLOWED and any(map(_is_dynamic, nodes)):
            return None
        is_package = path.endswith("__init__.py")
        package = name if is_package else name.rpartition(".")[0]
        found = {name}
        for node in nodes:
            for wanted in _named(node, package):
                if wanted.endswith(".*"):
                    folder = wanted.removesuffix("*")
                    found |= {other for other in self.modules if other.startswith(folder)}
                    wanted = wanted.removesuffix(".*")
                found.add(wanted)
        needed = {part for wanted in found for part in _with_parents(wanted)}
        return needed & self.modules.keys()


def _parsed(source: bytes) -> ast.AST | None:
    if len(source) > _MAX_SOURCE:
        return None
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _nodes(tree: ast.AST, source: bytes) -> Iterator[ast.AST]:
    """Yield the nodes of a module that can tell what it needs, at all depths, without recursion.

    Imports are statements. Names and strings matter where the text has such words, or letters and
    escapes that could stand for them; that is rare, and looking at all takes four times as long.
    """
    if not source.isascii() or _TELLING.search(source):
        yield from ast.walk(tree)
        return
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            statements = getattr(node, block, ())
            if isinstance(statements, list):  # (that of a lambda is an expression)
                waiting += statements


def _is_dynamic(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(_by_name(alias.name) for alias in node.names)
    if isinstance(node, ast.ImportFrom) and not node.level:
        names = (f"{node.module}.{alias.name}" for alias in node.names)
        return any(_by_name(name) for name in names)
    return isinstance(node, ast.Name) and node.id in _DYNAMIC_NAMES


def _by_name(module: str) -> bool:
    if any(module == plain or module.startswith(f"{plain}.") for plain in _PLAIN_MODULES):
        return False
    return module.partition(".")[0] in _DYNAMIC_MODULES


def _named(node: ast.AST, package: str) -> Iterator[str]:
    """Yield the names that may be modules: ``.*`` at the end for all of a package."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")
            above = above[: len(above) - node.level + 1]
            base = ".".join([*above, *filter(None, [base])])
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from filter(_MODULE_NAME.fullmatch, [node.value])  # one that a child process runs


def _with_parents(name: str) -> Iterator[str]:
    """Yield a module and the packages that Python imports before it."""
    parts = name.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _module_name(path: str) -> str:
    parts = [_PACKAGE, *PurePosixPath(path).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _folder(path: str) -> str:
    return str(PurePosixPath(path).parent)


def _data_by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    """Map each folder with modules to the files that are not Python, there or below.

    A module may read any of its package's, so they belong to all modules of the package.
    """
    packages = {_folder(path) for path in paths if path.endswith(".py")}
    found: dict[str, list[str]] = {}
    for path in paths:
        if not path.endswith(".py"):
            above = map(str, PurePosixPath(path).parents)
            found.setdefault(next((item for item in above if item in packages), "."), []).append(
                path
            )
    return found
