"""The hand-written way, export: the package's own command, with its peak memory printed."""

import resource
import runpy
import sys

sys.argv[0] = "export_tflite_graph_tf2.py"
try:
    runpy.run_module("object_detection.export_tflite_graph_tf2", run_name="__main__")
except SystemExit as end:
    if end.code:
        raise
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
