"""Runs inside a build container, with its own Python (3.9 or later) and standard library only.

Runs the steps of an image's Dockerfile, then writes the container's file system as one canonical
layer: what :class:`kiln.images.seal.Sealer` makes of an export, byte for byte. The driver passes
the text of this file to ``python3 -c``, and reads what comes out of the pipe:

1. one line as soon as the program runs, so that the driver knows that the pipe works;
2. after the steps, the size of the layer in decimal digits, as a line, and the layer;
3. the size of the contents list, as a line, and the list.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
from typing import IO, Any

GREETING = b"kiln build container\n"

_CHUNK = 1 << 20
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ, which Python names since 3.10


def main() -> None:
    """Run the request, which is JSON in the last argument."""
    request = json.loads(sys.argv[-1])
    with open(request["pipe"], "wb", buffering=_CHUNK) as out:
        with contextlib.suppress(OSError):  # without the right to it, a small pipe is only slower
            fcntl.fcntl(out, _SET_PIPE_SIZE, _CHUNK)
        out.write(GREETING)
        out.flush()
        for folder in request["folders"]:
            os.makedirs(folder, exist_ok=True)
        for number, step in enumerate(request["steps"], 1):
            _run(f"Step {number}/{len(request['steps'])}", step)
        print("Writing the layer", flush=True)
        write_layer(out, request)


def _run(title: str, step: dict[str, Any]) -> None:
    print(f"{title} : RUN {json.dumps(step['command'])}", flush=True)
    done = subprocess.run(
        step["command"],
        cwd=step["folder"],
        env={**os.environ, **step["environment"]},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(step['command'])} ended with status {done.returncode}.")


def write_layer(out: IO[bytes], rules: dict[str, Any], root: str = "/") -> None:
    """Write the file system below ``root`` as a canonical layer, then the list of its contents.

    Args:
        rules: ``emptied`` (folders whose contents do not count, with their modes), ``blank`` (files
            whose content does not count), ``dropped`` (what is no part of the image), and
            ``epoch``, the time of every entry. Paths are relative to ``root``.
    """
    entries = _entries(root, _found(root, rules), rules)
    size = sum(len(head) + -(-info.size // 512) * 512 for info, head in entries) + 1024
    padded = -(-size // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    out.write(b"%d\n" % padded)
    listed = []
    for info, head in entries:
        out.write(head)
        content = info.linkname
        if info.isreg():
            content = _copy(os.path.join(root, info.name), info.size, out)
        listed.append(_line(info, content))
    out.write(bytes(padded - size + 1024))
    text = "".join(listed).encode("ascii")
    out.write(b"%d\n" % len(text))
    out.write(text)


def _found(root: str, rules: dict[str, Any]) -> dict[str, os.stat_result]:
    """Find all that is part of the image, path to status; other file systems are not."""
    left_out = {*rules["dropped"], *_mount_points(root)}
    emptied, blank = set(rules["emptied"]), set(rules["blank"])
    found: dict[str, os.stat_result] = {}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if path in emptied or path in blank or path in left_out:
                    continue
                found[path] = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
    return found


def _mount_points(root: str) -> set[str]:
    """List where other file systems begin, as paths relative to ``root``."""
    places = set()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            # White space and backslashes in a path are written as octal numbers.
            place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4])
            places.add(os.path.relpath(place, root))
    return places


def _entries(
    root: str, found: dict[str, os.stat_result], rules: dict[str, Any]
) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Make the layer's entries with their headers, in order."""
    made: dict[str, tarfile.TarInfo] = {}
    first: dict[tuple[int, int], str] = {}
    for path in sorted(found):
        status = found[path]
        info = tarfile.TarInfo(path)
        info.mode = stat.S_IMODE(status.st_mode)
        info.uid, info.gid = status.st_uid, status.st_gid
        if stat.S_ISDIR(status.st_mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(status.st_mode):
            info.type, info.mode = tarfile.SYMTYPE, 0o777
            info.linkname = os.readlink(os.path.join(root, path))
        elif not stat.S_ISREG(status.st_mode):
            continue  # devices, sockets, pipes: the engine makes its own
        else:
            # The first name of a file in path order is the file, every other one a link to it.
            name = path
            if status.st_nlink > 1:
                name = first.setdefault((status.st_dev, status.st_ino), path)
            if name == path:
                info.size = status.st_size
            else:
                info.type, info.linkname = tarfile.LNKTYPE, name
        made[path] = info
    for path, mode in rules["emptied"].items():
        made[path] = _plain(path, tarfile.DIRTYPE, mode)
    for path in rules["blank"]:
        made[path] = _plain(path, tarfile.REGTYPE, 0o644)
    for path in list(made):
        while "/" in path:
            path = path.rpartition("/")[0]
            made.setdefault(path, _plain(path, tarfile.DIRTYPE, 0o755))
    # A hard link can only be unpacked after the file it names: those come last.
    order = sorted(made.items(), key=lambda item: (item[1].islnk(), item[0]))
    for _, info in order:
        info.mtime = rules["epoch"]
    return [(info, info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")) for _, info in order]


def _plain(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode = kind, mode
    return info


def _copy(path: str, size: int, out: IO[bytes]) -> str:
    """Write a file's content, padded; return the first digits of its SHA-256."""
    digest = hashlib.sha256()
    left = size
    if size:
        with open(path, "rb", buffering=0) as file:
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    sys.exit(f"{path} became shorter while it was read.")
                digest.update(chunk)
                out.write(chunk)
                left -= len(chunk)
        out.write(bytes(-size % 512))
    return digest.hexdigest()[:16]


def _line(info: tarfile.TarInfo, content: str) -> str:
    """Describe an entry in the form of :meth:`kiln.images.seal.FileFact.line`."""
    kind = "d" if info.isdir() else "l" if info.issym() else "h" if info.islnk() else "f"
    path, content = (text.encode("unicode_escape").decode("ascii") for text in (info.name, content))
    owner = f"{info.uid}:{info.gid}"
    return "\t".join((path, kind, f"{info.mode:o}", owner, str(info.size), content)) + "\n"


if __name__ == "__main__":
    main()
