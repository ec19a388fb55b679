"""Looks for a way out of the container, and tells what it found."""

import json
import os
import random
from pathlib import Path

from stages.plain import MARK, finish, folder, ours, say, write_report


def reach(token_name: str, seed: int) -> int:
    """Read and write wherever it goes; what is found becomes a file of the result.

    ``token_name`` is the name of the variable and file that hold the host's canary: anything found
    under that name is what must not be there.
    """
    rng = random.Random(seed)
    say("started")
    files = folder()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            for name in ("environ", "cmdline", "maps", "root/etc/shadow", "cwd"):
                path = process / name
                try:
                    data = path.read_bytes()
                except OSError:
                    continue
                if token_name.encode() in data:
                    found.append([str(path), data.hex()])
    for folder_name in ("/in", "/kiln", "/etc", "/root", "/home", "/var", "/mnt", "/host"):
        for place, _, names in os.walk(folder_name):
            for name in names:
                path = Path(place) / name
                try:
                    if token_name in name:
                        found.append([str(path), path.read_bytes().hex()])
                except OSError:
                    continue
    wrote = []
    for place in ("/in/x", "/kiln/stages/x", "/etc/x", "/x", "/proc/sys/kernel/core_pattern",
                  "/sys/x", "/dev/x", "/proc/sysrq-trigger"):  # fmt: skip
        try:
            with open(place, "wb") as file:  # noqa: PTH123
                file.write(b"x" if place != "/proc/sysrq-trigger" else b"")
            wrote.append(place)
        except OSError:
            continue
    (files / "found").write_bytes(MARK + json.dumps({"found": found, "wrote": wrote}).encode())
    (files / "model.tflite").write_bytes(ours(rng))
    write_report()
    finish()
    return 0
