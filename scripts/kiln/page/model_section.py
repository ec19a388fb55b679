"""Everything about one model: how good its files are, how to use them, how they were made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kiln.page.accuracy_section import accuracy_section
from kiln.page.contents import Gate, Model, Picture, Variant
from kiln.page.differences import Comparison, Drawn, compare
from kiln.page.markup import Content, Html, el, join
from kiln.page.overview import gate_id
from kiln.page.parts import badge, choices, code, count, digest, facts, model_id, verdict
from kiln.page.pictures import Store, draw, in_words, plain_view
from kiln.page.snippets import Snippet, snippets

_GATES = {
    "structure": "Inputs, outputs, operators and metadata are those of a detector.",
    "parity": "Detections are the source model’s.",
    "normalization": "The declared normalisation is the one that fits best.",
    "labels": "Every class has its name at its place.",
    "trained": "The prediction heads were trained.",
    "runtime-tensorflow": "TensorFlow’s interpreter runs the file.",
    "runtime-task-library": "The Task Library runs the file.",
    "runtime-litert": "LiteRT runs the file.",
    "runtime-mediapipe": "MediaPipe Tasks runs the file.",
}


def model_section(model: Model, store: Store) -> Html:
    """One model; ``store`` keeps the pictures shown."""
    return el(
        "section",
        el("h2", model.title, id=model_id(model)),
        _about(model),
        _warnings(model),
        el("h3", "Detections"),
        _detections(model, store),
        el("h3", "Checks"),
        _checks(model),
        _problems(model),
        accuracy_section(model),
        el("h3", "Use it"),
        _use(model),
        el("h3", "How it was made"),
        _made(model),
        class_="model",
    )


# --- head --------------------------------------------------------------------------------------


def _about(model: Model) -> Html:
    export = model.conversion.record("stages", "export", "facts")
    annotated = (r.text("params", "description") for _, r in model.conversion.records("stages"))
    description = next((words for words in annotated if words), "")
    classes = export.number("num_classes")
    limit = export.number("max_detections")
    inputs = list(dict.fromkeys(size for v in model.variants if (size := _input(v))))
    return join(
        [
            el("p", description, class_="lead") if description else None,
            facts(
                [
                    ("Folder", el("code", model.name)),
                    ("Architecture", export.text("architecture")),
                    ("Input", join(inputs, ", ")),
                    ("Classes", f"{classes:g}" if classes is not None else None),
                    ("Detections, at most", f"{limit:g}" if limit is not None else None),
                    ("Licence", model.conversion.text("licence")),
                ],
                "facts inline",
            ),
        ]
    )


def _input(variant: Variant) -> str:
    if variant.model is None or not variant.model.graph.inputs:
        return ""
    graph = variant.model.graph
    tensor = graph.tensors[graph.inputs[0]]
    if len(tensor.shape) != 4:
        return ""
    return f"{tensor.shape[2]} × {tensor.shape[1]} {tensor.type}"


def _warnings(model: Model) -> list[Html]:
    said: list[tuple[str, Content]] = [("failed", problem) for problem in model.problems]
    if model.conversion.text("profile") == "seed":
        said.append(
            (
                "allowed",
                "Made the way of the hand-written recipe of 2021, its faults included, so that "
                "they can be measured. Not for use.",
            )
        )
    untrained = [reason for reason in model.conversion.list("untrained") if isinstance(reason, str)]
    if untrained:
        said.append(
            (
                "allowed",
                f"The prediction heads were never trained ({'; '.join(untrained)}): what these "
                "files find is chance.",
            )
        )
    if not model.checked:
        said.append(
            (
                "skipped",
                "This model was not checked: there is no checks.json in its folder, so nothing "
                "here says how close its files are to the source.",
            )
        )
    elif model.source is None:
        said.append(
            ("skipped", "There is no source model to compare with: detections stand alone.")
        )
    failed = [variant.name for variant in model.variants if variant.passed is False]
    if failed:
        said.append(("failed", f"Failed its checks: {', '.join(failed)}. The reasons are below."))
    for variant in model.variants:
        said += [("failed", f"{variant.name}: {note}") for note in variant.notes]
    return [el("p", badge(status, words), class_=f"notice {status}") for status, words in said]


# --- detections --------------------------------------------------------------------------------


def _detections(model: Model, store: Store) -> Html:
    pictures = [picture for picture in model.pictures if not picture.problem]
    lost = [p for p in model.pictures if p.problem]
    missing = [el("p", p.name, ": ", p.problem, ".", class_="quiet note") for p in lost]
    if not pictures:
        reason = "No pictures: the model was not checked." if not model.checked else "No pictures."
        return join([el("p", reason, class_="quiet"), missing])
    shown = [_Shown(model, picture) for picture in pictures]
    first = max(range(len(shown)), key=lambda i: (shown[i].differs, shown[i].objects, -i))
    options = [
        (
            [
                plain_view(item.picture, store),
                el("span", item.picture.name),
                el("span", "differs", class_="flag") if item.differs else None,
            ],
            item.panel(store),
        )
        for item in shown
    ]
    return join(
        [
            _threshold(model),
            choices(f"image-{model_id(model)}", "Image", options, first),
            missing,
        ]
    )


def _threshold(model: Model) -> Html:
    """Words on what is drawn; the slider is made visible by the script."""
    score = f"{model.score_threshold:g}"
    identity = f"score-{model_id(model)}"
    slider = el(
        "span",
        el("label", "Draw scores from ", for_=identity),
        el(
            "input",
            type="range",
            id=identity,
            min=score,
            max="0.95",
            step="0.05",
            value=score,
        ),
        el("output", score, for_=identity),
        class_="slider",
        hidden=True,
    )
    words = f"Objects that score at least {score}. "
    words += (
        "Marked: ≠ another score (by more than 0.1), box (IoU below 0.9) or name than in the "
        "source, + not in the source, − missing."
        if model.source is not None
        else ""
    )
    return el("p", el("span", words), slider, class_="quiet note legend")


class _Shown:
    """One picture with the source's detections and every variant's."""

    def __init__(self, model: Model, picture: Picture) -> None:
        self.picture = picture
        self._model = model
        threshold = model.score_threshold
        self._source = None if model.source is None else model.source.get(picture.name, [])
        self._found: list[tuple[Variant, Comparison | None, list[Drawn]]] = []
        for variant in model.variants:
            if picture.name not in variant.detections:
                continue
            items = variant.detections[picture.name]
            if self._source is None:
                sure = [Drawn(item, "same") for item in items if item["score"] >= threshold]
                self._found.append((variant, None, sure))
            else:
                held = compare(self._source, items, threshold)
                self._found.append((variant, held, list(held.drawn)))

    @property
    def differs(self) -> bool:
        return any(held is not None and held.differences for _, held, _ in self._found)

    @property
    def objects(self) -> int:
        return max((len(drawn) for _, _, drawn in self._found), default=0)

    def panel(self, store: Store) -> Html:
        figures = []
        if self._source is not None:
            sure = [d for d in self._source if d["score"] >= self._model.score_threshold]
            runtime = self._model.checks.text("source", "runtime")
            figures.append(
                self._figure(
                    store,
                    "source",
                    [Drawn(item, "same") for item in sure],
                    [
                        f"{count(len(sure), 'object')}." if sure else "Nothing found.",
                        el("span", f" Run by {runtime}.", class_="quiet") if runtime else None,
                    ],
                )
            )
        for variant, held, drawn in self._found:
            words = held.summary() if held else f"{count(len(drawn), 'object')}."
            differs = held is not None and bool(held.differences)
            figures.append(self._figure(store, variant.name, drawn, [el("span", words)], differs))
        return el("div", figures, class_="shots")

    def _figure(
        self, store: Store, name: str, drawn: list[Drawn], words: Content, differs: bool = False
    ) -> Html:
        said = f"{self.picture.name}, {name}: {in_words(item.detection for item in drawn)}"
        return el(
            "figure",
            draw(self.picture, store, drawn, said),
            el("figcaption", el("strong", name), " ", words),
            class_="differs" if differs else None,
        )


# --- checks ------------------------------------------------------------------------------------


def _checks(model: Model) -> Html:
    checked = [variant for variant in model.variants if variant.passed is not None]
    if not checked:
        return el("p", "None were made.", class_="quiet")
    names = dict.fromkeys(gate.name for variant in checked for gate in variant.gates)
    rows = []
    for name in names:
        gates = [next((g for g in v.gates if g.name == name), None) for v in checked]
        if len(checked) > 1 and len({g and (g.status, g.summary) for g in gates}) == 1:
            cells = [_gate_cell(gates[0], "all files", colspan=len(checked))]
        else:
            cells = [_gate_cell(g, v.name) for g, v in zip(gates, checked, strict=True)]
        head = el(
            "th",
            el("span", name, class_="variant"),
            el("span", _GATES.get(name, ""), class_="quiet"),
            scope="row",
            role="rowheader",
        )
        rows.append(el("tr", head, cells, id=gate_id(model, name), role="row"))
    results = [el("td", badge(*verdict(v)), data_label=v.name, role="cell") for v in checked]
    heads = [el("th", v.name, scope="col", role="columnheader") for v in checked]
    table = el(
        "table",
        el("caption", "What was checked on each file, and what came out", class_="unseen"),
        el(
            "thead",
            el("tr", el("th", "Check", scope="col", role="columnheader"), heads, role="row"),
            role="rowgroup",
        ),
        el("tbody", rows, role="rowgroup"),
        el(
            "tfoot",
            el("tr", el("th", "Result", scope="row", role="rowheader"), results, role="row"),
            role="rowgroup",
        ),
        class_="checks stacked",
        role="table",
    )
    label = f"Checks of {model.name}"
    return el("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def _gate_cell(gate: Gate | None, label: str, colspan: int | None = None) -> Html:
    content: Content = "–"
    if gate is not None:
        content = el(
            "div", badge(gate.status), " ", el("span", gate.summary, class_="quiet"), class_="said"
        )
    return el("td", content, data_label=label, role="cell", colspan=colspan)


def _problems(model: Model) -> Html | None:
    found = [
        el(
            "li",
            el("h4", badge(gate.status, f"{variant.name}: {gate.name}"), " ", el("code", p.code)),
            facts([("Expected", p.expected), ("Seen", p.seen), ("Likely cause", p.cause)]),
            class_=f"problem {gate.status}",
        )
        for variant in model.variants
        for gate in variant.gates
        for p in gate.problems
    ]
    return el("ul", found, class_="problems") if found else None


# --- use ---------------------------------------------------------------------------------------


def _use(model: Model) -> Html:
    options: list[tuple[Content, Html]] = []
    for variant in model.variants:
        name = f"use-{model_id(model)}-{len(options)}"
        parts = [(s.title, _snippet(s)) for s in snippets(model, variant)]
        options.append(
            (variant.name + (" (default)" if variant.default else ""), choices(name, "With", parts))
        )
    if not options:
        return el("p", "There is no file.", class_="quiet")
    return choices(f"variant-{model_id(model)}", "File", options)


def _snippet(snippet: Snippet) -> Html:
    if snippet.reason:
        return el("p", "No code for this file: ", snippet.reason, ".", class_="quiet")
    return code(snippet.code, f"{snippet.title}: {snippet.language} code")


# --- origin ------------------------------------------------------------------------------------


def _made(model: Model) -> Html:
    record = model.conversion
    rows: list[tuple[Content, Content]] = [
        ("kiln", record.text("kiln")),
        ("Profile", record.text("profile")),
        ("Recipe", _digest(record.text("recipe", "sha256"))),
        ("Image", record.text("image", "name")),
        ("Image identity", _digest(record.text("image", "identity"))),
        ("Stage code", _digest(record.text("stage_code"))),
    ]
    source = record.raw("source")
    rows += list(_flat("Source", source)) if isinstance(source, dict) else []
    return join([facts(rows, "facts long"), _stages(model)])


def _flat(name: str, value: Any, depth: int = 0) -> Iterator[tuple[Content, Content]]:
    """A record of any form as rows; long lists of files are folded away."""
    if isinstance(value, dict) and depth < 4:
        leaves = {key: item for key, item in sorted(value.items()) if isinstance(item, str)}
        if depth > 0 and len(leaves) == len(value) > 3:
            rows = [(key, _digest(item)) for key, item in leaves.items()]
            summary = el("summary", count(len(leaves), "file"))
            yield name, el("details", summary, facts(rows, "facts long"))
            return
        for key, item in sorted(value.items()):
            label = f"{name}, {key.replace('_', ' ')}" if depth < 1 else f"{name} / {key}"
            yield from _flat(label, item, depth + 1)
    elif isinstance(value, list):
        yield name, ", ".join(str(item) for item in value)
    elif value is not None:
        yield name, _digest(str(value))


def _digest(value: str) -> Content:
    long = len(value.removeprefix("sha256:")) >= 40 and " " not in value and "/" not in value
    return digest(value) if long else value


def _stages(model: Model) -> Html | None:
    rows = []
    for name, stage in model.conversion.records("stages"):
        seconds, peak = stage.number("seconds"), stage.number("peak_rss")
        cells = [
            ("Time", f"{seconds:.1f} s" if seconds is not None else "–"),
            ("Memory", f"{peak / 2**20:,.0f} MiB" if peak is not None else "–"),
            ("Key", digest(stage.text("key")) if stage.text("key") else "–"),
        ]
        rows.append(
            el(
                "tr",
                el("th", name, scope="row", role="rowheader"),
                [el("td", value, data_label=label, role="cell") for label, value in cells],
                role="row",
            )
        )
    if not rows:
        return None
    heads = [
        el("th", head, scope="col", role="columnheader")
        for head in ("Stage", "Time", "Peak memory", "Key")
    ]
    table = el(
        "table",
        el("caption", "A key is the digest of all that could influence the stage’s result."),
        el("thead", el("tr", heads, role="row"), role="rowgroup"),
        el("tbody", rows, role="rowgroup"),
        class_="stages stacked",
        role="table",
    )
    label = f"Stages of {model.name}"
    scroll = el("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)
    return el("details", el("summary", count(len(rows), "stage")), scroll)
