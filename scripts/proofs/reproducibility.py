"""Prove that bytes do not depend on the user, path, time and machine of a build.

Every sample is rebuilt from its source, in every variant and for an NPU, and every image from its
locks, under each circumstance (``proofs/variations/circumstances.py``). All must have the digests
of the first build, which is an ordinary one.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from kiln.cli.reporters import JsonReporter, TextReporter
from kiln.core.errors import StageFailedError, UsageError, VerificationError
from kiln.core.output import table
from kiln.core.store import Store
from kiln.images.lock import read_lock
from kiln.project.folders import Project
from kiln.recipes.recipe import VARIANTS, discover, load
from kiln.running.engine import Engine
from proofs.variations.circumstances import AS_IT_IS, CIRCUMSTANCES, Circumstance
from proofs.variations.varied_run import Varied, faketime, share_contents, why_not
from shared import document_table, program

SHORT = "all at once"
IMAGES = "images"
TARGET = "reproducibility"  # of make
_ROW = re.compile(r"^\| ([^|`]+) \| .*$", re.MULTILINE)


@dataclass
class Row:
    """The results of one circumstance.

    Attributes:
        digests: "model variant" or "images name" -> SHA-256 in hex.
        skipped: why this machine cannot provide the circumstance; "" if it can.
        seconds: wall time.
    """

    item: Circumstance
    digests: dict[str, str] = field(default_factory=dict)
    skipped: str = ""
    seconds: float = 0.0


@dataclass
class Matrix:
    """Builds under circumstances and their results; the other rows must equal the first."""

    project: Project
    models: Sequence[str]
    variants: Sequence[str]
    images: Sequence[str]
    store: Store
    report: Callable[..., None]
    rows: list[Row] = field(default_factory=list)

    def run(
        self,
        items: Sequence[Circumstance],
        scratch: Path,
        after_each: Callable[[], None] = lambda: None,
    ) -> None:
        """Build under each circumstance, one after the other.

        Raises:
            StageFailedError: a build failed; the message names the circumstance and the reason.
        """
        libraries = faketime(self.store, scratch)
        for number, item in enumerate(items):
            reason = why_not(item)
            if reason:
                self.report("note", message=f"{item.name}: left out, {reason}")
                self.rows.append(Row(item, skipped=reason))
                continue
            self.report("note", message=f"{item.name}: {item.what}")
            varied = Varied(item, self.project, scratch / str(number), self.store, libraries)
            start = time.monotonic()
            with varied.engine() as address:
                row = Row(item, self._build(varied, address))
                if item.images:
                    row.digests.update(self._images(varied, address))
            row.seconds = time.monotonic() - start
            self.rows.append(row)
            after_each()
            self.report("note", message=f"{item.name}: {self._word(row)} in {row.seconds:.0f} s")

    def _build(self, varied: Varied, address: str | None) -> dict[str, str]:
        share_contents(self.store, varied.home / "store")
        arguments = ["build", *self.models, "--models-dir", str(varied.models)]
        arguments += ["--dist", str(varied.dist), "--jobs", "2"]
        for variant in self.variants:
            arguments += ["--variant", variant]
        code, events = varied.run(arguments, address)
        if code:
            raise _failed(varied.item, events)
        digests = {}
        for model in self.models:
            record = json.loads((varied.dist / model / "conversion.json").read_text("utf-8"))
            for variant, made in record["artefacts"].items():
                digests[f"{model} {variant}"] = made["sha256"]
        return digests

    def _images(self, varied: Varied, address: str | None) -> dict[str, str]:
        digests = {}
        for name in self.images:
            code, events = varied.run(["images", "verify", name], address)
            kinds = {str(event.get("kind")) for event in events if event.get("event") == "error"}
            if code and kinds != {"image-mismatch"}:
                raise _failed(varied.item, events)
            found = [event["identity"] for event in events if event.get("event") == "verified"]
            digests[f"{IMAGES} {name}"] = found[0].removeprefix("sha256:") if found else "other"
        return digests

    @property
    def wanted(self) -> dict[str, str]:
        """The expected digests: the first build's artefacts, and the lock's images."""
        locked = read_lock(self.project.docker)
        images = {f"{IMAGES} {name}": locked[name].identity for name in self.images}
        return {
            **self.rows[0].digests,
            **{name: identity.removeprefix("sha256:") for name, identity in images.items()},
        }

    def differing(self, row: Row) -> list[str]:
        """List the names of a row's results that differ."""
        wanted = self.wanted
        return [name for name, digest in row.digests.items() if wanted.get(name) != digest]

    def _word(self, row: Row) -> str:
        differing = self.differing(row)
        return f"DIFFERS: {', '.join(differing)}" if differing else "all the same"

    def cells(self, row: Row) -> list[str]:
        """Make the cells of a row: one for each model, one for the images."""
        differing = set(self.differing(row))
        cells = []
        for group in (*self.models, *([IMAGES] if self.images else [])):
            names = [name for name in row.digests if name.split()[0] == group]
            same = sum(name not in differing for name in names)
            if row.skipped:
                cells.append("left out")
            elif not names:
                cells.append("")
            elif row.item == AS_IT_IS:
                cells.append(f"{len(names)} built")
            else:
                cells.append(f"{same} of {len(names)} {'same' if same == len(names) else 'SAME'}")
        return cells

    def head(self) -> list[str]:
        """List the headings of :meth:`cells`."""
        return [*self.models, *([IMAGES] if self.images else [])]

    def judge(self) -> None:
        """Raise an error if a result differs.

        Raises:
            VerificationError: a result differs.
        """
        wrong = {row.item.name: self.differing(row) for row in self.rows}
        lines = [f"{name} ({', '.join(found)})" for name, found in wrong.items() if found]
        if lines:
            raise VerificationError(
                f"Bytes depend on circumstances: {'; '.join(lines)}.",
                "`kiln diff` says how two artefacts differ; --keep leaves both.",
            )

    def documentation(self, old: str = "") -> str:
        """Format the matrix as a Markdown table, with the machine it was made on.

        Args:
            old: a document with an earlier table of the same columns; its rows of circumstances
                that were not tried this time stay.
        """
        head = f"| circumstance | what is different | {' | '.join(f'`{n}`' for n in self.head())} "
        head += "| tried |"
        rows = {found[1]: found[0] for found in _ROW.finditer(old)} if head in old else {}
        for row in self.rows:
            words = row.skipped and f"left out here: {row.skipped}"
            when = f"{document_table.today()}, {row.seconds / 60:.0f} min"
            cells = [row.item.name, words or row.item.what, *self.cells(row), when]
            rows[row.item.name] = f"| {' | '.join(cells)} |"
        lines = [head, f"|---|---|{'---|' * len(self.head())}---|"]
        lines += [rows[item.name] for item in self._order() if item.name in rows]
        return "\n".join([*lines, "", f"The last of them on {document_table.here()}."])

    def _order(self) -> list[Circumstance]:
        tried = [row.item for row in self.rows]
        return [*CIRCUMSTANCES, *(item for item in tried if item not in CIRCUMSTANCES)]


