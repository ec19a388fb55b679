"""Render the whole page."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kiln.core.plain_text import plain
from kiln.page import differences, formats
from kiln.page.contents import read_release
from kiln.page.page_view import page_view

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_FILE = "index.html"

_TEMPLATES = Path(__file__).parent / "templates"


def render(dist: Path, key_id: str | None = None) -> str:
    """The page for a release: HTML that needs no other file and no network.

    The same files in ``dist`` always give the same page; an earlier ``index.html`` and
    ``SHA256SUMS`` are not read. A model folder with damaged or missing records still gets its
    section, which says so.

    Args:
        dist: the release folder; ``latency.json`` and ``accuracy.json`` in it are used where
            they are there.
        key_id: of the key that the page will be signed with, empty for none; by default that of
            the ``kiln.pub`` that is there.

    Raises:
        UsageError: ``dist`` is no folder, or holds no model.
    """
    release = read_release(dist)
    if key_id is not None:
        release = replace(release, key_id=key_id)
    page = environment().get_template("page.html").render(page=page_view(release))
    # The whole page, so that no text is left out: a name must not reorder the words around it.
    # By lines, since those with pictures are plain ASCII, which is soon seen.
    return "\n".join(plain(line, keep="\t") for line in page.split("\n"))


@cache
def environment() -> Environment:
    """Jinja, set up for the page's templates: every value that they show is escaped."""
    # Here, not above: a build that has nothing to do publishes no page.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        megabytes=formats.megabytes,
        fixed=formats.fixed,
        signed=formats.signed,
        difference=formats.difference,
        share=formats.share,
        count=formats.count,
        units=formats.units,
        csp_source=formats.csp_source,
    )
    environment.globals.update(
        anchor=formats.anchor,
        least_iou=differences.LEAST_IOU,
        most_score=differences.MOST_SCORE,
    )
    return environment
