"""Write a report and a badge from the events of ``kiln reproduce --json``.

    python -m releases.reproduce_report EVENTS --out FOLDER

EVENTS has a JSON event a line. Writes ``report.md`` and ``badge.json`` (an endpoint badge of
shields.io) into FOLDER and prints the report. Ends with 1 unless every artefact came out identical.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kiln.core.files import write_atomic
from kiln.release.notes import escaped
from shared import program

GOOD = "identical"


def events(path: Path) -> Iterator[dict[str, Any]]:
    """The events in a file. Other lines are skipped: a killed run leaves half a line."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def report(found: list[dict[str, Any]], title: str) -> tuple[str, dict[str, Any], bool]:
    """The report in Markdown, the badge, and whether everything is identical."""
    verdicts = [event for event in found if "verdict" in event]
    errors = [event for event in found if event.get("event") == "error"]
    counts = Counter(str(event["verdict"]) for event in verdicts)
    good = bool(verdicts) and not errors and set(counts) == {GOOD}
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    lines = [f"## {escaped(title)}: {'reproduced' if good else 'not reproduced'}", ""]
    lines += [said or "Nothing was compared.", ""]
    for error in errors:
        told = f"{error.get('message', '')} {error.get('remedy', '')}"
        lines += [f"**{escaped(str(error.get('kind', 'error')))}**: {escaped(told)}", ""]
    if verdicts:
        lines += ["| Artefact | Released | Made again | Verdict |", "| --- | --- | --- | --- |"]
        lines += [_row(event) for event in verdicts]
    lines.append("")
    for event in verdicts:
        lines += [f"- {escaped(text)}" for text in _reasons(event)]
    badge = {
        "schemaVersion": 1,
        "label": "reproduced",
        "message": said or "nothing compared",
        "color": "brightgreen" if good else "red",
    }
    return "\n".join(lines).rstrip() + "\n", badge, good


def _row(event: dict[str, Any]) -> str:
    digests = (str(event.get(name) or "")[:16] for name in ("sha256", "rebuilt"))
    cells = (event.get("file", "?"), *digests, event["verdict"])
    return f"| {' | '.join(escaped(str(text)) for text in cells)} |"


def _reasons(event: dict[str, Any]) -> Iterator[str]:
    for cause in event.get("causes") or ():
        yield f"{event.get('file', '?')}: {cause.get('kind')}: {cause.get('text')}"
    for thing in event.get("missing") or ():
        where = thing.get("uri") or "a place unknown"
        yield f"{event.get('file', '?')}: {thing.get('name')} is missing; it was in {where}"


def main() -> int:
    """Write and print the report; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("events", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--title", default="Release")
    given = parser.parse_args()
    text, badge, good = report(list(events(given.events)), given.title)
    given.out.mkdir(parents=True, exist_ok=True)
    write_atomic(given.out / "report.md", text.encode())
    write_atomic(given.out / "badge.json", json.dumps(badge).encode() + b"\n")
    print(text, end="")
    return 0 if good else 1


if __name__ == "__main__":
    program.run_function(main, "reproduce-report")