def _failed(item: Circumstance, events: Sequence[Mapping[str, Any]]) -> StageFailedError:
    said = [event for event in events if event.get("event") in ("error", "failed")]
    words = str(said[-1].get("message")) if said else "it said nothing"
    return StageFailedError(
        f"Under the circumstance {item.name!r} the build failed: {words}",
        "Build without it first; if that works, this circumstance is the cause.",
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--variant", "variants", multiple=True, help="Only this variant; may be repeated.")
@click.option("--only", multiple=True, help="Only under this circumstance; may be repeated.")
@click.option("--image", "images", multiple=True, help="Only this image; may be repeated.")
@click.option("--no-images", is_flag=True, help="Leave the images out.")
@click.option("--short", is_flag=True, help=f"Only {SHORT!r}, and of the images only the base.")
@click.option(
    "--docs", type=click.Path(path_type=Path), help="Write rows into this document's table."
)
@click.option(
    "--keep", type=click.Path(path_type=Path), help="Leave what was built in this folder."
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable events, one a line.")
def command(
    models: tuple[str, ...],
    variants: tuple[str, ...],
    only: tuple[str, ...],
    images: tuple[str, ...],
    no_images: bool,
    short: bool,
    docs: Path | None,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Build MODELs (the embedded samples) and the images under varied circumstances."""
    project = Project.find()
    loaded = {name: load(path, project.models) for name, path in discover(project.models).items()}
    locked = read_lock(project.docker)
    names = [item.name for item in CIRCUMSTANCES]
    for what, given, known in (
        ("model", models, loaded),
        ("variant", variants, VARIANTS),
        ("circumstance", only, names),
        ("image", images, locked),
    ):
        for name in given:
            if name not in known:
                raise UsageError(f"There is no {what} {name!r}.", f"Known: {', '.join(known)}.")
    Engine.find()  # without an engine, fail early
    chosen_images = [name for name in locked if not images or name in images]
    if short:
        only, chosen_images = only or (SHORT,), [name for name in chosen_images if name == "base"]
    chosen = [item for item in CIRCUMSTANCES[1:] if not only or item.name in only]
    store = Store(Store.default_root())
    store.sweep()
    # Not in the store: another user needs access.
    with tempfile.TemporaryDirectory(prefix="kiln-reproducibility-") as made:
        scratch = Path(made)
        scratch.chmod(0o755)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
        with JsonReporter() if as_json else TextReporter() as reporter:
            matrix = Matrix(
                project,
                models or [name for name, recipe in loaded.items() if recipe.sample],
                variants,
                [] if no_images else chosen_images,
                store,
                reporter.event,
            )

            def write() -> None:  # after each: all of them take hours
                if docs is not None:
                    text = matrix.documentation(docs.read_text("utf-8"))
                    document_table.write_table(docs, TARGET, text)

            matrix.run([AS_IT_IS, *chosen], keep.absolute() if keep else scratch, write)
        tell(matrix, as_json)
    matrix.judge()
    if not as_json:
        done = sum(not row.skipped for row in matrix.rows[1:])
        print(f"\nByte for byte the same under {done} other circumstance{'s' * (done != 1)}.")


def tell(matrix: Matrix, as_json: bool) -> None:
    """Print the matrix: a table, or one event per row."""
    if as_json:
        for row in matrix.rows:
            JsonReporter().event(
                "circumstance",
                name=row.item.name,
                skipped=row.skipped,
                digests=row.digests,
                differing=matrix.differing(row),
                seconds=round(row.seconds, 1),
            )
        return
    rows = [
        [row.item.name, *matrix.cells(row), f"{row.seconds:.0f} s" if row.seconds else ""]
        for row in matrix.rows
    ]
    print(table(["circumstance", *matrix.head(), ""], rows))


if __name__ == "__main__":
    program.run(command, "reproducibility")
