"""Prove that ``.tflite`` bytes do not depend on the processor.

The samples are made in every variant, and for an NPU. One plan runs from its source, without any
earlier result, in the same sealed images: natively, on one core, and on emulated processors. Every
artefact must have the same digest. ``--control`` adds the conversion of an export without exact
batch norms, whose digests must *differ*: it proves that this check can fail.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kiln.cli.reporters import JsonReporter, TextReporter
from kiln.core.digest import key_of
from kiln.core.errors import StageFailedError, UsageError, VerificationError
from kiln.core.output import table
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.images.lock import locked_image
from kiln.project.closures import read_stage_code
from kiln.project.folders import Project
from kiln.recipes.check_steps import DEVICE
from kiln.recipes.plan import Plan, make_plan
from kiln.recipes.recipe import VARIANTS, Recipe, Variant, discover, load
from kiln.running.engine import Engine
from kiln.running.executor import Runner
from kiln.running.limits import Limits, limits_of
from kiln.running.stage_user import stage_user
from kiln.sources.fetcher import Options
from kiln.sources.model import acquire
from proofs.variations.emulation import emulated, find_emulator, one_core
from proofs.variations.more_files import copy_extended
from shared import program

CPUS = ("Haswell", "SandyBridge")
"""Processors emulated by default. Haswell: AVX2 and FMA, no AVX-512. SandyBridge: AVX and no FMA,
the least that TensorFlow's wheels need."""

NATIVE, ONE_CORE = "native", "one core"

MODEL_FILE = "model.tflite"

_PROBE = """
import json, os
from numpy.core._multiarray_umath import __cpu_features__ as known
told = {"cores": len(os.sched_getaffinity(0)), "features": [name for name in known if known[name]]}
print(json.dumps(told))
"""
_TELLING = ("AVX", "AVX2", "FMA3", "AVX512F")


