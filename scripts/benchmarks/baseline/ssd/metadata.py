"""The hand-written way, metadata: ``metadata.py MODEL LABELS OUT``, one process per variant."""

import pathlib
import resource
import sys

from tflite_support.metadata_writers import object_detector, writer_utils

model, labels, out = sys.argv[1:]
writer = object_detector.MetadataWriter.create_for_inference(
    writer_utils.load_file(model), [127.5], [127.5], [labels]
)
pathlib.Path(out).write_bytes(writer.populate())
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
