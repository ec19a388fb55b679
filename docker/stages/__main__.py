"""Run the request in the input folder (``python -m stages [--only ID]...``)."""

from __future__ import annotations

import argparse
import sys

from stages.protocol.runner import main, serve

parser = argparse.ArgumentParser(prog="stages", description=__doc__)
parser.add_argument(
    "--only", metavar="ID", action="append", help="run only this stage (these), in this process"
)
parser.add_argument(
    "--serve", action="store_true", help="run the stages whose ids come on standard input"
)
arguments = parser.parse_args()
sys.exit(serve() if arguments.serve else main(arguments.only))
