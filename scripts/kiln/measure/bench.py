"""Choose artefacts, time them and record the times (``kiln bench-model``)."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kiln.core.errors import UsageError
from kiln.core.machine import processors
from kiln.core.store import Store
from kiln.measure import latency
from kiln.measure.latency import Artefact, Measured
from kiln.project.folders import Project
from kiln.recipes.recipe import VARIANTS
from kiln.running.executor_protocol import OnEvent
from kiln.signing.statement_names import artefact_file

#: Rounds that are counted, where neither their number nor a time is given.
RUNS = 30

_LONGEST = 86_400  # seconds


@dataclass(frozen=True)
class Wanted:
    """What to time, and how.

    Attributes:
        names: models in the release's folder, and ``.tflite`` files; none: all that is there.
        dist: the release's folder; ``None``: the project's own.
        variants: only these; none: all.
        threads: numbers of threads; none: one, and one for each processor.
        warmup: rounds that are not counted.
        runs: rounds that are; ``None``: :data:`RUNS`.
        seconds: run rounds for this long instead.
        save: whether to record the times in the release, too.
    """

    names: tuple[str, ...] = ()
    dist: Path | None = None
    variants: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    warmup: int = 5
    runs: int | None = None
    seconds: float | None = None
    save: bool = False


def bench(wanted: Wanted, store: Store, on_event: OnEvent) -> Measured:
    """Time artefacts in the image ``device``; each file has its times, or a reason why not.

    Args:
        store: where the image's packages are.

    Raises:
        UsageError: there is no such file or model, or arguments contradict each other.
        KilnError: there is no engine, or the image cannot be had.
    """
    _check_numbers(wanted)
    project = Project.find()
    dist = (wanted.dist or project.root / "dist").absolute()
    artefacts = choose(dist, wanted.names, wanted.variants)
    stray = [item for item in artefacts if not item.path.is_relative_to(dist)]
    if wanted.save and stray:
        raise UsageError(
            f"{stray[0].path} is not in {dist}, and --save only records files of that folder.",
            "Leave --save out, or name the folder with --dist.",
        )
    load = os.getloadavg()[0] / processors()
    if load > latency.BUSY:
        on_event(
            "note",
            message=f"the machine is busy (load average {load:.1f} for each processor): ratios "
            "hold, times are longer than usual",
        )
    measured = latency.measure(
        project,
        store,
        artefacts,
        list(dict.fromkeys(wanted.threads)) or sorted({1, processors()}),
        warmup=wanted.warmup,
        runs=wanted.runs or RUNS,
        seconds=wanted.seconds,
        on_event=on_event,
    )
    if wanted.save and measured.runs:
        return replace(measured, saved=_saved(dist, measured))
    return measured


def _saved(dist: Path, measured: Measured) -> Path:
    """Record the times, add them to the page and sign it again."""
    from kiln.release.index_page import refresh
    from kiln.signing.signer import own_signer

    path = latency.save(dist, measured.runs)
    refresh(dist, own_signer(), measured=[path.name])
    return path


def _check_numbers(wanted: Wanted) -> None:
    """Refuse from Python what the command line's options do not let through, too.

    Raises:
        UsageError: a number cannot be, or two exclude each other.
    """
    if wanted.runs is not None and wanted.seconds is not None:
        raise UsageError("--runs and --seconds cannot be combined.", "Give one of them.")
    whole = {"threads": (1, 256), "warmup": (0, 10_000), "runs": (1, 1_000_000)}
    given = {"threads": wanted.threads, "warmup": (wanted.warmup,), "runs": (wanted.runs,)}
    for name, (least, most) in whole.items():
        for value in given[name]:
            if value is not None and not least <= value <= most:
                raise UsageError(f"--{name} {value} cannot be.", f"Give {least} to {most}.")
    if wanted.seconds is not None and not 0 < wanted.seconds <= _LONGEST:
        raise UsageError(
            f"--seconds {wanted.seconds} cannot be.", f"Give more than 0, up to {_LONGEST}."
        )


def choose(dist: Path, names: Sequence[str], variants: Sequence[str]) -> list[Artefact]:
    """Return the files that the user means, each once.

    Raises:
        UsageError: a named file or model does not exist, or nothing matches.
    """
    for variant in variants:
        if variant not in VARIANTS:
            raise UsageError(f"There is no variant {variant!r}.", f"Known: {', '.join(VARIANTS)}.")
    models = sorted(path.name for path in dist.glob("*/") if any(path.glob("*.tflite")))
    found: dict[Path, Artefact] = {}
    for name in names or models:
        if name.endswith(".tflite"):
            path = Path(name).absolute()
            if not path.is_file():
                raise UsageError(f"There is no file {name}.", "Name a .tflite file, or a model.")
            found[path] = _artefact(path)
        elif name in models:
            for path in (dist / name / artefact_file(name, variant) for variant in VARIANTS):
                if path.is_file():
                    found[path] = _artefact(path)
        else:
            near = difflib.get_close_matches(name, models, 1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise UsageError(
                f"There is no built model {name!r} in {dist}.",
                f"{hint}There: {', '.join(models) or 'none'}; `kiln build` makes them.",
            )
    chosen = [item for item in found.values() if not variants or item.variant in variants]
    if not chosen:
        raise UsageError(f"There is nothing to time in {dist}.", "`kiln build` makes artefacts.")
    return chosen


def _artefact(path: Path) -> Artefact:
    """Tell a file's model and variant by the names that ``kiln build`` gives."""
    model = path.parent.name
    variant = path.stem.removeprefix(f"{model}_")
    known = path.stem.startswith(f"{model}_") and variant in VARIANTS
    return Artefact(model, variant, path) if known else Artefact(path.stem, "", path)
