"""``python -m stages``: do what ``case.json`` says."""

import importlib
import json
import sys
from pathlib import Path

about = json.loads((Path(__file__).parent / "case.json").read_text("utf-8"))
module = importlib.import_module(f"stages.{about['module']}")
sys.exit(getattr(module, about["function"])(**about["arguments"]))