class FreshStore(Store):
    """A store with shared contents that knows only the results of its own lifetime."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._own: dict[str, StageResult] = {}

    def remembered(self, key: str) -> StageResult | None:
        """Return the result that :meth:`put_result` stored in this object."""
        return self._own.get(key)

    def put_result(self, result: StageResult) -> None:
        """Store a result in this object only."""
        self._own[result.key] = result


@dataclass(frozen=True)
class Machine:
    """A machine to convert on: an engine, perhaps with a launcher, and the store of its results."""

    name: str
    engine: Engine
    store: Store


@dataclass(frozen=True)
class Run:
    """Results of one plan on one machine; ``seconds`` of wall time."""

    machine: str
    results: dict[str, StageResult]
    seconds: float


@dataclass
class Check:
    """Runs plans on machines and compares the results.

    Args:
        store: keeps contents, but no results.
        scratch: a folder that exists as long as this check.
        jobs: number of machines at a time.
    """

    project: Project
    store: Store
    scratch: Path
    report: Callable[..., None]
    jobs: int

    def __post_init__(self) -> None:
        # One snapshot for all machines: an edit during the run must not look like a difference.
        self.stages = self.scratch / "stages"
        shutil.copytree(
            self.project.stages, self.stages, ignore=shutil.ignore_patterns("__pycache__")
        )
        self.stages.chmod(0o755)
        self._images = threading.Lock()

    def machines(self, cpus: Sequence[str]) -> list[Machine]:
        """List the machines: the native one, one core of it, and ``cpus`` emulated."""
        engine = Engine.find()
        engine.sweep()
        emulator = find_emulator(self.store)
        self.report("note", message=f"emulator: qemu-user {emulator.version}")
        engines = {NATIVE: engine, ONE_CORE: one_core(engine, self.scratch / "one-core")}
        for cpu in cpus:
            engines[cpu] = emulated(engine, emulator, cpu, self.scratch / f"cpu-{cpu}")
        return [
            Machine(name, engine, FreshStore(self.store.root)) for name, engine in engines.items()
        ]

    def image(self, name: str) -> str:
        """Return the tag of a sealed image; get or build it if the engine lacks it."""
        with self._images:
            images = Images(self.project.docker, Engine.find, self.store, self.report)
            return images.ensure(name).tag

    def probe(self, machine: Machine, image: str) -> dict[str, Any]:
        """Return what numpy sees of ``machine`` in a container: ``cores``, ``features``.

        Raises:
            StageFailedError: Python or TensorFlow cannot start there.
        """
        said = bytearray()
        outcome = machine.engine.run(
            image,
            ("python", "-B", "-c", _PROBE),
            mounts={},
            environment={},
            limits=Limits(timeout=60),
            on_stdout=said.extend,
            user=":".join(map(str, stage_user(rootless=machine.engine.rootless))),
        )
        try:
            told: dict[str, Any] = json.loads(said)
        except ValueError as error:
            raise StageFailedError(
                f"Python does not start on {machine.name} (code {outcome.exit_code}): "
                f"{outcome.log.strip()[-300:]}",
                "Name another processor with --cpu.",
            ) from error
        if "AVX" not in told["features"]:
            raise StageFailedError(
                f"{machine.name} has no AVX, and TensorFlow's wheels do not start without it.",
                "Name another processor with --cpu; qemu emulates AVX from version 7.2 on.",
            )
        self.report("processor", machine=machine.name, **told)
        telling = [name for name in _TELLING if name in told["features"]]
        self.report(
            "note",
            message=f"{machine.name}: {told['cores']} cores, {', '.join(telling) or 'no AVX'}",
        )
        return told

    def run(
        self, machines: Sequence[Machine], plan: Plan, recipe: Recipe, image: str, *, control: bool
    ) -> Verdict:
        """Run the missing steps of ``plan`` on every machine, and compare; native first."""
        with ThreadPoolExecutor(self.jobs) as pool:
            tasks = [
                pool.submit(self._run, machine, plan, recipe, image, control)
                for machine in machines
            ]
            try:
                for task in as_completed(tasks):
                    task.result()
            except BaseException:
                # Interrupted, or one failed: do not wait for the others.
                pool.shutdown(wait=False, cancel_futures=True)
                for machine in machines:
                    machine.engine.stop_all()
                raise
        return Verdict(plan, [task.result() for task in tasks], control)

    def conversions(
        self, machines: Sequence[Machine], plan: Plan, recipe: Recipe, image: str, *, control: bool
    ) -> Verdict:
        """Export natively, convert on every processor, and compare.

        An emulated export takes minutes. One core is the same processor, so it is left out.
        """
        native, *others = [machine for machine in machines if machine.name != ONE_CORE]
        first = self.run([native], plan, recipe, image, control=control)
        for step_id, result in first.runs[0].results.items():
            if plan.step(step_id).stage not in ("convert", "annotate"):
                for machine in others:
                    machine.store.put_result(result)
        rest = self.run(others, plan, recipe, image, control=control)
        return Verdict(plan, [*first.runs, *rest.runs], control)

    def _run(self, machine: Machine, plan: Plan, recipe: Recipe, image: str, control: bool) -> Run:
        def on_event(event: str, **fields: Any) -> None:
            what = "control of " if control else ""
            fields["model"] = f"{what}{fields.get('model', plan.model)} on {machine.name}"
            self.report(event, **fields)

        start = time.monotonic()
        runner = Runner(lambda: machine.engine, machine.store, self.stages, on_event)
        results = runner.run(plan, limits_of(recipe), lambda: image, others=self.image)
        on_event("model")
        return Run(machine.name, results, time.monotonic() - start)


def plain(plan: Plan) -> Plan:
    """Return ``plan`` with the package's own export, which leaves batch norms to the converter."""
    steps = []
    for step in plan.steps:
        if step.id == "export":
            step = dataclasses.replace(step, params={**step.params, "exact_batch_norm": False})
        if step.upstream() or step.id == "export":
            # Its result is no longer that of its key.
            step = dataclasses.replace(step, key=key_of({"plain": step.key}))
        steps.append(step)
    return dataclasses.replace(plan, steps=tuple(steps))


def differences(plan: Plan, one: Run, other: Run) -> dict[str, list[str]]:
    """List the differing steps of each file (and of ``checkpoint``, if a stage makes it).

    A ``saved_model.pb`` is not compared: TensorFlow numbers its functions arbitrarily, which does
    not affect the artefact.
    """

    def differ(step_id: str) -> bool:
        files, others = one.results[step_id].files, other.results[step_id].files
        return {name: blob.sha256 for name, blob in files.items()} != {
            name: blob.sha256 for name, blob in others.items()
        }

    compared = {
        variant: [f"convert-{variant}", step_id] for variant, step_id in plan.artefacts.items()
    }
    for name, step_id in plan.compiled.items():
        form = plan.unpublished.get(name) or plan.origin_of(name)
        compared[name] = [f"convert-{form}", f"annotate-{form}", step_id]
    if any(step.id == "checkpoint" for step in plan.steps):
        compared = {"checkpoint": ["checkpoint"], **compared}
    return {
        name: [step_id for step_id in step_ids if differ(step_id)]
        for name, step_ids in compared.items()
    }


