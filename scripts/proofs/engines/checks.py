"""What is looked at on each engine, with kiln as a command and the engine asked directly."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

from proofs.engines.machine import Engine
from proofs.variations.varied_run import interpreter_for_others

SAMPLES = ("ssd_mobilenet_v2_oidv4", "efficientdet_lite0_shapes")
"""One of each image that converts; both are checked in the third."""
STOPPED_VARIANT = "float32"
MAX_STOP = 2.0
"""Seconds that Ctrl-C may take."""

_SETTLED = 15.0  # seconds an engine may take to delete a container that was stopped
_ROW = re.compile(r"^(\w+) +(float32|float16|dynamic|int8) +[\d,]+ +([0-9a-f]{16})\b", re.M)


class WrongError(Exception):
    """A check found something wrong; its words go into the table."""


@dataclass
class Bench:
    """An engine that answers, and a kiln with a checkout, a store and a home of its own.

    Args:
        until: when all checks must be done, on the monotonic clock.
        archives: files of images to load; empty where the images are built.
    """

    engine: Engine
    address: str
    folder: Path
    checkout: Path
    readme: str
    until: float
    archives: Sequence[Path] = ()
    client: Any = field(init=False)

    def __post_init__(self) -> None:
        self.client = docker.DockerClient(base_url=self.address, timeout=120)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start kiln with ``--json``."""
        home = self.folder / "home"
        paths, python = [str(self.checkout / "scripts")], sys.executable
        # A shell starts what runs in its background deaf to Ctrl-C, which is inherited.
        prefix = ["env", "--default-signal=INT"]
        if self.engine.user is not None:
            python, user = interpreter_for_others(), self.engine.user
            paths.append(sysconfig.get_path("purelib"))
            prefix += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("KILN_")},
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "KILN_STORE": str(home / "store"),
            "KILN_PROJECT": str(self.checkout),
            "PYTHONPATH": os.pathsep.join(paths),
            "DOCKER_HOST": self.address,
        }
        return subprocess.Popen(
            [*prefix, python, "-B", "-m", "kiln.cli", *arguments, "--json"],
            env=environment, cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip

    def kiln(self, *arguments: str) -> list[dict[str, Any]]:
        """Run kiln to its end; return its events.

        Raises:
            WrongError: it failed, or the time is up.
        """
        with self.start(*arguments) as process:
            try:
                out, _ = process.communicate(timeout=max(1.0, self.until - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise WrongError("not done in time") from None
            finally:
                process.kill()
        events = _events(out)
        if process.returncode:
            said = [event["message"] for event in events if event.get("event") == "error"]
            last = said or out.strip().splitlines()[-1:] or ["no word"]
            raise WrongError(f"failed: {' '.join(str(last[-1]).split())[:200]}")
        return events

    def containers(self) -> int:
        """Count the containers that the engine has."""
        return len(self.client.containers.list(all=True, ignore_removed=True))


def _events(out: str) -> list[dict[str, Any]]:
    events = []
    for line in out.splitlines():
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return [event for event in events if isinstance(event, dict)]


def doctor(bench: Bench) -> str:
    """``kiln doctor`` has no objection."""
    bench.kiln("doctor")
    return "no objection"


def images(bench: Bench) -> str:
    """All images are built (or loaded), and are the locked ones."""
    start = time.monotonic()
    if bench.archives:
        bench.kiln("images", "load", *map(str, bench.archives))
    else:
        bench.kiln("images", "build")
    spent = time.monotonic() - start
    found = [event for event in bench.kiln("images", "list") if event.get("event") == "image"]
    missing = [event["image"] for event in found if event["state"] != "present"]
    if missing or not found:
        raise WrongError(f"not there: {', '.join(missing) or 'any'}")
    return f"{len(found)} {'loaded' if bench.archives else 'built'} ({_minutes(spent)})"


def wanted_digests(readme: str) -> dict[tuple[str, str], str]:
    """Read from the README what its samples' digests begin with, by model and variant."""
    return {(model, variant): digest for model, variant, digest in _ROW.findall(readme)}


def samples(bench: Bench) -> str:
    """Samples of both converting images have the README's digests."""
    start = time.monotonic()
    bench.kiln("build", *SAMPLES, "--dist", str(bench.folder / "home" / "dist"))
    wanted, same, other = wanted_digests(bench.readme), 0, []
    for model in SAMPLES:
        path = bench.folder / "home" / "dist" / model / "conversion.json"
        made: Mapping[str, Any] = json.loads(path.read_text("utf-8"))["artefacts"]
        for variant, artefact in made.items():
            if wanted.get((model, variant), "none") == artefact["sha256"][:16]:
                same += 1
            else:
                other.append(f"{model} {variant}")
    if other or not same:
        raise WrongError(f"other bytes: {', '.join(other) or 'none made'}")
    return f"{same} of {same} ({_minutes(time.monotonic() - start)})"


def verify(bench: Bench) -> str:
    """The smallest image is built once more, and compared with the lock."""
    events = bench.kiln("images", "verify", "base")
    if not any(event.get("event") == "verified" for event in events):
        raise WrongError("nothing verified")
    return "same"


def stop(bench: Bench) -> str:
    """Ctrl-C while a stage runs: it ends soon, and so does its container."""
    store = bench.folder / "home" / "store"
    for path in (store / "results").glob("*.json"):
        path.unlink()  # so that something has to run
    arguments = ["build", SAMPLES[0], "--variant", STOPPED_VARIANT]
    dist = ["--dist", str(bench.folder / "home" / "stopped")]
    with bench.start(*arguments, *dist) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                event = next(iter(_events(line)), {})
                if (event.get("id"), event.get("state")) == ("export", "started"):
                    break
            else:
                raise WrongError("no stage began")
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            start = time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=60)
            spent = time.monotonic() - start
        finally:
            process.kill()
    end = time.monotonic() + _SETTLED
    while bench.containers() and time.monotonic() < end:
        time.sleep(0.2)
    if bench.containers():
        raise WrongError(f"{bench.containers()} containers left")
    if process.returncode != 130 or spent > MAX_STOP:
        raise WrongError(f"exit code {process.returncode} after {spent:.1f} s")
    return f"{spent:.1f} s"


def clean(bench: Bench) -> str:
    """``kiln clean --images`` leaves no image and no container."""
    bench.kiln("clean", "--images")
    left = len(bench.client.api.images(all=True))
    if left or bench.containers():
        raise WrongError(f"{left} images and {bench.containers()} containers left")
    return f"{_usage(bench.folder / 'data') / 1e6:,.0f} MB"


def _usage(folder: Path) -> int:
    """Return the bytes of all files below a folder, each counted once."""
    seen: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = Path(place, name).lstat()
                seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


CHECKS: dict[str, Callable[[Bench], str]] = {
    "`doctor`": doctor,
    "images as locked": images,
    "samples' digests": samples,
    "`images verify base`": verify,
    "Ctrl-C": stop,
    "left after `clean --images`": clean,
}
"""By heading, in the order in which they are made."""


def run(bench: Bench, report: Callable[[str, str], None]) -> Iterator[tuple[str, str, bool]]:
    """Make all checks; yield heading, words, and whether all was well.

    One that fails does not stop the others.
    """
    for name, check in CHECKS.items():
        try:
            words, well = check(bench), True
        except (WrongError, OSError, docker.errors.DockerException) as error:
            words, well = f"**{error}**", False
        report(name, words)
        yield name, words, well
