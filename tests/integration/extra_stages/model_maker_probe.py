"""A stage of the tests: Model Maker's import in a stage container, and a stand-in that is used."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from stages.lite import model_maker
from stages.protocol.failures import StageError

ENVIRONMENT = "main"

PARAMS = {
    "use_stand_in": False,  # end as an export would that turns out to need an absent package
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Report what was imported and under which conditions."""
    mm = model_maker.load()
    if params["use_stand_in"]:
        mm.train_lib.AverageModelCheckpoint("path")
    refused = {}
    for package in model_maker.stand_ins_in_use():
        try:
            sys.modules[package].anything()
        except StageError as error:
            refused[package] = error.message
    return {
        "uid": os.getuid(),
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "root_writable": os.access("/", os.W_OK) or os.access(sys.prefix, os.W_OK),
        "prefix": sys.prefix,
        "tensorflow": mm.tf.__version__,
        "image_size": list(mm.model_spec.get("efficientdet_lite0").config.image_size),
        "stand_ins": model_maker.stand_ins_in_use(),
        "refused": refused,
    }
