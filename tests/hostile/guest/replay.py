"""Stages that give again what the real ones gave: quickly, so that whole builds can be disturbed.

What they gave lies beside this module, in ``recorded/<id>``; large contents that no later reader
needs are stand-ins.
"""

import json
import shutil
import time
from pathlib import Path

from stages.plain import OUT, say

RECORDED = Path(__file__).parent / "recorded"


def replay(pause: float) -> int:
    """All stages of the request, each ``pause`` seconds long."""
    request = json.loads(Path("/in/request.json").read_text("utf-8"))
    for stage in request["stages"]:
        step = stage["id"]
        say("started", step)
        shutil.copytree(RECORDED / step / "files", OUT / step / "files")
        time.sleep(pause)
        part = OUT / step / "part"
        shutil.copyfile(RECORDED / step / "result.json", part)
        part.rename(OUT / step / "result.json")
        say("finished", step, seconds=pause, peak_rss=1)
    return 0
