"""The table of all models and variants."""

from __future__ import annotations

from kiln.page.accuracy import Accuracy
from kiln.page.contents import Latency, Model, Release, Variant
from kiln.page.markup import Content, Html, el, join
from kiln.page.parts import (
    anchor,
    badge,
    count,
    difference,
    icon,
    megabytes,
    model_id,
    share,
    verdict,
)


def overview(release: Release) -> Html:
    """One row for each file, grouped by model."""
    variants = [variant for model in release.models for variant in model.variants]
    accuracy = any(variant.accuracy for variant in variants)
    latency = any(variant.latency for variant in variants)
    heads = ["Variant", "Size", "Checks", "Score difference", "Least IoU", "Missed / extra",
             "Agreement"]  # fmt: skip
    heads += ["COCO AP"] if accuracy else []
    heads += ["Latency"] if latency else []
    heads += ["SHA-256"]
    body = []
    for model in release.models:
        rows = [_row(model, variant, accuracy, latency) for variant in model.variants]
        body.append(el("tbody", _group(model, len(heads)), rows, role="rowgroup"))
    table = el(
        "table",
        el(
            "caption",
            "Largest score difference, least box overlap (IoU) and agreement are those between the "
            "file’s detections and the source model’s on the check images.",
        ),
        el(
            "thead",
            el(
                "tr",
                [el("th", head, scope="col", role="columnheader") for head in heads],
                role="row",
            ),
            role="rowgroup",
        ),
        body,
        class_="overview stacked",
        role="table",
    )
    return el(
        "section",
        el("h2", "Files", id="files"),
        el("div", table, class_="scroll", tabindex="0", role="region", aria_label="Files"),
        _accuracy_note(release),
        _latency_note(variants),
    )


def gate_id(model: Model, gate: str) -> str:
    """The id of a gate's row in its model's table."""
    return anchor("gate", model.name, gate)


def digest_id(model: Model, file: str) -> str:
    """The id of a file's row in the table of digests."""
    return anchor("sha256", model.name, file)


def _group(model: Model, columns: int) -> Html:
    facts = [count(len(model.variants), "file"), model.conversion.text("licence") or None]
    return el(
        "tr",
        el(
            "th",
            el("a", model.title, href=f"#{model_id(model)}"),
            el("span", join((fact for fact in facts if fact), " · "), class_="quiet"),
            scope="rowgroup",
            colspan=columns,
            role="rowheader",
        ),
        class_="group",
        role="row",
    )


def _row(model: Model, variant: Variant, accuracy: bool, latency: bool) -> Html:
    figures = variant.figures
    missed, extra = figures.get("missed"), figures.get("extra")
    cells: list[tuple[str, Content]] = [
        ("Size", megabytes(variant.size)),
        ("Checks", _checks(model, variant)),
        ("Score difference", difference(figures.get("max_score_difference"))),
        ("Least IoU", share(figures.get("min_iou"))),
        ("Missed / extra", "–" if missed is None or extra is None else f"{missed:g} / {extra:g}"),
        ("Agreement", share(figures.get("agreement"))),
    ]
    cells += [("COCO AP", _accuracy(variant.accuracy))] if accuracy else []
    cells += [("Latency", _latency(variant.latency))] if latency else []
    short = el(
        "a",
        el("code", variant.sha256[:12]),
        href=f"#{digest_id(model, variant.file)}",
        title=variant.sha256,
        aria_label=f"SHA-256 of {variant.file}, in full",
    )
    cells.append(("SHA-256", short if variant.sha256 else "–"))
    status, _ = verdict(variant)
    return el(
        "tr",
        el(
            "th",
            el("span", variant.name, class_="variant"),
            el("span", "default", class_="tag") if variant.default else None,
            [el("span", note, class_="warning") for note in variant.notes],
            scope="row",
            role="rowheader",
        ),
        [_cell(label, value) for label, value in cells],
        class_="bad" if status == "failed" or variant.notes else None,
        role="row",
    )


def _cell(label: str, value: Content) -> Html:
    empty = value in (None, "–")  # left out where rows are cards
    return el("td", value, data_label=label, role="cell", class_="void" if empty else None)


def _checks(model: Model, variant: Variant) -> Html:
    if variant.passed is None:
        return badge("skipped", "not checked")
    marks = []
    for gate in variant.gates:
        said = f"{gate.name}: {gate.status}" + (f", {gate.summary}" if gate.summary else "")
        known = gate.status if gate.status in ("passed", "failed", "allowed", "skipped") else ""
        marks.append(
            el(
                "a",
                icon(gate.status),
                href=f"#{gate_id(model, gate.name)}",
                title=said,
                aria_label=said,
                class_=f"mark {known or 'unknown'}",
            )
        )
    status, word = verdict(variant)
    return join([badge(status, word), el("span", marks, class_="marks") if marks else None])


def _accuracy(found: Accuracy | None) -> Content:
    """Before and after conversion; "→" is read as many things, so words stand beside it."""
    if found is None:
        return "–"
    after = f"{found.result.ap:.3f}"
    if found.source is None:
        return el("span", after, title=found.data.words())
    return el(
        "span",
        el("span", f"{found.source.ap:.3f}", class_="quiet"),
        el("span", " before, ", class_="unseen"),
        el("span", " → ", class_="quiet", aria_hidden="true"),
        after,
        el("span", " after", class_="unseen"),
        class_="change",
        title=found.data.words(),
    )


def _latency(found: Latency | None) -> Content:
    if found is None:
        return "–"
    p90 = f"90 % of runs within {found.p90_ms:.1f} ms" if found.p90_ms is not None else None
    return el("span", f"{found.median_ms:.1f} ms", title=p90)


def _accuracy_note(release: Release) -> Html | None:
    """On what AP was measured: figures of two data sets cannot be compared."""
    found: dict[str, list[str]] = {}
    before = ""
    for model in release.models:
        for measured in (variant.accuracy for variant in model.variants):
            if measured is not None:
                found.setdefault(measured.data.words(), []).append(model.name)
                before = ", before → after conversion" if measured.source else before
    if not found:
        return None
    said = [f"{', '.join(dict.fromkeys(names))}: {words}" for words, names in found.items()]
    if len(said) == 1:
        said = [f"Measured on {words}" for words in found]
    return el("p", f"COCO AP{before}. ", "; ".join(said), ".", class_="quiet note")


def _latency_note(variants: list[Variant]) -> Html | None:
    """Where the times were taken: a time without its machine says nothing."""
    said = set()
    for found in (variant.latency for variant in variants):
        if found is None:
            continue
        parts = [count(found.threads, "thread") if found.threads else "", found.runtime, found.cpu]
        runs = f"median of {count(found.runs, 'run')}" if found.runs else "median"
        said.add(", ".join(filter(None, [runs, *parts])))
    if not said:
        return None
    return el("p", "Latency: ", "; ".join(sorted(said)), ".", class_="quiet note")
