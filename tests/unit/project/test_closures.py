"""Which stage code a stage runs: forms of imports, what cannot be followed, and our own stages.

The closures of our stages are compared with what `modulefinder` of the standard library finds in
their bytecode. It shares nothing with the reader, which looks at the source.
"""

from __future__ import annotations

import modulefinder
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from places import ROOT

from kiln.core.digest import tree_digest, tree_files
from kiln.core.store import Store
from kiln.project import closures
from kiln.project.closures import Closure, StageCode, closures_of, read_stage_code

STAGES = ROOT / "docker" / "stages"
NAMES = sorted(path.stem for path in (STAGES / "steps").glob("*.py") if path.stem != "__init__")

#: A folder of stage code: ``look`` imports nothing, ``read`` what a test says.
PLAIN = {
    "__init__.py": "",
    "__main__.py": "from stages.protocol.runner import main\n",
    "protocol/__init__.py": "",
    "protocol/runner.py": "import importlib\n",
    "steps/__init__.py": "",
    "steps/look.py": "",
    "files/__init__.py": "",
    "files/pixels.py": "",
    "files/labels.py": "from . import pixels\n",
    "gates/__init__.py": "from stages.gates import result\n",
    "gates/result.py": "",
    "gates/parity.py": "from ..files.labels import read\n",
}
ALWAYS = {"__init__.py", "__main__.py", "protocol/__init__.py", "protocol/runner.py"}
ALWAYS |= {"steps/__init__.py", "steps/read.py"}
FILES, LABELS = {"files/__init__.py", "files/pixels.py"}, {"files/labels.py"}
GATES = {"gates/__init__.py", "gates/result.py"}
PARITY = GATES | FILES | LABELS | {"gates/parity.py"}


def read(source: str | bytes, **more: str) -> set[str] | None:
    """What a stage with that source needs beside what all need; None for the whole folder."""
    code = {name: text.encode() for name, text in (PLAIN | more).items()}
    code["steps/read.py"] = source.encode() if isinstance(source, str) else source
    found = closures_of(code, {name: data for name, data in code.items() if name.endswith(".py")})
    assert set(found["look"]) == ALWAYS - {"steps/read.py"} | {"steps/look.py"}
    if "read" not in found:
        return None
    assert set(found["read"]) >= ALWAYS and list(found["read"]) == sorted(found["read"])
    return set(found["read"]) - ALWAYS


IMPORTS = {
    "": set(),
    "import stages.files.pixels": FILES,
    "import json, stages.files.pixels as p": FILES,
    "from stages.files import pixels": FILES,
    "from stages.files.pixels import size": FILES,
    "from stages.files import missing": {"files/__init__.py"},
    "from stages.files import *": FILES | LABELS,
    "from stages import files": {"files/__init__.py"},
    "from ..files import pixels": FILES,
    "from .. import files": {"files/__init__.py"},
    "from ..files.labels import read": FILES | LABELS,
    "from .look import run": {"steps/look.py"},
    "from . import look": {"steps/look.py"},
    "import stages.gates.result": GATES,  # a package's own imports come with it
    "from stages.gates.parity import judge": PARITY,
    "def run():\n    def inner():\n        from stages.files import pixels": FILES,
    "class A:\n    async def run(self):\n        import stages.files.pixels": FILES,
    "try:\n    import stages.files.pixels\nexcept ImportError:\n    pass": FILES,
    "if TYPE_CHECKING:\n    from stages.files import pixels": FILES,
    "run([python, '-m', 'stages.files.pixels'])": FILES,  # a child process
    "'see stages.files.pixels'": set(),
    "import tensorflow, numpy.linalg\nfrom files import pixels": set(),
    "from .....files import pixels": set(),  # leaves the package: Python refuses it as well
    "import importlib.metadata\nfrom importlib import metadata": set(),
}


@pytest.mark.parametrize("source", IMPORTS)
def test_forms_of_imports(source: str) -> None:
    assert read(source) == IMPORTS[source]


@pytest.mark.parametrize(
    "source",
    [
        "import importlib",
        "import importlib.util as u",
        "from importlib import import_module, metadata",
        "def run():\n    from importlib import resources",
        "import runpy",
        "from pkgutil import walk_packages",
        "__import__('stages.files')",
        "load = __import__",
        "exec(text)",
        "eval(text)",
        "open(__file__)",
        "def broken(",
        "\0",
        b"\xff\xfe",
        "# coding: nonsense\n",
        "(" * 5_000,
        "-" * 100_000 + "1",
        f"x = '{'y' * (1 << 20)}'",
    ],
    ids=lambda source: str(source[:24]),
)
def test_what_cannot_be_followed_needs_the_whole(source: str | bytes) -> None:
    assert read(source) is None


