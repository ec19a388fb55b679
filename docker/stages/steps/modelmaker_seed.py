"""Stage: build the original recipe's EfficientDet, as Model Maker makes it without training.

In 2021 this was ``object_detector.create(..., do_train=False)`` on a hub module of feature vectors,
and ``export``. Such a module ends before the two layers that predict, so Model Maker adds new ones
with random weights: the result detects nothing. It is built here to reproduce the record, with a
seed so that it is deterministic, and reports that it is untrained.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path
from typing import Any

from stages.files import labelmap, pixels
from stages.lite import efficientdet_lite, model_maker
from stages.odapi import detection_model
from stages.odapi.lean_save import lean_save
from stages.protocol.failures import StageError
from stages.protocol.request import REQUIRED
from stages.steps import convert
from stages.tflite import packed_files, tflite_meta, tflite_model

ENVIRONMENT = "main"

PARAMS = {
    "spec": REQUIRED,  # "efficientdet_lite0" to "efficientdet_lite4"
    "seed": REQUIRED,  # int; of the new layers' weights
    "image_size": None,  # [height, width] in pixels; None: the spec's own, which modules are for
}

MODEL_FILE, LABEL_FILE = "model.tflite", "labelmap.txt"

_MOST_SEED = 2**32 - 1  # numpy's maximum


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Make ``out/model.tflite`` (int8, with Model Maker's metadata) and ``out/labelmap.txt``.

    Inputs: ``hub_module`` (a folder with ``saved_model.pb``), ``images`` (for the int8
    calibration), ``label_map`` (``.pbtxt``).

    Model Maker requires training data even so. It gets the images with one made-up box each (the
    whole image, labels in turn); only the calibration reads the images, and nothing reads the box.

    Returns:
        Facts: ``architecture`` (``efficientdet``), ``spec``, ``num_classes`` (Model Maker's own
        rule: the highest id, and at least 2), ``input`` (height and width in pixels),
        ``max_detections``, ``normalization`` (mean and std as declared in the metadata),
        ``hub_module`` (SHA-256 of its ``saved_model.pb``), ``seed``, ``calibration_images``
        (names), ``untrained`` (texts: never empty), and those of
        :func:`stages.steps.convert.describe`.

    Raises:
        StageError: the hub module does not give feature vectors, or not the spec's; kinds
            ``label-map``, ``image-set``; or the result is not as expected.
    """
    seed, folder = params["seed"], inputs["hub_module"]
    if type(seed) is not int or not 0 <= seed <= _MOST_SEED:
        raise StageError("stage-failed", f"The seed is {seed!r}; expected 0 to {_MOST_SEED}.")
    graph = folder / "saved_model.pb"
    if not graph.is_file():
        raise _unfit(f"it has no {graph.name}")
    files = pixels.list_images(inputs["images"])
    labels = {item.id: item.label for item in labelmap.load(inputs["label_map"]).items}

    emit.progress(0, 3, "importing Model Maker")
    mm = model_maker.load()
    efficientdet_lite.model_spec(params["spec"], 1, params["image_size"])  # check the values early
    detection_model.fresh_names()
    mm.tf.keras.utils.set_random_seed(seed)
    spec = mm.model_spec.get(params["spec"])
    if params["image_size"] is not None:
        spec.config.image_size = tuple(params["image_size"])
    spec.uri = str(folder)
    with tempfile.TemporaryDirectory() as scratch:
        emit.progress(1, 3, "creating the detector")
        data = _training_data(mm, files, labels, Path(scratch))
        detector = _create(mm, data, spec)
        emit.progress(2, 3, "exporting")
        # Only the intermediate SavedModel differs: the converter makes the same file of it.
        with lean_save(mm.tf.saved_model):
            detector.export(export_dir=scratch, tflite_filename=MODEL_FILE)
        model = packed_files.canonical((Path(scratch) / MODEL_FILE).read_bytes())
    metadata = tflite_meta.read(tflite_model.read(model))
    held = tflite_model.packed_files(model)
    if metadata is None or list(held) != [LABEL_FILE]:
        raise StageError(
            "stage-failed", f"Model Maker packed {sorted(held)} into its file.", "This is a bug."
        )
    (out / MODEL_FILE).write_bytes(model)
    (out / LABEL_FILE).write_bytes(held[LABEL_FILE])
    net = detector.model
    scores = efficientdet_lite.probe_scores(net, spec)
    height, width = spec.config.image_size
    image = metadata.inputs[0]
    emit.progress(3, 3, "exported")
    return {
        "architecture": "efficientdet",
        "spec": params["spec"],
        "num_classes": spec.config.num_classes,
        "input": {"height": height, "width": width},
        "max_detections": spec.config.tflite_max_detections,
        "normalization": {"mean": list(image.mean), "std": list(image.std)},
        "hub_module": hashlib.sha256(graph.read_bytes()).hexdigest(),
        "seed": seed,
        "calibration_images": [path.name for path in files],
        "untrained": efficientdet_lite.untrained(net.classes, net.boxes, scores),
        **convert.describe(mm.tf, model),
    }


