"""Proves that ``.tflite`` bytes do not depend on the processor.

The same plan runs, from its source on, natively, on one core, and on emulated processors, in the
same sealed image, and every digest of an artefact is compared. ``--control`` shows that the
comparison can fail: an export without exact batch norms must differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from kiln.cli import run_command
from kiln.digest import key_of, tree_digest
from kiln.emulation import emulated, find_emulator, one_core
from kiln.engine import Engine, Limits
from kiln.errors import UsageError, VerificationError
from kiln.images.builder import Images, locked_image
from kiln.plan import Plan, make_plan
from kiln.project import Project
from kiln.recipe import VARIANTS, Recipe, discover, load
from kiln.run import Runner
from kiln.sources.model import acquire
from kiln.store import StageResult, Store
from kiln.ui import JsonReporter, TextReporter, table

CPUS = ("Haswell", "SandyBridge")
"""Emulated by default. Haswell: AVX2 and FMA, no AVX-512; SandyBridge: AVX only, the least that
TensorFlow's wheels start on."""

NATIVE, ONE_CORE = "native", "one core"
CONTROL_VARIANT = "float32"

_PROBE = """\
import json, os
from numpy.core._multiarray_umath import __cpu_features__ as known
print(json.dumps({"cores": len(os.sched_getaffinity(0)), "features": [k for k in known if known[k]]}))
"""
_TELLING = ("AVX", "FMA3", "AVX2", "AVX512F", "AVX512_SPR")
