"""Run the request in the input folder (``python -m stages [--only ID]...``)."""

from __future__ import annotations

import argparse
import sys

from stages.protocol.runner import main

parser = argparse.ArgumentParser(prog="stages", description=__doc__)
parser.add_argument(
    "--only", metavar="ID", action="append", help="run only this stage (these), in this process"
)
sys.exit(main(parser.parse_args().only))
