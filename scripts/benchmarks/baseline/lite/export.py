"""The hand-written way, EfficientDet-Lite0 int8: what Model Maker itself offers for it.

Run inside the modelmaker image by benchmarks/lite.py. Only the import is kiln's (packages
that detection does not touch are not installed there). Prints its peak memory in bytes.
"""

import csv
import pathlib
import resource
import sys
import tempfile

sys.path.insert(0, "/kiln")

from stages.lite import model_maker

mm = model_maker.load()
work = pathlib.Path(tempfile.mkdtemp())
images = sorted(pathlib.Path("/in/images").glob("*.jpg"))
names = {1: "circle", 2: "square", 3: "nothing", 4: "triangle", 5: "star"}
with (work / "boxes.csv").open("w", newline="") as stream:
    rows = csv.writer(stream)
    for image in images:
        rows.writerow(["TRAIN", image.name, names[1], 0.1, 0.1, "", "", 0.9, 0.9, "", ""])
data = mm.object_detector_dataloader.DataLoader.from_csv(
    str(work / "boxes.csv"), "/in/images", cache_dir=str(work)
)[0]

spec = mm.model_spec.get("efficientdet_lite0")
spec.config.num_classes = len(names)
network = mm.efficientdet_keras.EfficientDetNet(config=spec.config)
network.build((1, *spec.config.image_size, 3))
mm.util_keras.restore_ckpt(network, "/in/model/checkpoint/ckpt-0", ema_decay=0, skip_mismatch=False)
detector = mm.object_detector.ObjectDetector(spec, names, data)
detector.model = network
detector.export("/out", "model.tflite")
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
