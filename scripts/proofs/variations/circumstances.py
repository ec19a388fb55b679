"""Circumstances under which the samples are rebuilt, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: Id of another user; any unused one works.
USER = 12345

CLOCK = "@2041-02-03 04:05:06"
HOST = "kiln-elsewhere"
PLACE = "an other plaçe"


@dataclass(frozen=True)
class Circumstance:
    """One or several differences from a usual build.

    Args:
        name: heading of its row.
        what: a description, for the documentation.
        before: lines of sh that run before kiln does.
        environment: of kiln's process.
        inside: differences inside stages, see :mod:`proofs.variations.patched_kiln`.
        user: whether kiln runs as another user.
        elsewhere: whether kiln runs in a copy of the checkout, from another folder.
        reverse: whether folders list backwards, and the copy is written backwards.
        clock: whether kiln's process sees another date.
        engine: whether a separate engine is started.
        images: whether the images are rebuilt, too.
        needs: programs that must be installed.
        root: whether it needs root.
    """

    name: str
    what: str
    before: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    inside: dict[str, Any] = field(default_factory=dict)
    user: bool = False
    elsewhere: bool = False
    reverse: bool = False
    clock: bool = False
    engine: bool = False
    images: bool = True
    needs: tuple[str, ...] = ()
    root: bool = False


_NAMED = (f"hostname {HOST}",)
_ZONE = {"TZ": "Asia/Kathmandu"}
_PLAIN = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
_ZONE_INSIDE = "export TZ=KIL-05:45"  # as a rule: the images have no time zone database
_PLAIN_INSIDE = "export LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"

AS_IT_IS = Circumstance("as it is", "the build that the others are compared with", images=False)

CIRCUMSTANCES = (
    AS_IT_IS,
    Circumstance(
        "host name", "another host name, of the machine and of the container",
        before=_NAMED, inside={"container": {"hostname": HOST}}, needs=("unshare",), root=True,
    ),
    Circumstance(
        "user", f"kiln and its stages run as user {USER} instead of root and the stages' own user",
        user=True, needs=("setpriv",), root=True,
    ),
    Circumstance(
        "time zone", "5 h 45 min east of Greenwich, of kiln and of stages",
        environment=_ZONE, inside={"shell": [_ZONE_INSIDE]},
    ),
    Circumstance(
        "locale", "plain ASCII, without Python's UTF-8 mode, of kiln and of stages",
        environment=_PLAIN, inside={"shell": [_PLAIN_INSIDE]},
    ),
    Circumstance(
        "umask", "077 instead of 022, of kiln and of stages",
        before=("umask 077",), inside={"shell": ["umask 077"]},
    ),
    Circumstance(
        "place", "a copy of the checkout under a path with spaces and other letters, started in /",
        elsewhere=True,
    ),
    Circumstance(
        "clock", "3 February 2041, of kiln and of stages", clock=True, inside={"clock": CLOCK},
    ),
    Circumstance(
        "file order", "folders list backwards, a checkout that was written backwards",
        elsewhere=True, reverse=True, inside={"reversed": True},
    ),
    Circumstance(
        "one core", "one processor core, of kiln and of stages",
        before=("taskset -p -c 0 $$ >/dev/null",), inside={"one_core": True}, images=False,
        needs=("taskset",),
    ),
    Circumstance(
        "engine", "a Docker engine of its own: plain copies instead of overlays (vfs), no bridge, "
        "another log driver, other limits", engine=True, needs=("dockerd",), root=True,
    ),
    Circumstance(
        "Haswell", "stages on an emulated processor with AVX2 and without AVX-512 (qemu-user)",
        inside={"cpu": "Haswell"}, images=False,
    ),
    Circumstance(
        "SandyBridge", "stages on an emulated processor with AVX only (qemu-user)",
        inside={"cpu": "SandyBridge"}, images=False,
    ),
    Circumstance(
        "all at once", "host name, time zone, locale, umask, place, clock, file order and one core",
        before=(*_NAMED, "umask 077", "taskset -p -c 0 $$ >/dev/null"),
        environment={**_ZONE, **_PLAIN},
        inside={
            "container": {"hostname": HOST}, "clock": CLOCK, "reversed": True, "one_core": True,
            "shell": [_ZONE_INSIDE, _PLAIN_INSIDE, "umask 077"],
        },
        elsewhere=True, reverse=True, clock=True, needs=("unshare", "taskset"), root=True,
    ),
)  # fmt: skip
"""In the order of the table; the others are compared with the first."""
