"""A container that a test plays, and who stands where the engine would.

`Doorman` is no engine: it writes down what it is asked to run, and plays the container's part as
the test tells it. That real containers behave so is for the integration tests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kiln.core.errors import KilnError
from kiln.running.engine import Outcome

OK = Outcome(0, False, False, "")


@dataclass
class Container:
    """What one container sees and may do."""

    inputs: Path
    outputs: Path
    say: Callable[[bytes], None]

    @property
    def request(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.inputs / "request.json").read_bytes())
        return found

    def event(self, event: str, stage: str, **fields: Any) -> None:
        self.say(json.dumps({"event": event, "stage": stage, **fields}).encode() + b"\n")

    def finish(self, stage: str, files: Mapping[str, bytes], **facts: Any) -> None:
        for name, data in files.items():
            path = self.outputs / stage / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        report = {"status": "ok", "facts": facts, "seconds": 1.5, "peak_rss": 1 << 20}
        (self.outputs / stage / "result.json").write_text(json.dumps(report))
        self.event("finished", stage, seconds=1.5, peak_rss=1 << 20)

    def finish_all(self) -> None:
        """Every stage asked for, with plausible files."""
        for stage in self.request["stages"]:
            facts = FACTS if stage["stage"] == "export" else {}
            self.finish(stage["id"], *MADE[stage["stage"]], **facts)


FACTS = {
    "architecture": "ssd",
    "num_classes": 23,
    "normalization": {"mean": [127.5], "std": [127.5]},
    "feeding": {"fit": "stretch"},
}
MADE: dict[str, Any] = {
    "convert": [{"model.tflite": b"a model"}],
    "annotate": [{"model.tflite": b"a model with metadata", "labelmap.txt": b"cat\n"}],
    "export": [{"saved_model/saved_model.pb": b"pb", "saved_model/variables/v.index": b"v"}],
}


@dataclass
class Doorman:
    """Stands where the engine would."""

    play: Callable[[Container], Outcome]
    rootless: bool = False
    copies_files: bool = False
    limits_missing: tuple[str, ...] = ()
    calls: list[dict[str, Any]] = field(default_factory=list)

    def run(self, image: str, command: Any, **how: Any) -> Outcome:
        places = {place: path for path, (place, _) in how["mounts"].items()}
        call = {"image": image, "command": command, **how, "request": {}, "tree": {}}
        uid, gid = map(int, how["user"].split(":"))

        def say(chunk: bytes) -> None:
            if os.getuid() == 0:  # what a stage writes belongs to the stage's user
                for folder, folders, files in os.walk(places["/out"]):
                    for name in (*folders, *files):
                        os.chown(Path(folder, name), uid, gid, follow_symlinks=False)
            how["on_stdout"](chunk)

        inside = Container(places["/in"], places["/out"], say)
        call["request"] = inside.request
        call["tree"] = {
            path.relative_to(inside.inputs).as_posix(): path.read_bytes()
            for path in inside.inputs.rglob("*")
            if path.is_file()
        }
        call["folder modes"] = {
            Path(folder).stat().st_mode & 0o777
            for place in places.values()
            for folder, _, _ in os.walk(place)
        }
        code = places["/kiln/stages"]
        call["code"] = {
            path.relative_to(code).as_posix(): path.read_bytes()
            for path in code.rglob("*")
            if path.is_file()
        }
        self.calls.append(call)
        try:
            return self.play(inside)
        except KilnError as error:  # what the driver makes of a chunk: the real engine stops then
            return Outcome(137, False, False, "the log", error)

    def stop_all(self) -> None:
        """Nothing runs aside."""
