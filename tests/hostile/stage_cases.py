"""What hostile stages do, as data: which function of which guest module, with which arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Attack:
    """One way for a stage to misbehave.

    Attributes:
        module, function, arguments: what runs in the container (``tests/hostile/guest``); of
            texts, ``{canary}`` and the like are replaced by paths of the host.
        refused: True: it must be; False: it must not; None: both are right.
        codes: of refusals that are right besides 24 (stage-failed) and 27 (stage-output).
        timeout: seconds that the stage gets.
        disk: it may fill one: only where a small one can be mounted.
        count: how many times it tries.
    """

    module: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    refused: bool | None = None
    codes: frozenset[int] = frozenset()
    timeout: float = 20.0
    disk: bool = False
    count: int = 1


#: Files, folders and others of the host that a link can lead to.
TARGETS = {
    "canary": "{canary}",
    "canary-folder": "{folder}",
    "report": "{report}",
    "key": "{key}",
    "environment": "/proc/self/environ",
    "command-line": "/proc/self/cmdline",
    "root": "/proc/self/root{canary}",
    "own-folder": "/proc/self/cwd",
    "descriptor": "/proc/self/fd/0",
    "shadow": "/etc/shadow",
    "passwd": "/etc/passwd",
    "zero": "/dev/zero",
    "system": "/",
    "upwards": "../../../../../../../../../../../../../../../..{canary}",
    "request": "../../in/request.json",
    "code": "../../../stages/__main__.py",
    "dangling": "nowhere",
    "itself": "result.json",
    "loop": ".",
}
_REPORTS = (
    *("empty", "no-json", "cut", "list", "null", "number", "string", "deep-list", "deep-object"),
    *("deep-facts", "very-deep-facts", "nan", "infinite", "minus-infinite", "huge-float"),
    *("huge-seconds", "huge-integer", "many-digits", "million-digits", "words", "facts-list"),
    *("facts-null", "facts-nan", "facts-surrogate", "facts-surrogate-key", "latin-1"),
    *("utf-16", "nul", "more", "none", "without-facts", "without-seconds", "without-peak_rss"),
)
_MAYBE_REPORTS = (
    *("negative", "true", "facts-control", "facts-untrained", "facts-many", "facts-long"),
    *("twice", "bom", "extra", "without-status"),
)
_EVENTS = (
    *("finished-without-seconds", "extra-model", "extra-state", "extra-self", "extra-id"),
    *("extra-event", "stage-list", "stage-null", "stage-object", "stage-number"),
    *("stage-missing", "stage-unknown", "stage-path", "stage-absolute", "stage-empty"),
    *("event-null", "event-list", "event-object", "event-unknown", "event-missing"),
    *("kind-null", "kind-list", "kind-odd", "kind-missing", "message-object", "message-null"),
    *("message-missing", "message-long", "message-escapes", "message-bidi", "message-surrogate"),
    *("failed-escapes", "failed-markup", "failed-long", "progress-words", "progress-missing"),
    *("progress-zero", "progress-negative", "progress-nan", "progress-huge", "seconds-null"),
    *("seconds-words", "seconds-nan", "seconds-huge", "cached", "empty", "deep-list"),
    *("deep-only", "deep-object", "many-digits", "latin-1", "nul", "twice", "list", "bare"),
    *("carriage", "blank", "noise", "lines-of-noise"),
)
#: What a stage says of its own failure decides the class: these are kinds that it may name.
_SAID = frozenset({15})


def attacks() -> dict[str, Attack]:
    """Every attack by name, in a fixed order; seeds make more of each."""
    found = dict(_all())
    assert len(found) == len(list(_all())), "two attacks of one name"
    return found


def _all() -> Iterator[tuple[str, Attack]]:
    yield "honest", Attack("plain", "well_behaved", refused=False)
    yield from _links()
    yield from _races()
    yield from _sizes()
    yield from _reports()
    yield from _endings()


def _links() -> Iterator[tuple[str, Attack]]:
    for place in ("step", "files", "report", "file", "folder"):
        for name, target in TARGETS.items():
            arguments = {"place": place, "target": target}
            yield f"link-{place}-{name}", Attack("links", "link", arguments, refused=True)
    for name in ("canary", "canary-folder", "environment"):
        arguments = {"place": "deep", "target": TARGETS[name]}
        yield f"link-deep-{name}", Attack("links", "link", arguments, refused=True)
    for place in ("file", "report", "files"):
        arguments = {"place": place, "target": "{canary}"}
        yield f"chain-{place}", Attack("links", "chain", arguments, refused=True)
    for place in ("file", "report"):
        for name, source in (
            ("ours", "ours"), ("request", "/in/request.json"),
            ("code", "/kiln/stages/stages/__main__.py"), ("process", "/proc/self/environ"),
        ):  # fmt: skip
            arguments = {"place": place, "source": source}
            yield f"hard-link-{place}-{name}", Attack("links", "hard_link", arguments)
    for place in ("step", "files", "report", "file", "folder", "deep"):
        for kind in ("fifo", "socket", "device", "folder", "file"):
            if (kind, place) in {
                ("folder", "step"), ("folder", "files"), ("folder", "folder"), ("folder", "file"),
                ("folder", "deep"), ("file", "file"), ("file", "folder"), ("file", "deep"),
            }:  # fmt: skip
                continue
            arguments = {"place": place, "kind": kind}
            yield f"{kind}-as-{place}", Attack("links", "odd", arguments, refused=True, timeout=8)
    for place in ("step", "files", "report", "file", "folder"):
        for mode in (0, 0o111, 0o4755, 0o1777):
            rights = {"place": place, "mode": mode}
            yield f"mode-{mode:o}-{place}", Attack("links", "locked", rights)


def _races() -> Iterator[tuple[str, Attack]]:
    for name in ("canary-folder", "environment", "own-folder", "shadow", "system"):
        target = "{folder}" if name == "canary-folder" else TARGETS[name]
        for where in ("a0200x", "m", "z0200x"):
            yield (
                f"swap-folder-{where}-{name}",
                Attack("races", "swap_folder", {"target": target, "where": where}, count=1000),
            )
    for name in ("canary", "key", "environment", "upwards", "zero", "shadow"):
        yield (
            f"swap-files-{name}",
            Attack("races", "swap_files", {"target": TARGETS[name]}, count=1000),
        )
    for place, target in (("step", "{folder}"), ("files", "{folder}"), ("report", "{report}")):
        for kind in ("link", "fifo"):
            arguments = {"place": place, "target": target, "kind": kind}
            yield f"swap-{place}-{kind}", Attack("races", "swap_place", arguments, count=1000)
    yield "swap-fifos", Attack("races", "swap_fifo", count=1000)
    for how in ("grow", "shrink", "remove", "mode", "names", "report", "content"):
        yield (
            f"changing-{how}",
            Attack("races", "rewriting", {"how": how}, disk=how == "grow", count=1000),
        )
    for name in ("canary", "key", "environment"):
        yield f"linked-after-{name}", Attack("races", "linked_after", {"target": TARGETS[name]})


def _sizes() -> Iterator[tuple[str, Attack]]:
    for depth in (60, 1000, 6000, 20_000):
        for where in ("work/files", "work", "aside"):
            arguments = {"depth": depth, "where": where}
            yield f"deep-{depth}-{where.replace('/', '-')}", Attack("sizes", "deep", arguments)
    for kind in ("file", "folder", "link"):
        for where in ("work/files", "aside"):
            arguments = {"count": 1_000_000, "kind": kind, "where": where}
            yield (
                f"million-{kind}s-{where.replace('/', '-')}",
                Attack("sizes", "many", arguments, codes=frozenset({25, 26, 31}), disk=True),
            )
    arguments = {"count": 100_000, "spread": True}
    yield "names-spread", Attack("sizes", "many", arguments, codes=frozenset({25, 31}), disk=True)
    # Of a small disk in memory, every page counts for the container that wrote it: 26, too.
    full = frozenset({25, 26, 31})
    for what in ("file", "report", "outside"):
        yield (
            f"sparse-{what}",
            Attack("sizes", "big", {"size": 1 << 40, "what": what}, codes=full, disk=True),
        )
        yield (
            f"large-{what}",
            Attack("sizes", "big", {"size": 200 << 20, "what": what, "sparse": False},
                   codes=full, disk=True),
        )  # fmt: skip
    arguments = {"size": 1 << 30, "count": 500}
    yield "sparse-many", Attack("sizes", "big", arguments, codes=full, disk=True)
    for where in ("work/files/endless", "aside", "work/result.json"):
        for finished in (False, True):
            name = f"endless-{where.rpartition('/')[2]}{'-finished' if finished else ''}"
            arguments = {"where": where, "finished": finished}
            yield name, Attack("sizes", "endless", arguments, codes=full, timeout=10, disk=True)
    yield "endless-names", Attack("sizes", "endless_names", codes=full, timeout=10, disk=True)
    for kind in (
        *("latin-1", "control", "bidi", "invisible", "long", "dots", "backslash", "percent"),
        *("option", "unicode", "json", "result"),
    ):
        for place in ("file", "folder"):
            refused = True if kind == "latin-1" else None
            yield (
                f"names-{kind}-{place}",
                Attack("sizes", "names", {"kind": kind, "place": place}, refused=refused),
            )


def _reports() -> Iterator[tuple[str, Attack]]:
    for kind in _REPORTS:
        yield f"report-{kind}", Attack("reports", "odd_report", {"kind": kind}, refused=True)
    for kind in _MAYBE_REPORTS:
        yield f"report-{kind}", Attack("reports", "odd_report", {"kind": kind})
    for kind in _EVENTS:
        codes = _SAID if kind.startswith(("failed", "kind")) else frozenset[int]()
        yield f"event-{kind}", Attack("reports", "odd_events", {"kind": kind}, codes=codes)
    for kind in (
        *("line", "line-without-end", "object", "started", "finished", "stderr", "warnings"),
        *("bytes", "million"),
    ):
        yield (
            f"flood-{kind}",
            Attack("reports", "flood", {"kind": kind}, codes=frozenset({25}), timeout=30),
        )
    yield (
        "flood-endless",
        Attack("reports", "flood", {"kind": "endless"}, True, frozenset({25}), timeout=8),
    )
    for kind in ("failed-then-finished", "finished-then-failed", "early", "twice"):
        yield f"order-{kind}", Attack("reports", "orders", {"kind": kind}, codes=_SAID)
    for kind in ("silent", "nothing", "half-line"):
        yield f"order-{kind}", Attack("reports", "orders", {"kind": kind}, refused=True)
    yield "order-no-newline", Attack("reports", "orders", {"kind": "no-newline"})


def _endings() -> Iterator[tuple[str, Attack]]:
    for number in (1, 3, 137, 255):
        for work in (True, False):
            name = f"code-{number}{'' if work else '-without-work'}"
            arguments = {"number": number, "work": work}
            yield name, Attack("endings", "code", arguments, True, frozenset({26}))
    yield "code-0-without-work", Attack("endings", "code", {"number": 0, "work": False}, True)
    for number in (6, 9, 11):
        # The first process of a container only gets signals from itself that it handles.
        arguments = {"number": number, "work": True}
        yield (
            f"signal-{number}",
            Attack("endings", "killed", arguments, None, frozenset({25, 26}), timeout=6),
        )
    for how in ("sleep", "busy", "stubborn", "stopped", "closed"):
        for work in (True, False):
            name = f"never-{how}{'' if work else '-without-work'}"
            yield name, Attack(
                "endings", "never", {"how": how, "work": work}, None if work else True,
                frozenset({25}), timeout=5,
            )  # fmt: skip
    for how in ("daemon", "daemon-own-session", "daemon-swapping"):
        yield (
            f"never-{how}",
            Attack("endings", "never", {"how": how}, codes=frozenset({25}), timeout=6),
        )
    for what in ("memory", "processes", "scratch", "descriptors"):
        yield (
            f"hungry-{what}",
            Attack("endings", "hungry", {"what": what}, True, frozenset({25, 26}), timeout=10),
        )
    yield "reaching", Attack("reaching", "reach", {"token_name": "{token}"}, refused=False)