def _training_data(mm: Any, files: list[Path], labels: dict[int, str], scratch: Path) -> Any:
    """Make a data set of Model Maker's, with its cache in ``scratch``."""
    from PIL import Image

    train = mm.tf.train
    ids = sorted(labels)
    path = scratch / "images.tfrecord"
    with mm.tf.io.TFRecordWriter(str(path)) as writer:
        for number, file in enumerate(files):
            image = pixels.load_rgb(file)
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "PNG")  # whatever the file was: the same pixels
            label = ids[number % len(ids)]
            features: dict[str, list[Any]] = {
                "image/encoded": [stream.getvalue()],
                "image/format": [b"png"],
                "image/source_id": [str(number).encode()],
                "image/height": [image.shape[0]],
                "image/width": [image.shape[1]],
                "image/object/class/label": [label],
                "image/object/class/text": [labels[label].encode()],
            }
            for side, value in (("ymin", 0.0), ("xmin", 0.0), ("ymax", 1.0), ("xmax", 1.0)):
                features[f"image/object/bbox/{side}"] = [value]
            example = train.Example(
                features=train.Features(
                    feature={name: _feature(train, values) for name, values in features.items()}
                )
            )
            writer.write(example.SerializeToString(deterministic=True))
    loader = mm.object_detector_dataloader.DataLoader
    return loader(str(path), len(files), labels)


def _feature(train: Any, values: list[Any]) -> Any:
    kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(values[0])]
    lists = {"bytes_list": train.BytesList, "int64_list": train.Int64List}
    return train.Feature(**{kind: lists.get(kind, train.FloatList)(value=values)})


def _create(mm: Any, data: Any, spec: Any) -> Any:
    """Run ``object_detector.create`` without training, and check the module's output.

    Raises:
        StageError: the hub module cannot be loaded or called, or answers with something else
            than two lists of feature maps, as wide as the spec's.
    """
    try:
        detector = mm.object_detector.create(data, model_spec=spec, batch_size=1, do_train=False)
        module = detector.model.base_model
        found = module(mm.tf.zeros([1, *spec.config.image_size, 3]), training=False)
    except StageError:
        raise
    except Exception as error:  # TF-Hub and TensorFlow raise many kinds, all meaning the same
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0].rstrip(".:") if lines else type(error).__name__
        raise _unfit(f"it cannot be loaded and called with an image: {reason}") from error
    levels = spec.config.max_level - spec.config.min_level + 1
    lists = [list(part) for part in found] if isinstance(found, (list, tuple)) else []
    if [len(part) for part in lists] != [levels, levels] or any(
        len(tensor.shape) != 4 for part in lists for tensor in part
    ):
        raise _unfit(f"it does not answer with two lists of {levels} feature maps")
    widths = {int(tensor.shape[-1]) for part in lists for tensor in part}
    wanted = spec.config.fpn_num_filters
    if widths != {wanted}:
        known = {efficientdet_lite.width(name): name for name in efficientdet_lite.SPECS}
        shown = " and ".join(str(width) for width in sorted(widths))
        if 4 * efficientdet_lite.anchors_per_place(spec.config) in widths:  # a box each
            raise _unfit(f"it has prediction heads already ({shown} wide, not {wanted})")
        whose = "".join(f", as those of {known[width]}" for width in widths if width in known)
        raise _unfit(f"its feature maps are {shown} wide{whose}, and not {wanted}")
    return detector


def _unfit(reason: str) -> StageError:
    return StageError(
        "checkpoint",
        f"This is not a hub module that Model Maker can build on: {reason}.",
        "Give the spec's own feature-vector module (such as .../efficientdet/lite0/feature-vector),"
        " unpacked, with saved_model.pb at its root.",
    )
