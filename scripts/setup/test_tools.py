"""Unpack independent programs for the tests into ``.tools``, without installing them.

Each comes from the package that ``test-tools.lock`` pins, from whatever Debian mirror the
host knows (``KILN_DEBIAN_MIRROR`` names another), and is verified by the lock's SHA-256. Nothing of
the system changes, and no root rights are needed.
"""

from __future__ import annotations

from pathlib import Path

from debian.debfile import DebFile

from kiln.core.files import write_atomic
from kiln.core.store import Store
from kiln.sources.debian import fetch_lock, read_lock
from shared import program

LOCK = Path(__file__).with_name("test-tools.lock")
TOOLS = Path(__file__).resolve().parents[2] / ".tools"


def main() -> int:
    """Unpack the locked versions that are missing; the exit code."""
    pins = read_lock(LOCK)
    stamp = TOOLS / "made-from"
    wanted = "".join(f"{pin.name} {pin.sha256}\n" for pin in pins)
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        return 0
    store = Store(Store.default_root())
    found = fetch_lock(LOCK, store)
    TOOLS.mkdir(exist_ok=True)
    for pin in pins:
        with store.path(found[pin.filename]).open("rb") as stream:
            program = DebFile(fileobj=stream).data.get_content(f"usr/bin/{pin.name}")
        assert isinstance(program, bytes)
        write_atomic(TOOLS / pin.name, program, 0o755)
        print(f"test-tools: {pin.name} {pin.version} in {TOOLS}")
    write_atomic(stamp, wanted.encode())
    return 0


if __name__ == "__main__":
    program.run_function(main, "test-tools")
