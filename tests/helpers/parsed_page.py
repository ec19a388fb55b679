"""A page as a browser would take it apart, and the records it was written from."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import page_dist

from kiln.page.document import render

VOID = {"br", "hr", "input", "link", "meta"}


class Parsed(HTMLParser):
    """A page taken apart: elements with their attributes, and the text of each kind of element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.append((self.open[-1], data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        """What is read, white space evened out."""
        said = (text for tag, text in self.texts if tag not in {"style", "script"})
        return re.sub(r"\s+", " ", " ".join(said))


def checks_of(dist: Path) -> dict[str, Any]:
    return page_dist.read(dist / "toy" / "checks.json")


def parsed(dist: Path) -> Parsed:
    return Parsed(render(dist))


def rows_of(page: str, section: str) -> dict[str, str]:
    """The words of each row of a table, by the name that it begins with."""
    table = page.partition(section)[2].partition("</table>")[0]
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)
    rows = [re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", row)).strip() for row in found]
    return {row.partition(" ")[0]: row for row in rows}