def changed_bytes(one: Path, other: Path) -> tuple[int, int]:
    """Count the differing bytes, and the bytes of the longer file."""
    a, b = one.read_bytes(), other.read_bytes()
    longer = max(len(a), len(b))
    return sum(x != y for x, y in zip(a, b, strict=False)) + longer - min(len(a), len(b)), longer


@dataclass
class Verdict:
    """The comparison of one plan on several machines, native first."""

    plan: Plan
    runs: list[Run]
    control: bool = False

    def differing(self, run: Run) -> dict[str, list[str]]:
        """Return the :func:`differences` between the native run and ``run``."""
        return differences(self.plan, self.runs[0], run)

    def rows(self, store: Store) -> list[list[str]]:
        """Make table rows: model, artefact, native digest, then a result per other machine."""
        native, *others = self.runs
        found = [self.differing(run) for run in others]
        mark = " (control)" if self.control else ""
        rows = []
        for name in found[0]:
            step_id = self.plan.files.get(name, name)
            blob = native.results[step_id].files.get(MODEL_FILE)
            row = [f"{self.plan.model}{mark}", name, blob.sha256[:16] if blob else ""]
            for run, differing in zip(others, found, strict=True):
                row.append(self._cell(name, differing[name], run, store))
            rows.append(row)
        times = [f"{run.seconds:.0f} s" for run in self.runs]
        return [*rows, [f"{self.plan.model}{mark}", "(seconds)", *times]]

    def _cell(self, name: str, differing: list[str], run: Run, store: Store) -> str:
        if not differing:
            return "identical"
        step = differing[0]
        files = [item.results[step].files.get(MODEL_FILE) for item in (self.runs[0], run)]
        if files[0] is None or files[1] is None:
            return "DIFFERS"
        count, size = changed_bytes(store.path(files[0].sha256), store.path(files[1].sha256))
        return f"DIFFERS: {count:,} of {size:,} bytes"


def check_all(
    check: Check,
    recipes: Iterable[tuple[Recipe, Sequence[Variant]]],
    cpus: Sequence[str],
    control: bool,
) -> list[Verdict]:
    """Run and compare every recipe's variants on every machine."""
    machines = check.machines(cpus)
    verdicts, probed = [], set()
    for recipe, variants in recipes:
        options = Options(
            on_progress=lambda name, done, total: check.report(
                "download", name=name, done=done, total=total
            ),
            on_note=lambda message: check.report("note", message=message),
        )
        acquired = acquire(recipe, check.store, options)
        locked = locked_image(check.project.docker, recipe.image)
        device = locked_image(check.project.docker, DEVICE)
        image = check.image(recipe.image)
        if image not in probed:
            probed.add(image)
            for machine in machines:
                check.probe(machine, image)

        def plan_of(
            chosen: Sequence[Variant],
            recipe: Recipe = recipe,
            contents: Any = acquired.contents,
            identity: str = locked.identity,
            device: str = device.identity,
        ) -> Plan:
            code = read_stage_code(check.stages)
            return make_plan(
                recipe,
                contents,
                chosen,
                image=identity,
                code=code,
                device=device,
                checks=False,
            )

        plan = plan_of(variants)
        verdicts.append(check.run(machines, plan, recipe, image, control=False))
        if control:
            # One variant is enough, the quickest: the export before all variants differs.
            quickest = [item for item in variants if item == "float32"] or variants[:1]
            plan = plain(plan_of(quickest))
            # The converter folds the batch norms of such an export, so only it must be emulated.
            verdicts.append(check.conversions(machines, plan, recipe, image, control=True))
    return verdicts


