"""kiln's commands on what strangers give: run in processes of their own, bounded and watched."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from places import ROOT

from hostile.canary import Canary
from hostile.cases import FindingError, LeftOutError, busy
from hostile.disks import may_mount, mounted

#: Bounds of one command: address space in bytes, seconds. An honest one takes 0.5 GB and 2 s.
MEMORY = 1536 << 20
SECONDS = 60.0
DISK = "size=600m,nr_inodes=300k,mode=755"
#: An engine that no command of these may reach.
NO_ENGINE = "unix:///nowhere/hostile.sock"
#: What may stand in output: lines, tabs, and nothing that acts on a terminal or hides an order.
UNSAID = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@cache
def exit_codes() -> frozenset[int]:
    """The codes of docs/exit-codes.md; 1 is none of them but for `kiln diff`."""
    text = (ROOT / "docs" / "exit-codes.md").read_text("utf-8")
    table = text.partition("| Code | Kind | Meaning |")[2].partition("\n\n")[0]
    return frozenset(int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE))


@dataclass(frozen=True)
class Said:
    """A command that has ended as commands may end: success, or a refusal in words."""

    words: str
    code: int
    out: str
    err: str
    seconds: float

    @property
    def kind(self) -> str:
        """A word for it."""
        return "done" if self.code == 0 else f"exit {self.code}"


@dataclass(frozen=True)
class Desk:
    """Where a case is laid out.

    Attributes:
        given: what the stranger gives; for the case to fill.
        canary: what may be neither read nor changed.
        root: holds all of it, on a small disk where there can be one.
    """

    root: Path
    given: Path
    canary: Canary
    project: Path

    def run(
        self,
        *arguments: str | Path,
        may: Sequence[int] = (),
        changes: bool = False,
        project: Path | None = None,
        seconds: float = SECONDS,
    ) -> Said:
        """Run ``kiln`` and judge how it ended, whatever the input was.

        Args:
            may: codes that are right besides those that docs/exit-codes.md lists.
            changes: whether it may write to what is given.
            project: another checkout than ours.

        Raises:
            FindingError: a traceback, a signal, no end, a code of nobody's, bytes of the host
                shown or changed, or something left behind.
        """
        before = {} if changes else _look(self.given)
        words = " ".join(["kiln", *map(str, arguments)])
        said = self._run([str(one) for one in arguments], project or self.project, seconds, words)
        text = f"{said.out}\n{said.err}"
        if "Traceback (most recent call last)" in text:
            raise FindingError(f"`{words}`: a traceback:\n{said.err[-1500:]}")
        if said.code not in exit_codes() and said.code not in may:
            raise FindingError(f"`{words}`: exit code {said.code}\n{said.err[-1500:]}")
        if said.code and not text.strip():
            raise FindingError(f"`{words}`: exit code {said.code} without a word")
        found = UNSAID.search(text)
        if found:
            name = unicodedata.name(found[0], f"U+{ord(found[0]):04X}")
            near = text[max(0, found.start() - 60) : found.end() + 60]
            raise FindingError(f"`{words}` shows {name}: {near!r}")
        self.canary.check_unsaid(text)
        self.canary.check_untouched()
        if not changes and _look(self.given) != before:
            raise FindingError(f"`{words}` changed what it was given")
        left = [path.name for path in (self.root / "tmp").iterdir()]
        if left:
            raise FindingError(f"`{words}` left {left[:5]} in TMPDIR")
        return said

    def _run(self, arguments: list[str], project: Path, seconds: float, words: str) -> Said:
        out, err = self.root / "said-out", self.root / "said-err"
        start = time.monotonic()
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "kiln.cli", *arguments],
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=self.root / "home",
                env=self.environment(project), preexec_fn=_bound, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(seconds * busy())
            except subprocess.TimeoutExpired:
                raise FindingError(f"`{words}`: not ended after {seconds:.0f} s") from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        size = out.stat().st_size + err.stat().st_size
        if size > 32 << 20:
            raise FindingError(f"`{words}` said {size >> 20} MiB")
        texts = [path.read_text("utf-8", "backslashreplace") for path in (out, err)]
        return Said(words, code, texts[0], texts[1], time.monotonic() - start)

    def environment(self, project: Path) -> dict[str, str]:
        """Of a command: nothing of ours, a home of its own."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "PYTHONPATH": str(ROOT / "scripts"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "DOCKER_HOST": NO_ENGINE,
            "KILN_PROJECT": str(project),
            "KILN_STORE": str(self.root / "store"),
            **self.canary.environment,
        }


@contextlib.contextmanager
def desk(place: Path, *, disk: bool = False) -> Iterator[Desk]:
    """A desk in the empty folder ``place``.

    Args:
        disk: what is given may fill a disk: only where a small one can be mounted.
    """
    root = place / "desk"
    root.mkdir()
    with contextlib.ExitStack() as stack:
        if may_mount():
            stack.enter_context(mounted(root, DISK))
        elif disk:
            raise LeftOutError("it may fill the disk, and a small one needs root")
        else:
            stack.callback(shutil.rmtree, root, ignore_errors=True)
        for name in ("given", "home", "tmp"):
            (root / name).mkdir()
        yield Desk(root, root / "given", Canary.plant(place / "secret"), ROOT)


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _look(folder: Path) -> dict[bytes, tuple[int, ...]]:
    """What stat says of everything in a folder, down to a depth that a person would look to."""
    found: dict[bytes, tuple[int, ...]] = {}
    todo = [(os.fsencode(folder), 0)]
    while todo and len(found) < 20_000:
        place, depth = todo.pop()
        with os.scandir(place) as scan:
            for entry in scan:
                about = entry.stat(follow_symlinks=False)
                found[entry.path] = (
                    about.st_mode, about.st_uid, about.st_nlink, about.st_size, about.st_mtime_ns,
                )  # fmt: skip
                if entry.is_dir(follow_symlinks=False) and depth < 20:
                    todo.append((entry.path, depth + 1))
    return found
