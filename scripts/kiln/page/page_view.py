"""Describe the whole page as data for its templates."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from kiln.page.contents import Release, Variant
from kiln.page.formats import count
from kiln.page.model_view import ModelView, Notice, model_view
from kiln.page.pictures import Canvas
from kiln.page.snippets import verification


@dataclass(frozen=True)
class PageView:
    """The data that ``page.html`` shows.

    Attributes:
        title: number of models and files.
        size: bytes of all files.
        made_by: the versions of kiln that made them; empty if unknown.
        key_id: of the signing key; empty without one.
        verdict: number of files that passed, failed, ...
        accuracy_note, latency_note: conditions of the measurements; empty without any.
        commands: shell commands that verify the release.
        canvases: the pictures, each once.
        most_panels: the largest number of panels in any choice of the page.
    """

    title: str
    size: int
    made_by: str
    key_id: str
    verdict: tuple[Notice, ...]
    models: tuple[ModelView, ...]
    accuracy_note: str
    latency_note: str
    commands: str
    canvases: tuple[Canvas, ...]
    most_panels: int


def page_view(release: Release) -> PageView:
    """Describe a release for the page."""
    models = tuple(model_view(model) for model in release.models)
    variants = [variant for model in release.models for variant in model.variants]
    versions = sorted({model.conversion.text("kiln") for model in release.models} - {""})
    canvases = dict.fromkeys(panel.canvas for view in models for panel in view.panels)
    choices = [n for view in models for n in (len(view.panels), len(view.uses))]
    choices += [len(use.snippets) for view in models for use in view.uses]
    return PageView(
        title=f"{count(len(models), 'model')}, {count(len(variants), 'file')}",
        size=sum(variant.size or 0 for variant in variants),
        made_by=f"kiln {', '.join(versions)}" if versions else "",
        key_id=release.key_id,
        verdict=tuple(_verdict(variants)),
        models=models,
        accuracy_note=_accuracy_note(release),
        latency_note=_latency_note(variants),
        commands=verification([model.name for model in release.models]),
        canvases=tuple(canvases),
        most_panels=max(choices),
    )


def _verdict(variants: list[Variant]) -> list[Notice]:
    states = Counter(variant.verdict[0] for variant in variants)
    broken = sum(bool(variant.notes) for variant in variants)
    every = "all " if states["passed"] == len(variants) > 1 else ""
    said = [
        (broken, "failed", f"{count(broken, 'file')} not as recorded"),
        (states["failed"], "failed", f"{count(states['failed'], 'file')} failed"),
        (
            states["allowed"],
            "allowed",
            f"{count(states['allowed'], 'file')} passed with faults that the recipe allows",
        ),
        (states["skipped"], "skipped", f"{count(states['skipped'], 'file')} not checked"),
        (states["passed"], "passed", f"{every}{count(states['passed'], 'file')} passed"),
    ]
    return [Notice(status, words) for number, status, words in said if number]


def _accuracy_note(release: Release) -> str:
    """Name the data sets that AP was measured on: only figures of one set can be compared."""
    found: dict[str, list[str]] = {}
    before = noise = ""
    for model in release.models:
        for measured in (variant.accuracy for variant in model.variants):
            if measured is not None:
                found.setdefault(measured.data.words(), []).append(model.name)
                before = ", before → after conversion" if measured.source else before
                if measured.noise():
                    noise = " Noise: with other images there might as well be no change."
    if not found:
        return ""
    said = [f"{', '.join(dict.fromkeys(names))}: {words}" for words, names in found.items()]
    if len(said) == 1:
        said = [f"Measured on {words}" for words in found]
    return f"COCO AP{before}. {'; '.join(said)}.{noise}"


def _latency_note(variants: list[Variant]) -> str:
    """Name the machines that the times were measured on."""
    said = set()
    for found in (variant.latency for variant in variants):
        if found is None:
            continue
        parts = [count(found.threads, "thread") if found.threads else "", found.runtime, found.cpu]
        runs = f"median of {count(found.runs, 'run')}" if found.runs else "median"
        said.add(", ".join(filter(None, [runs, *parts])))
    return f"Latency: {'; '.join(sorted(said))}." if said else ""
