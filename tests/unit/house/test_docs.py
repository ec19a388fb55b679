"""The documents against the program: whatever can be compared, is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest
from places import ROOT

from kiln.cli.main import cli
from kiln.core import errors
from kiln.core.errors import KilnError
from kiln.recipes.messages import models_in
from kiln.recipes.recipe import Recipe, load
from kiln.recipes.values import Part

DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").glob("*.md")),
]
README = DOCUMENTS[0].read_text("utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text("utf-8")
PACKAGE = ROOT / "scripts" / "kiln"


def rows(text: str) -> list[list[str]]:
    """The cells of every table row in ``text``."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("|--")
    ]


def table_of_exit_codes() -> str:
    classes = sorted([KilnError, *KilnError.__subclasses__()], key=lambda cls: cls.exit_code)
    lines = ["| Code | Kind | Meaning |", "|---|---|---|", "| 0 | | done |"]
    for cls in classes:
        if cls is KilnError or not cls.__module__.startswith("kiln.core.errors"):
            continue
        meaning = " ".join((cls.__doc__ or "").split()).replace("``", "`")
        lines.append(f"| {cls.exit_code} | {cls.kind} | {meaning} |")
    return "\n".join(lines)


def test_exit_codes() -> None:
    text = (ROOT / "docs" / "exit-codes.md").read_text("utf-8")
    table = table_of_exit_codes()
    assert table in text, f"docs/exit-codes.md should have:\n{table}"
    assert len(rows(table)) > 20


def help_blocks() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = re.findall(
        r"<!-- help: (kiln[ a-z]*) -->\n```\n(.*?)```\n", COMMANDS, re.DOTALL
    )
    return found


@pytest.mark.parametrize(("words", "shown"), help_blocks(), ids=[w for w, _ in help_blocks()])
def test_help(words: str, shown: str) -> None:
    assert shown == help_of(words)


