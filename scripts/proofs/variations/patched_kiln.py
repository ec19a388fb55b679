"""Run kiln's command line with a varied environment for stages.

``proofs/reproducibility.py`` starts it. The environment variable ``VARIATION`` defines the
differences for stages, as JSON::

    {"launcher": "a new folder", "cpu": "Haswell", "one_core": true,
     "clock": "@2041-02-03 04:05:06", "reversed": true, "shell": ["export TZ=..."],
     "container": {"hostname": "..."}}

Checks are left out: they do not change what is published.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from kiln.building import build
from kiln.cli import main as cli
from kiln.core.store import Store
from kiln.recipes.plan import make_plan
from kiln.running.engine import Engine
from proofs.variations.emulation import (
    ONE_CORE,
    PLACE,
    LaunchedEngine,
    emulated,
    find_emulator,
    open_folder,
    write_script,
)

_HERE = Path(__file__).resolve().parent


def engine_for(engine: Engine, wanted: dict[str, Any]) -> Engine:
    """Return ``engine`` with the differences in ``wanted`` (see the module's docstring)."""
    if wanted.get("container"):
        create = engine.client.containers.create

        def varied(*arguments: Any, **settings: Any) -> Any:
            return create(*arguments, **{**settings, **wanted["container"]})

        # Each access to `containers` makes a new object, so its class is patched.
        type(engine.client.containers).create = staticmethod(varied)  # type: ignore[method-assign]
    folder = Path(wanted["launcher"])
    if "cpu" in wanted:
        emulator = find_emulator(Store(Path(wanted["tools"])))
        return emulated(engine, emulator, wanted["cpu"], folder)
    open_folder(folder)
    lines = list(wanted.get("shell", ()))
    if "clock" in wanted:
        for release, library in wanted["faketime"].items():
            shutil.copyfile(library, folder / f"libfaketime-{release}.so.1")
        lines.append(f'export FAKETIME="{wanted["clock"]}" FAKETIME_DONT_FAKE_MONOTONIC=1')
        lines.append("read -r release < /etc/debian_version")
        lines.append(f"export LD_PRELOAD={PLACE}/libfaketime-${{release%%.*}}.so.1")
    if wanted.get("reversed"):
        shutil.copyfile(_HERE / "site" / "sitecustomize.py", folder / "sitecustomize.py")
        lines.append(f"export PYTHONPATH={PLACE}")
    for path in folder.iterdir():
        path.chmod(0o644)
    start = 'exec "$(command -v python)" "$@"'
    if wanted.get("one_core"):
        start = f'exec python -c \'{ONE_CORE}\' "$(command -v python)" "$@"'
    write_script(folder / "python", "\n".join([*lines, start]))
    return LaunchedEngine(engine, folder, 2)


def main() -> None:
    """Run kiln's command line with the engine and the plans that ``VARIATION`` defines."""
    wanted = json.loads(os.environ.get("VARIATION", "{}"))
    find = Engine.find
    if wanted.get("launcher"):
        Engine.find = lambda: engine_for(find(), wanted)  # type: ignore[method-assign]
    build.make_plan = partial(make_plan, checks=False)  # type: ignore[attr-defined]
    cli.main()


if __name__ == "__main__":
    main()
