"""List what changed in the locks.

python -m locks.lock_changes                    # since the last commit
python -m locks.lock_changes --since REVISION
python -m locks.lock_changes --before FOLDER    # since a saved copy
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from locks.changes import compare, describe
from shared import program

ROOT = Path(__file__).resolve().parents[2]


def locks(root: Path) -> list[str]:
    """List the paths of the package locks in a checkout, so without ``images.lock``."""
    found = {*root.glob("docker/**/*.lock"), *root.glob("scripts/**/*.lock")}
    return sorted(p.relative_to(root).as_posix() for p in found if p.name != "images.lock")


def at_revision(root: Path, revision: str) -> dict[str, str]:
    """Read the locks at a revision: path -> text.

    Raises:
        subprocess.CalledProcessError: there is no such revision, or no repository.
    """

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], check=True, capture_output=True, text=True
        ).stdout

    listed = git("ls-tree", "-r", "--name-only", revision, "--", "docker", "scripts").splitlines()
    paths = [p for p in listed if p.endswith(".lock") and not p.endswith("/images.lock")]
    return {path: git("show", f"{revision}:{path}") for path in paths}


def summary(before: dict[str, str], after: dict[str, str]) -> str:
    """Describe the changes, in one paragraph per lock."""
    parts = []
    for path in sorted(before.keys() | after.keys()):
        lines = describe(compare(before.get(path, ""), after.get(path, "")))
        if lines:
            parts.append("\n".join([path, *(f"  {line}" for line in lines)]))
    return "\n".join(parts) or "The locks name the same packages and files as before."


def main() -> int:
    """Print the changes; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--since", default="HEAD", metavar="REVISION")
    parser.add_argument("--before", type=Path, metavar="FOLDER")
    parser.add_argument("--root", type=Path, default=ROOT, help="The checkout.")
    given = parser.parse_args()
    if given.before:
        before = {p: (given.before / p).read_text("utf-8") for p in locks(given.before)}
    else:
        try:
            before = at_revision(given.root, given.since)
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", None) or str(error)
            print(f"lock_changes: git cannot tell: {why.strip()}", file=sys.stderr)
            return 2
    print(summary(before, {p: (given.root / p).read_text("utf-8") for p in locks(given.root)}))
    return 0


if __name__ == "__main__":
    program.run_function(main, "lock-changes")
