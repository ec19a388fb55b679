"""``make storm``: hostile cases at random until the time is up, and a table of what came of it."""

from __future__ import annotations

import contextlib
import random
import secrets
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import click
from places import ROOT

from hostile.archives import Archives
from hostile.bad_engines import BadEngines
from hostile.cases import Case, Family, FindingError, LeftOutError, Verdict
from hostile.engines import OwnEngine
from hostile.flatbuffers import Flatbuffers
from hostile.forge import Forge
from hostile.kills import Crowds, Kills
from hostile.machines import Machines
from hostile.records import Records
from hostile.releases import Releases
from hostile.sound_release import Workshop
from hostile.stage_output import StageOutput
from hostile.texts import Texts
from kiln.core.errors import UsageError, VerificationError
from kiln.core.output import table
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.running.engine import Engine
from shared import document_table, program

TARGET = "storm"  # of make
DOCUMENT = ROOT / "docs" / "security.md"


@dataclass
class Count:
    """What became of the cases of one family."""

    tried: int = 0
    refused: int = 0
    survived: int = 0
    left_out: int = 0
    failed: list[str] = field(default_factory=list)


@dataclass
class Storm:
    """Families, and what came of them so far.

    Args:
        tell: says one line.
    """

    families: Sequence[Family]
    folder: Path
    tell: Callable[[str], None]
    counts: dict[str, Count] = field(default_factory=dict)
    _seen: dict[str, set[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    #: An engine that is stopped serves one case at a time.
    _alone: Mapping[str, threading.Lock] = field(
        default_factory=lambda: {"engines": threading.Lock()}
    )

    def __post_init__(self) -> None:
        self.counts = {family.name: Count() for family in self.families}

    def blow(self, seed: int, seconds: float, jobs: int) -> None:
        """Cases at random until the time is up."""
        until = time.monotonic() + seconds
        dice = random.Random(seed)
        stopped = threading.Event()

        def work() -> None:
            while time.monotonic() < until and not stopped.is_set():
                with self._lock:
                    case = self._pick(dice)
                self.run(case)

        with ThreadPoolExecutor(jobs) as pool:
            try:
                for task in [pool.submit(work) for _ in range(jobs)]:
                    task.result()
            finally:
                stopped.set()  # Ctrl-C: no case is begun any more

    def _pick(self, dice: random.Random) -> Case:
        """A case: families by weight; of a family first what was not tried yet."""
        family = dice.choices(self.families, [one.weight for one in self.families])[0]
        names = list(family.names())
        tried = self._seen.setdefault(family.name, set())
        fresh = [name for name in names if name not in tried] or names
        name = dice.choice(fresh)
        tried.add(name)
        return Case(family.name, name, dice.randrange(1 << 31))

    def run(self, case: Case) -> None:
        """Run one case, and count it."""
        family = next(one for one in self.families if one.name == case.family)
        place = Path(tempfile.mkdtemp(dir=self.folder))
        start = time.monotonic()
        verdict, word = None, ""
        try:
            with self._alone.get(family.name, contextlib.nullcontext()):
                verdict = family.run(case, place)
            word = f"{'refused' if verdict.refused else 'survived'}, {verdict.word}"
        except LeftOutError as reason:
            word = f"left out: {reason}"
        except FindingError as finding:
            word = f"FAILED: {finding}"
        except Exception:  # the harness itself; not to be mistaken for a success
            word = f"FAILED in the harness:\n{traceback.format_exc()}"
        finally:
            shutil.rmtree(place, ignore_errors=True)
        with self._lock:
            self._count(case, verdict, word)
            self.tell(f"{case}: {word} ({time.monotonic() - start:.1f} s)")
            if word.startswith("FAILED"):
                self.tell(f"  again: {case.again}")

    def _count(self, case: Case, verdict: Verdict | None, word: str) -> None:
        count = self.counts[case.family]
        if verdict is None and not word.startswith("FAILED"):
            count.left_out += 1
            return
        count.tried += verdict.count if verdict else 1
        if verdict is None:
            count.failed.append(f"{case}: {word}")
        elif verdict.refused:
            count.refused += verdict.count
        else:
            count.survived += verdict.count

    @property
    def failed(self) -> list[str]:
        """What must not have happened."""
        return [line for count in self.counts.values() for line in count.failed]

    def rows(self) -> list[list[str]]:
        """The table: one row a family."""
        rows = []
        for family in self.families:
            count = self.counts[family.name]
            rows.append(
                [family.name, family.what, *(f"{n:,}" for n in (count.tried, count.refused,
                 count.survived, len(count.failed)))]
            )  # fmt: skip
        return rows


HEAD = ("family", "what is done", "tried", "refused", "survived", "failed")


def documentation(storm: Storm, seed: int, seconds: float) -> str:
    """The table in Markdown, with what it was made on."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|---|--:|--:|--:|--:|"]
    lines += [f"| {' | '.join(row)} |" for row in storm.rows()]
    left = sum(count.left_out for count in storm.counts.values())
    out = f" {left} cases could not be brought about there." if left else ""
    lines += ["", f"{document_table.made_here(seconds)}, seed {seed}.{out}"]
    return "\n".join(lines)


def families(folder: Path, wanted: Sequence[str], tell: Callable[[str], None]) -> list[Family]:
    """All families (or those that are wanted), with what they need prepared below ``folder``."""
    engine = Engine.find()
    images = Images(ROOT / "docker", lambda: engine, Store(Store.default_root()))
    tag = images.ensure("odapi").tag
    workshop = Workshop.open(folder / "workshop")
    found: list[Family] = [StageOutput(tag, engine.address), Records(workshop),
                           Releases(workshop), Archives(workshop), Texts(workshop),
                           Flatbuffers()]  # fmt: skip
    if not wanted or set(wanted) - {one.name for one in found}:
        tell("building the sample that builds are disturbed with (a minute or two)")
        forge = Forge.open(folder / "forge", engine.address)
        own = OwnEngine(folder / "e", engine.address, tag)
        found += [Kills(forge), Crowds(forge), Machines(forge, _faketime(folder, tell)),
                  BadEngines(forge, own)]  # fmt: skip
    unknown = set(wanted) - {one.name for one in found}
    if unknown:
        names = ", ".join(one.name for one in found)
        raise UsageError(f"There is no family {sorted(unknown)[0]!r}.", f"Known: {names}.")
    return [one for one in found if not wanted or one.name in wanted]


def _faketime(folder: Path, tell: Callable[[str], None]) -> Path | None:
    """libfaketime, where it can be had."""
    from kiln.core.errors import KilnError
    from proofs.variations.varied_run import faketime

    try:
        return faketime(Store(Store.default_root()), folder)["11"]
    except KilnError as error:
        tell(f"clocks are left out: {error.message}")
        return None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=click.FloatRange(min=0), default=60.0, help="How long [60].")
@click.option("--seed", type=int, help="Of the choice of cases [random].")
@click.option("--jobs", type=click.IntRange(1, 16), default=2, help="Cases at a time [2].")
@click.option("--family", "wanted", multiple=True, help="Only this family; may be repeated.")
@click.option("--case", "cases", multiple=True, help="Only this case; may be repeated.")
@click.option("--docs", is_flag=True, help="Write the table into docs/security.md.")
def command(
    minutes: float,
    seed: int | None,
    jobs: int,
    wanted: tuple[str, ...],
    cases: tuple[str, ...],
    docs: bool,
) -> None:
    """Try hostile cases at random until the time is up."""
    # Started in the background, we would hand an ignored Ctrl-C on to the builds that are to be
    # stopped with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        chosen = [Case.parse(text) for text in cases]
    except ValueError:
        raise UsageError(
            f"{' '.join(cases)} is no case.", "A case is written FAMILY/NAME/SEED."
        ) from None
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    start = time.monotonic()

    def tell(line: str) -> None:
        click.echo(f"[{time.monotonic() - start:7.1f}s] {line}")

    with contextlib.ExitStack() as stack:
        # A short name: the path of an engine's socket may have 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="storm-")))
        folder.chmod(0o755)
        tell(f"seed {seed}")
        found = families(folder, wanted or [case.family for case in chosen], tell)
        for family in found:
            if isinstance(family, BadEngines):
                stack.callback(family.engine.end)
        storm = Storm(found, folder, tell)
        for case in chosen:
            storm.run(case)
        if not chosen:
            storm.blow(seed, minutes * 60, jobs)
    click.echo(table([HEAD[0], *HEAD[2:]], [[row[0], *row[2:]] for row in storm.rows()]))
    if docs:
        document_table.write_table(
            DOCUMENT, TARGET, documentation(storm, seed, time.monotonic() - start)
        )
    if storm.failed:
        words = "\n  ".join(line[:300].replace("\n", " ") for line in storm.failed)
        raise VerificationError(
            f"{len(storm.failed)} cases ended as they must not:\n  {words}",
            "Each one alone, with its words: `make storm CASE=...`.",
        )


if __name__ == "__main__":
    program.run(command, "storm")