def judge(verdicts: Sequence[Verdict]) -> None:
    """Raise an error unless every verdict is as expected.

    Raises:
        VerificationError: an artefact differs, or a control does not.
    """
    wrong, unable = [], []
    for verdict in verdicts:
        for run in verdict.runs[1:]:
            differing = [name for name, steps in verdict.differing(run).items() if steps]
            if verdict.control and not differing:
                unable.append(f"{verdict.plan.model} on {run.machine}")
            if not verdict.control and differing:
                names = ", ".join(differing)
                wrong.append(f"{verdict.plan.model} on {run.machine} ({names})")
    if wrong:
        raise VerificationError(
            f"The bytes depend on the processor: {'; '.join(wrong)}.",
            "Look at the first differing step in the --json events.",
        )
    if unable:
        raise VerificationError(
            f"The control came out identical: {'; '.join(unable)}.",
            "The check proves nothing on these; name another processor with --cpu.",
        )


def tell(verdicts: Sequence[Verdict], store: Store, as_json: bool) -> None:
    """Print the comparison: a table, or one event per artefact and machine."""
    if not as_json:
        for verdict in verdicts:
            head = ["model", "artefact", *(run.machine for run in verdict.runs)]
            print(table(head, verdict.rows(store)), end="\n\n")
        return
    for verdict in verdicts:
        for run in verdict.runs:
            for name, steps in verdict.differing(run).items():
                step_id = verdict.plan.files.get(name, name)
                files = run.results[step_id].files
                JsonReporter().event(
                    "compared",
                    model=verdict.plan.model,
                    control=verdict.control,
                    artefact=name,
                    machine=run.machine,
                    identical=not steps,
                    differing_steps=steps,
                    files={file: blob.sha256 for file, blob in files.items()},
                    seconds=round(run.seconds, 1),
                )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--cpu", "cpus", multiple=True, help=f"Emulate this one [{', '.join(CPUS)}].")
@click.option("--variant", "variants", multiple=True, help="Only this variant; may be repeated.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Machines at a time [one per core].")
@click.option("--control", is_flag=True, help="Also prove that the check can fail.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable events, one a line.")
def command(
    models: tuple[str, ...],
    cpus: tuple[str, ...],
    variants: tuple[str, ...],
    control: bool,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Convert MODELs (the embedded samples) on other processors and compare every byte."""
    project = Project.find()
    store = Store(Store.default_root())
    store.sweep()
    with store.scratch() as scratch:
        models_dir = copy_extended(project.models, scratch / "models")
        loaded = {name: load(path, models_dir) for name, path in discover(models_dir).items()}
        chosen = _chosen(loaded, models, variants)
        with JsonReporter() if as_json else TextReporter() as reporter:
            check = Check(project, store, scratch, reporter.event, jobs or os.cpu_count() or 1)
            verdicts = check_all(check, chosen, list(dict.fromkeys(cpus)) or CPUS, control)
        tell(verdicts, store, as_json)
    judge(verdicts)
    if not as_json:
        count = sum(len(v.plan.files) for v in verdicts if not v.control)
        machines = len(verdicts[0].runs) if verdicts else 0
        plural = "" if count == 1 else "s"
        print(f"{count} artefact{plural}, byte for byte the same in all {machines} runs.")


def _chosen(
    loaded: Mapping[str, Recipe], models: Sequence[str], variants: Sequence[str]
) -> list[tuple[Recipe, list[Variant]]]:
    """Choose recipes and their variants.

    Raises:
        UsageError: a name is not known, or a model cannot be compared.
    """
    for what, given, all_ in (("model", models, loaded), ("variant", variants, VARIANTS)):
        for name in given:
            if name not in all_:
                raise UsageError(f"There is no {what} {name!r}.", f"Known: {', '.join(all_)}.")
    chosen = [
        (recipe, [item for item in recipe.variants if not variants or item in variants])
        for name, recipe in loaded.items()
        if (name in models if models else recipe.sample)
    ]
    for recipe, left in chosen:
        if recipe.profile == "seed":
            raise UsageError(
                f"Model {recipe.name!r} is made as the original recipe made it, so its bytes do "
                "depend on the processor.",
                "Name another model.",
            )
        if not left:
            raise UsageError(
                f"Model {recipe.name!r} has none of the variants asked for.",
                f"It has: {', '.join(recipe.variants)}.",
            )
    return chosen


if __name__ == "__main__":
    program.run(command, "cpu-check")