def test_so_does_whatever_imports_it() -> None:
    assert read("from stages.files import odd", **{"files/odd.py": "import runpy"}) is None


def test_other_files_belong_to_all_modules_of_their_package() -> None:
    data = {"files/a.txt": "", "files/deep/er/b.bin": "", "gates/c.txt": ""}
    assert read("from stages.files import pixels", **data) == {
        *FILES, "files/a.txt", "files/deep/er/b.bin",
    }  # fmt: skip
    assert read("", **data) == set()


def test_a_folder_of_another_form_is_taken_whole() -> None:
    files = {"steps/look.py": b"", "main.py": b""}
    assert closures_of(files, files) == {}
    many = {f"m{number}.py": b"" for number in range(3_000)} | {
        name: text.encode() for name, text in PLAIN.items()
    }
    assert closures_of(many, many) == {}


# --- a folder on disk --------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in PLAIN.items():
        place = tmp_path / "stages" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return tmp_path / "stages"


def test_a_closure_s_digest_is_that_of_a_folder_with_these_files(
    folder: Path, tmp_path: Path
) -> None:
    code = read_stage_code(folder)
    assert code.digest == tree_digest(folder)
    closure = code.of("look")
    for name in closure.files:
        (tmp_path / "part" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, tmp_path / "part" / name)
    assert closure.digest == tree_digest(tmp_path / "part") != code.digest
    assert code.of("unheard") == Closure(code.digest)


def test_only_what_a_stage_runs_counts(folder: Path) -> None:
    before = read_stage_code(folder)
    (folder / "gates/parity.py").write_text("# a comment\n")
    after = read_stage_code(folder)
    assert before.digest != after.digest and before.of("look") == after.of("look")
    (folder / "protocol/runner.py").chmod(0o755)
    assert read_stage_code(folder).of("look") != after.of("look")


def test_it_is_parsed_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    first = read_stage_code(folder, store)
    with monkeypatch.context() as patch:
        patch.setattr(closures, "_parsed", None)  # to call it would fail
        assert read_stage_code(folder, store) == first
    (folder / "steps/look.py").write_text("import stages.files.pixels")
    assert set(read_stage_code(folder, store).of("look").files) > FILES


@pytest.mark.parametrize("rest", [{"look": []}, {"look": ["gone.py"]}, {"look": 3}, {"look": [3]}])
def test_a_damaged_memory_is_no_memory(
    folder: Path, tmp_path: Path, rest: Mapping[str, object]
) -> None:
    store = Store(tmp_path / "store")
    first = read_stage_code(folder, store)
    (place,) = (store.root / "refs" / "stage-closures").iterdir()
    store.set_ref("stage-closures", place.stem, dict(rest))
    assert read_stage_code(folder, store) == first


def test_a_recorded_closure_is_held_against_the_files(folder: Path) -> None:
    code, files = read_stage_code(folder), tree_files(folder)
    assert code.closures and not code.wrong_in(files)
    look = code.of("look")
    for wrong in (
        Closure("0" * 64, look.files),
        Closure(look.digest, look.files[1:]),
        Closure(look.digest, (*look.files, "steps/none.py")),
    ):
        assert StageCode(code.digest, {"look": wrong}).wrong_in(files) == ["look"]


# --- our own stages ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours() -> StageCode:
    return read_stage_code(STAGES)


def test_every_stage_of_ours_runs_less_than_the_whole(ours: StageCode) -> None:
    """A new dynamic import ends here: declare it in `closures.FOLLOWED`, with the reason."""
    assert sorted(ours.closures) == NAMES
    for path in closures.FOLLOWED:
        assert (STAGES / path).is_file(), f"{path} is gone"


@pytest.mark.parametrize("name", NAMES)
def test_a_closure_has_every_module_that_its_bytecode_names(ours: StageCode, name: str) -> None:
    finder = modulefinder.ModuleFinder(path=[str(STAGES.parent)])
    finder.run_script(str(STAGES / "__main__.py"))
    finder.import_hook(f"stages.steps.{name}")
    found = {
        Path(module.__file__).relative_to(STAGES).as_posix()
        for module in finder.modules.values()
        if module.__file__ is not None
    }
    assert f"steps/{name}.py" in found and "protocol/runner.py" in found
    assert found == set(ours.of(name).files)
