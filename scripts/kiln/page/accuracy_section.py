"""What conversion cost in COCO's figures, and on what that was measured."""

from __future__ import annotations

from kiln.page.accuracy import Accuracy, DataSet, Scores, signed
from kiln.page.contents import Model, Variant
from kiln.page.markup import Content, Html, el, join
from kiln.page.parts import digest, facts

_HEADS = ("AP", "AP50", "AP75", "AR100", "Change of AP")
_CAPTION = "COCO’s measures (pycocotools, boxes): AP is the mean over IoU 0.5 to 0.95."
_SOURCE_CAPTION = (
    " The source model is the one before conversion, run by TensorFlow on the same images."
)


def accuracy_section(model: Model) -> Html | None:
    """A table for each data set that files of the model were measured on; None without any."""
    groups: dict[tuple[DataSet, Scores | None], list[tuple[Variant, Accuracy]]] = {}
    for variant in model.variants:
        if variant.accuracy is not None:
            key = (variant.accuracy.data, variant.accuracy.source)
            groups.setdefault(key, []).append((variant, variant.accuracy))
    if not groups:
        return None
    tables = [
        join([_table(model, source, measured), _data_set(data)])
        for (data, source), measured in groups.items()
    ]
    return join([el("h3", "Accuracy"), tables])


def _table(model: Model, source: Scores | None, measured: list[tuple[Variant, Accuracy]]) -> Html:
    rows = [] if source is None else [_row("source model", source, None, "variant quiet")]
    rows += [_row(v.name, found.result, found.change(), "variant") for v, found in measured]
    heads = [el("th", head, scope="col", role="columnheader") for head in ("Measured", *_HEADS)]
    table = el(
        "table",
        el("caption", _CAPTION, None if source is None else _SOURCE_CAPTION),
        el("thead", el("tr", heads, role="row"), role="rowgroup"),
        el("tbody", rows, role="rowgroup"),
        class_="accuracy stacked",
        role="table",
    )
    label = f"Accuracy of {model.name}"
    return el("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def _row(name: str, scores: Scores, change: float | None, class_: str) -> Html:
    values = (scores.ap, scores.ap50, scores.ap75, scores.ar100)
    cells = ["–" if value is None else f"{value:.3f}" for value in values]
    cells.append("–" if change is None else signed(change))
    return el(
        "tr",
        el("th", el("span", name, class_=class_), scope="row", role="rowheader"),
        [
            el(
                "td",
                value,
                data_label=head,
                role="cell",
                class_="void" if value == "–" else None,
            )
            for head, value in zip(_HEADS, cells, strict=True)
        ],
        role="row",
    )


def _data_set(data: DataSet) -> Html:
    known = None
    if data.categories is not None and data.all_categories is not None:
        known = f"{data.categories:,} of the data set’s {data.all_categories:,}"
    rows: list[tuple[Content, Content]] = [
        ("Measured on", data.name),
        ("Images", data.count()),
        ("Classes measured", known),
        ("Annotations’ SHA-256", digest(data.annotations) if data.annotations else None),
        ("Images’ digest", digest(data.pictures) if data.pictures else None),
    ]
    return facts(rows, "facts long")
