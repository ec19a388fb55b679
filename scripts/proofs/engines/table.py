"""Try kiln on the engines that Debian has, and write the table of docs/engines.md.

Each engine is unpacked aside (``engines.toml``), run in namespaces of its own with data of its own,
looked at (:mod:`proofs.engines.checks`), and removed.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import docker.errors

from kiln.cli.reporters import TextReporter
from kiln.core.errors import EngineUnavailableError, UsageError, VerificationError
from kiln.core.files import remove
from kiln.core.store import Store
from kiln.project.folders import Project
from proofs.engines import checks, machine
from proofs.engines.checks import Bench
from proofs.engines.machine import Engine
from proofs.variations.varied_run import copy_checkout, interpreter_for_others, share_contents
from shared import document_table, program

TARGET = "engines"  # of make
_ROW = re.compile(r"^\| `([\w.-]+)` \| .*$", re.MULTILINE)
MINUTES = 40


@dataclass
class Row:
    """What was found on one engine.

    Attributes:
        seconds: wall time.
        version: how the engine calls itself.
        skipped: why it could not be tried; "" if it was.
        cells: by heading, what was found.
        wrong: headings of the checks that found something wrong.
    """

    engine: Engine
    version: str = ""
    skipped: str = ""
    cells: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def documentation(self) -> str:
        """Format the row for the table."""
        about = [f"`{self.engine.name}`", self.version, self.engine.system]
        about.append("an ordinary user" if self.engine.rootless else "root")
        if self.skipped:
            cells = [f"not tried: {self.skipped}", *[""] * (len(checks.CHECKS) - 1)]
        else:
            cells = [self.cells.get(name, "") for name in checks.CHECKS]
        when = f"{document_table.today()}, {self.seconds / 60:.0f} min"
        return f"| {' | '.join([*about, *cells, when])} |"


def documentation(rows: Sequence[Row], order: Sequence[Engine], old: str = "") -> str:
    """Format the table in Markdown.

    Args:
        order: all engines, in the table's order.
        old: a document with an earlier table; its rows of engines that are not in ``rows`` stay.
    """
    head = ["", "engine", "of", "run by", *checks.CHECKS, "tried"]
    lines = {found[1]: found[0] for found in _ROW.finditer(old)}
    lines |= {row.engine.name: row.documentation() for row in rows}
    known = [lines[engine.name] for engine in order if engine.name in lines]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *known])


@dataclass
class Tour:
    """Takes kiln from engine to engine.

    Args:
        scratch: a new folder; readable to others.
        archives: files of images to load instead of building them.
        minutes: the longest that one engine may take.
    """

    project: Project
    scratch: Path
    archives: Sequence[Path]
    minutes: float
    report: Callable[..., None]

    def __post_init__(self) -> None:
        self.store = Store(Store.default_root())
        self.known = machine.known_engines()
        self.checkout = self.scratch / "checkout"
        copy_checkout(self.project.root, self.checkout, reverse=False)
        self.readme = (self.project.root / "README.md").read_text("utf-8")

    def visit(self, engine: Engine) -> Row:
        """Try one engine; it is stopped and its data removed afterwards, whatever happens."""
        row = Row(engine, skipped=machine.why_not())
        if engine.rootless and not row.skipped and not interpreter_for_others():
            row.skipped = "no Python with kiln's requirements that another user can run"
        if row.skipped:
            self.report("note", message=f"{engine.name}: not tried, {row.skipped}")
            return row
        folder = self.scratch / "e"  # short: it is a part of a socket's path
        start = time.monotonic()
        until = start + 60 * self.minutes
        try:
            with machine.running(engine, self._tree(engine), folder) as address:
                share_contents(self.store, folder / "home" / "store")
                if engine.user is not None:
                    machine.give(folder / "home", engine.user)
                bench = Bench(
                    engine, address, folder, self.checkout, self.readme, until, self.archives
                )
                row.version = self._version(bench)
                self.report("note", message=f"{engine.name}: {row.version} answers")
                for name, words, well in checks.run(bench, self._teller(engine)):
                    row.cells[name] = words
                    row.wrong += [] if well else [name]
        except (EngineUnavailableError, docker.errors.DockerException) as error:
            row.skipped = str(getattr(error, "message", error)).rstrip(".")
            self.report("note", message=f"{engine.name}: not tried: {row.skipped}")
        finally:
            remove(folder)
        row.seconds = time.monotonic() - start
        return row

    def _version(self, bench: Bench) -> str:
        name = bench.engine.kind.capitalize()
        driver = bench.client.info().get("Driver", "?")
        return f"{name} {bench.client.version().get('Version', '?')}, {driver}"

    def _teller(self, engine: Engine) -> Callable[[str, str], None]:
        def tell(name: str, words: str) -> None:
            self.report("note", message=f"{engine.name}: {name.replace('`', '')}: {words}")

        return tell

    def _tree(self, engine: Engine) -> Path:
        """Return the unpacked Debian that has the engine; one for all engines of a suite."""
        folder = self.scratch / engine.suite
        if not folder.exists():
            self.report("note", message=f"unpacking the engines of {engine.system}")
            alike = [item for item in self.known.engines if item.suite == engine.suite]
            packages = {name for item in alike for name in item.packages} | set(self.known.tools)
            folder.mkdir()
            try:
                machine.unpack(engine.suite, sorted(packages), folder)
            except EngineUnavailableError:
                shutil.rmtree(folder)
                raise
        return folder / "tree"


def chosen(names: Sequence[str], known: Sequence[Engine]) -> list[Engine]:
    """Return the engines named, in the table's order; all when none is.

    Raises:
        UsageError: one is not known.
    """
    for name in names:
        if name not in {item.name for item in known}:
            listed = ", ".join(item.name for item in known)
            raise UsageError(f"There is no engine {name!r}.", f"Known: {listed}.")
    return [item for item in known if not names or item.name in names]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("engines", nargs=-1, metavar="[ENGINE]...")
@click.option("--docs", type=click.Path(path_type=Path), help="Write the table into this document.")
@click.option(
    "--archives", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Load the images from the files in this folder instead of building them.",
)  # fmt: skip
@click.option("--minutes", default=MINUTES, show_default=True, help="The longest for one engine.")
def command(
    engines: tuple[str, ...], docs: Path | None, archives: Path | None, minutes: int
) -> None:
    """Try kiln on ENGINEs (all of engines.toml): images, samples, Ctrl-C and cleaning up."""
    project = Project.find()
    wanted = chosen(engines, machine.known_engines().engines)
    files = sorted(archives.absolute().glob("*.tar")) if archives else []
    if archives and not files:
        raise UsageError(f"{archives} has no archive.", "`kiln images save` writes them.")
    known = machine.known_engines().engines
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="kiln-engines-") as made, TextReporter() as reporter:
        scratch = Path(made)
        scratch.chmod(0o755)
        tour = Tour(project, scratch, files, minutes, reporter.event)
        for engine in wanted:
            rows.append(tour.visit(engine))
            if docs is not None:  # at once: a tour takes long
                text = documentation(rows, known, docs.read_text("utf-8"))
                document_table.write_table(docs, TARGET, text)
    print(documentation(rows, known))
    wrong = [f"{row.engine.name} ({', '.join(row.wrong)})" for row in rows if row.wrong]
    if wrong:
        raise VerificationError(
            f"Not all is well on {'; '.join(wrong)}.", "The table says what was found."
        )


if __name__ == "__main__":
    program.run(command, "engines")