def help_of(words: str) -> str:
    """What ``words --help`` prints on a terminal of 80 columns.

    In a process of its own: click keeps a command's help option from its first use.
    """
    ended = subprocess.run(
        [sys.executable, "-m", "kiln.cli", *words.split()[1:], "--help"],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


def test_the_index_names_every_document() -> None:
    index = ROOT / "docs" / "README.md"
    named = re.findall(r"\]\((\S+\.md)\)", index.read_text("utf-8"))
    assert len(named) == len(set(named))
    found = {(index.parent / name).resolve() for name in named}
    assert found == {path.resolve() for path in DOCUMENTS} - {index, ROOT / "README.md"}


def test_there_are_help_blocks() -> None:
    assert {words for words, _ in help_blocks()} >= {"kiln", "kiln build"}


def targets() -> set[str]:
    text = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


def commands_in(text: str) -> Iterator[str]:
    """What stands in backquotes and in blocks of shell commands."""
    yield from re.findall(r"`([^`\n]+)`", text)
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        yield from (line.partition("#")[0].strip() for line in block.splitlines())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(path: Path) -> None:
    for line in commands_in(path.read_text("utf-8")):
        words = line.split()
        if words[:1] == ["make"]:
            asked = {word for word in line.partition(">")[0].split()[1:] if "=" not in word}
            asked -= {word for word in asked if word.startswith("--")}
            assert asked <= targets(), line
        if words[:1] == ["kiln"]:
            command: click.Command = cli
            for word in words[1:]:
                if not isinstance(command, click.Group) or word.startswith("-"):
                    break
                assert word in command.commands, line
                command = command.commands[word]
            options = {name for param in command.params for name in param.opts} | {"--help"}
            assert {word for word in words if word.startswith("--")} <= options, line


def test_makefile_says_what_each_target_is_for() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    phony = set(re.findall(r"^\.PHONY: (\S+)", text, re.MULTILINE))
    assert phony == targets()
    for target in phony:
        assert re.search(rf"^{target}:.*## \S", text, re.MULTILINE), target


def test_help_of_make() -> None:
    """Every target once, with a text, below a heading, on a terminal of 80 columns."""
    shown = subprocess.run(
        ["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert max(map(len, shown.splitlines())) <= 80
    groups = dict(group.split("\n", 1) for group in shown.rstrip("\n").split("\n\n"))
    assert list(groups) == ["Use", "Release", "Prove", "Maintain"]
    lines = [line for group in groups.values() for line in group.splitlines()]
    assert sorted(line.split()[0] for line in lines) == sorted(targets())
    assert all(re.fullmatch(r"  \S+ +\S.*", line) for line in lines)


def test_unresolved_merges_are_refused(tmp_path: Path) -> None:
    """By ``make lint-markers``, in a folder that is no repository."""

    def found() -> str:
        ended = subprocess.run(
            ["make", "--silent", "--file", ROOT / "Makefile", "lint-markers"],
            cwd=tmp_path,
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode != 0) == ("an unresolved merge" in ended.stderr)
        assert bool(ended.stdout) == (ended.returncode != 0)
        return ended.stdout

    (tmp_path / ".gitignore").write_text("/made/\n")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.md").write_text("<" * 7 + " ours\n")
    (tmp_path / "heading.rst").write_text(f"Merging\n{'=' * 7}\n{'<' * 8} not one {'>' * 7}\n")
    assert found() == ""
    (tmp_path / "below").mkdir()
    for marker in ("<" * 7 + " HEAD", "|" * 7 + " 1f2e3d4", ">" * 7 + " theirs", ">" * 7):
        (tmp_path / "below" / "b.md").write_text(f"text\n{marker}\n")
        assert found() == f"below/b.md:2:{marker}\n"


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, place = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        assert other.exists(), target
        if place:
            text = other.read_text("utf-8")
            assert place in {anchor(h) for h in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def tables_of_recipe() -> set[type[Part]]:
    found: set[type[Part]] = set()
    todo: list[type[Part]] = [Recipe]
    while todo:
        model = todo.pop()
        if model not in found:
            found.add(model)
            for item in model.model_fields.values():
                todo += models_in(item.annotation)
    return found


def section_of(model: type[Part]) -> str:
    """The part of docs/recipes.md that describes a table of the recipe."""
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    headings = {
        "Recipe": "## Top level",
        "ArchiveSource": "## `[source]` of kind `archive`",
        "HubSource": "## `[source]` of kind `hub`",
        "LocalSource": "## `[source]` of kind `local`",
        "SourceFile": "Each `[[source.files]]` has\n",
        "LocalFile": "Each `[[source.files]]` of a local source has",
        "SavedModelSource": "## `[source]` of kind `saved_model`",
        "Normalization": "Each `[source.normalization]` has\n",
        "StageSource": "## `[source]` of kind `stage`",
        "PinnedFile": "Each input has",
        "Compile": "## `[[compile]]`",
        "Expectation": "Each `[[check.expect]]` has",
        "CheckLimits": "Each `[check.limits.VARIANT]` has",
    }
    heading = headings.get(model.__name__, f"## `[{model.__name__.lower()}]`")
    assert text.count(f"\n{heading}") == 1, heading
    section = text.partition(f"\n{heading}")[2].partition("\n## ")[0]
    return section.partition("\nEach `[")[0]  # tables below have sections of their own


@pytest.mark.parametrize("model", sorted(tables_of_recipe(), key=str), ids=lambda m: m.__name__)
def test_every_key_of_a_recipe_is_explained(model: type[Part]) -> None:
    section = section_of(model)
    for name, item in model.model_fields.items():
        key = item.alias or name
        if model is Recipe and models_in(item.annotation):
            continue  # a table: it has a section of its own
        assert f"`{key}`" in section, key
        for choice in get_args(item.annotation) if key != "schema" else ():
            if isinstance(choice, str) and choice != "default":
                assert f"`{choice}`" in section or f'`"{choice}"`' in section, choice


@pytest.mark.parametrize("model", sorted(tables_of_recipe(), key=str), ids=lambda m: m.__name__)
def test_no_key_is_explained_that_does_not_exist(model: type[Part]) -> None:
    known = {item.alias or name for name, item in model.model_fields.items()}
    explained = {
        cells[0].strip("`") for cells in rows(section_of(model)) if cells[0].startswith("`")
    }
    assert explained <= known


def test_the_recipe_in_the_documents_is_the_real_one() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    ((name, block),) = re.findall(r"<!-- recipe: (\S+) -->\n```toml\n(.*?)```", text, re.DOTALL)
    path = ROOT / "models" / name / "recipe.toml"
    load(path, ROOT / "models")
    real = path.read_text("utf-8").splitlines()
    for line in block.splitlines():
        assert line in real, line


def test_every_setting_is_explained() -> None:
    said = (ROOT / "docs" / "images.md").read_text("utf-8").partition("\n## Settings\n")[2]
    explained = set(re.findall(r"`(KILN_[A-Z_]+)(?:=1)?`", said))
    used: set[str] = set()
    for folder in ("scripts", "docker", "tests", ".ci", ".github"):
        for path in (ROOT / folder).rglob("*"):
            # Tools leave caches, which remember what the code once said.
            cached = any(part.startswith(".") for part in path.relative_to(ROOT / folder).parts)
            if path.suffix in {".py", ".sh", ".yml", ""} and path.is_file() and not cached:
                used |= set(re.findall(r"\bKILN_[A-Z_]+\b", path.read_text("utf-8", "replace")))
    assert explained == used


def driver_packages() -> list[tuple[int, str]]:
    """Layer and package of each row, from the bottom up."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    part = text.partition("\n## Driver\n")[2].partition("\n## ")[0]
    return [(int(layer), name.strip("`")) for layer, name, _ in rows(part)[1:]]


def layers(of: str) -> list[list[str]]:
    """The layers of a package in import-linter's contract, from the bottom up."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    part = text.partition(f'\ncontainers = ["{of}"]\n')[2].partition("\n]")[0]
    found = re.findall(r'^    "(.+)",$', part, re.MULTILINE)
    return [layer.split(" | ") for layer in reversed(found)]


def packages_below(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/__init__.py"))


def test_packages_are_those_whose_order_is_checked() -> None:
    """``make lint`` holds the contract against the imports."""
    wanted = [(number, name) for number, names in enumerate(layers("kiln"), 1) for name in names]
    assert driver_packages() == wanted
    assert sorted(name for _, name in driver_packages()) == packages_below(PACKAGE)
    stages = [name for names in layers("stages") for name in names]
    assert sorted(stages) == packages_below(ROOT / "docker" / "stages")
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    part = text.partition("\n### Packages\n")[2].partition("\n### ")[0]
    assert [cells[0].strip("`") for cells in rows(part)[1:]] == stages


def test_modules_lie_in_packages() -> None:
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]


def test_stages_are_all_named() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    part = text.partition("\n## Stages\n")[2].partition("\n### ")[0]
    named = {name for cells in rows(part)[1:] for name in re.findall(r"`(\w+)`", cells[0])}
    real = {
        path.stem
        for path in (ROOT / "docker" / "stages" / "steps").glob("*.py")
        if re.search(r"^ENVIRONMENT = ", path.read_text("utf-8"), re.MULTILINE)
    }
    assert named == real


def test_tests_that_documents_name_exist() -> None:
    known = "\n".join(p.read_text("utf-8") for p in sorted((ROOT / "tests").rglob("test_*.py")))
    for path in DOCUMENTS:
        for name in re.findall(r"`(?:tests/\w+/)?(test_\w+(?:\.py)?)`", path.read_text("utf-8")):
            if name.endswith(".py"):
                assert list((ROOT / "tests").rglob(name)), name
            else:
                assert f"def {name}(" in known, name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_paths_that_documents_name_exist(path: Path) -> None:
    folders = "scripts|docker|tests|docs"
    for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", path.read_text("utf-8")):
        assert (ROOT / name).exists(), name


def test_actions_are_pinned_by_commit() -> None:
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert workflows
    for path in workflows:
        text = path.read_text("utf-8")
        assert "\npermissions: {}\n" in text
        uses = re.findall(r"uses: (.+)", text)
        assert uses
        for line in uses:
            assert re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+(\.\d+)*", line), line


def test_the_picture_is_small_enough() -> None:
    assert (ROOT / "docs" / "detections.png").stat().st_size < 400_000


def test_errors_are_all_here() -> None:
    """Every class of kiln.core.errors is a direct subclass: the table above sees them all."""
    classes = [
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, KilnError) and cls is not KilnError
    ]
    assert all(cls in KilnError.__subclasses__() for cls in classes)
