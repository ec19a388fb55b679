"""Stage: run the source model itself, before any export or conversion.

The checkpoint is restored into the Object Detection API's model, built from its own, unmodified
``pipeline.config``. Its own ``preprocess`` (the resizer included), ``predict`` and ``postprocess``
run on whole photographs. Nothing exported is involved, and nothing that runs artefacts: artefacts
are compared with this. (The Python object that the export built for the same configuration may be
reused: its variables are restored and compared with the checkpoint again.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from stages.detect import fast_nms
from stages.detect.enough import Enough
from stages.files import pixels
from stages.files.checkpoint_files import find_checkpoint
from stages.odapi import detection_model, pipeline, resizing, restoration
from stages.protocol.failures import StageError

ENVIRONMENT = "main"

PARAMS = {
    "max_detections": None,  # int; None: what the model's own post-processing keeps
    "image_size": None,  # [height, width] in pixels; None: the model's own (as in export)
    "crops": False,  # add images that are not square (stages.files.pixels.pictures)
    "enough": None,  # for a large input, leave images out: see stages.detect.enough.PARAM
    "as_tflite": True,  # False: only the list ``images`` (see write)
    # As in export: what is built, not what the model was configured with.
    "regular_nms": False,
    "nms_score_threshold": None,
    "nms_iou_threshold": None,
    "max_detections_per_class": None,
}

_TRACED_FROM = 12
"""Images from which on a traced function pays: eager post-processing runs thousands of operations
an image, but tracing them takes as long as a dozen eager images."""

RESULT_FILE = "detections.json"


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run the model folder ``inputs["checkpoint"]`` on ``inputs["images"]``.

    An image is decoded to RGB, and given to ``preprocess`` whole: float32, 0 to 255.

    Writes ``out/detections.json``, an object of the lists that :func:`write` describes.

    A TFLite graph has one input size, and a user may want another one than the model's, or other
    limits of suppression. Then ``as_built`` is the same model once more, by the configuration of
    the converted one (:func:`stages.odapi.resizing.as_built`), and ``as_tflite`` is made of its
    predictions.

    Returns:
        Facts: ``checkpoint``, ``weights_from`` (``averages`` or ``raw``), ``input`` (height and
        width in pixels, of the converted model), ``max_detections``, ``images`` (how many it was
        run on), ``variables`` (restored and compared), ``weights`` (numbers in them),
        ``untrained`` (texts: reasons to think that it was never trained).

    Raises:
        StageError: see :mod:`stages.steps.export`; or an image cannot be read.
    """
    folder = inputs["checkpoint"]
    prefix = find_checkpoint(folder)
    total = len(pixels.list_images(inputs["images"]))
    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    config = pipeline.read_pipeline(folder)
    built = resizing.as_built(config, params["image_size"])
    count = pipeline.set_max_detections(built.pipeline, params["max_detections"])
    chosen = pipeline.built_suppression(built.pipeline, params)
    if chosen is not None:
        pipeline.set_suppression(built.pipeline, chosen)
    training = restoration.open_training(prefix, pipeline.evaluates_averages(config))

    def restored(configuration: Any) -> tuple[Source, int]:
        model = detection_model.built(configuration, built.size)
        variables = restoration.restore(model, training)
        return Source(model, configuration, total), variables

    def found(source: Source, keep: Optional[Found], names: Optional[Collection[str]]) -> Found:
        own, enough = Found(), Enough(params["enough"], *built.size)
        pictures = enough.pictures(inputs["images"], params["crops"])
        if names is not None:
            every = pixels.pictures(inputs["images"], params["crops"])
            pictures = (item for item in every if item[0] in names)
        for number, (name, image) in enumerate(pictures):
            emit.progress(min(number, total), total, name)
            try:
                own.lists[name], answer = source.detect(image)
            except (ValueError, tf.errors.InvalidArgumentError) as error:
                raise detection_model.size_fault(error, built.size) or error from error
            own.note_end(name, own.lists[name], len(answer["detection_boxes"]))
            enough.note(own.lists[name])
            if keep is not None and source.suppression is not None:
                kept = source.as_tflite(answer, count, chosen)
                keep.note_end(name, kept, count)
                keep.lists[name] = kept if min(answer["covered"]) == 1 else inside(kept)
        return own

    limited = any(
        params[name] is not None for name in pipeline.SUPPRESSION if name != "regular_nms"
    )
    twice = (built.differs or limited) and params["as_tflite"]
    as_tflite = Found()
    source, variables = restored(built.pipeline if twice else config)
    images = as_built = found(source, as_tflite if params["as_tflite"] else None, None)
    if twice:
        try:
            images = found(restored(config)[0], None, as_built.lists)
        except StageError as error:
            if error.kind != "unsupported-model":
                raise
            # Without padding, a feature pyramid takes few sizes.
            emit.warning(
                "as configured, the model takes no pictures of these images' proportions: the files"
                " are compared with it as it was built"
            )
    write(
        out,
        images=images,
        as_built=None if images is as_built else as_built,
        as_tflite=as_tflite if as_tflite.lists else None,
        suppression=compared(source.suppression, chosen),
    )
    emit.progress(total, total, "done")
    return {
        "checkpoint": prefix.name,
        "weights_from": training.weights_from,
        "input": {"height": built.size[0], "width": built.size[1]},
        "max_detections": count,
        "images": len(images.lists),
        "variables": variables,
        "weights": weights(restoration.object_paths(source.model).values()),
        "untrained": detection_model.untrained(source.model),
    }


@dataclass(frozen=True)
class Found:
    """Detections in several images.

    Args:
        lists: by image; see :func:`write`.
        ends: by image, where the list was full: the least score in it. Then a detection with a
            lower score is missing for want of room.
    """

    lists: dict[str, Any] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)

    def note_end(self, name: str, items: Sequence[Mapping[str, Any]], capacity: int) -> None:
        """Set ``ends`` of an image.

        Args:
            name: of the image.
            items: all its detections, those in a letterbox's filling, too.
            capacity: how many there can be.
        """
        if items and len(items) >= capacity:
            self.ends[name] = min(item["score"] for item in items)


class Source:
    """A restored model that detects objects in photographs, by its authors' code alone.

    Args:
        model: from :func:`stages.odapi.detection_model.built`, restored.
        configuration: what it was built from.
        images: how many it is to see, about.

    Attributes:
        model: the same.
        suppression: as :func:`write` takes it.
    """

    def __init__(self, model: Any, configuration: Any, images: int) -> None:
        import tensorflow as tf

        self.model = model
        self.suppression = None
        if configuration.model.WhichOneof("model") == "ssd":
            own = configuration.model.ssd.post_processing.batch_non_max_suppression
            self.suppression = {
                "iou": own.iou_threshold,
                "sigma": own.soft_nms_sigma,
                "across_classes": own.use_class_agnostic_nms,
                "score": own.score_threshold,
            }
        self._input = (1, *(_one_size(configuration) or (None, None)), 3)
        self._answer = self._all_of_it
        if images >= _TRACED_FROM:
            # One image at a time, of any size, as in the graph that the API's exporter writes.
            self._answer = tf.function(
                self._all_of_it,
                input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)],
                autograph=False,  # the API's code is TensorFlow 1's: it needs no conversion
            )

    def detect(self, image: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Detect objects with the model's own post-processing.

        Args:
            image: uint8 array [h, w, 3], RGB.

        Returns:
            The detections, and the model's answer (for :meth:`as_tflite`).
        """
        import tensorflow as tf

        found = self._answer(tf.constant(image[None]))
        answer = {name: value.numpy()[0] for name, value in found.items()}
        detections = [
            _detection(box, score, round(float(label)))
            for box, score, label in zip(
                answer["detection_boxes"][: int(answer["num_detections"])],
                answer["detection_scores"],
                answer["detection_classes"],
            )
        ]
        return sorted(detections, key=lambda item: -item["score"]), answer

    def as_tflite(
        self, answer: Mapping[str, Any], count: int, suppression: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Put an SSD's predictions through the rule of TFLite's operator.

        Boxes may lie in a letterbox's filling.

        Args:
            answer: from :meth:`detect`.
            count: how many detections to keep.
            suppression: the operator's options, as the export reports them.
        """
        import numpy as np

        boxes = answer["raw_detection_boxes"] / np.tile(answer["covered"], 2).astype(np.float32)
        # A background class, where there is one, comes first.
        scores = answer["raw_detection_scores"][:, -self.model.num_classes :]
        kept = fast_nms.keep(boxes, scores, suppression, count)
        return [_detection(boxes[row], scores[row, label], label) for row, label in kept]

    def _all_of_it(self, image: Any) -> dict[str, Any]:
        """Run all of the model on one image: ``preprocess``, ``predict`` and ``postprocess``."""
        import tensorflow as tf

        tensor, shapes = self.model.preprocess(tf.cast(image, tf.float32))
        tensor = tf.ensure_shape(tensor, self._input)  # which the resizer's graph does not tell
        found = self.model.postprocess(self.model.predict(tensor, shapes), shapes)
        wanted = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")
        raw = ("raw_detection_boxes", "raw_detection_scores")
        answer = {name: found[name] for name in (*wanted, *raw) if name in found}
        # What part of the input the photograph covers.
        answer["covered"] = shapes[:, :2] / tf.shape(tensor)[1:3]
        return answer


def write(
    out: Path,
    images: Found,
    as_built: Optional[Found] = None,
    as_tflite: Optional[Found] = None,
    suppression: Any = None,
) -> None:
    """Write ``detections.json`` of a source model.

    Lists are ``{image: [{"box", "score", "class_id"}]}``, best score first. ``box`` is [ymin, xmin,
    ymax, xmax] as fractions of the image, ``class_id`` the label map's id (from 1). ``ends`` holds
    those of :class:`Found`, by the name of the lists.

    Args:
        out: the folder.
        images: what the model's own post-processing says (boxes clipped to the image).
        as_built: the same of the model as it was converted, where that differs; else None.
        as_tflite: where TFLite's detection operator replaces the post-processing: the same
            predictions through its rule (:mod:`stages.detect.fast_nms`; boxes not clipped), else
            None. That operator keeps one class a box and suppresses across classes, so only this
            list has the same boxes as an artefact.
        suppression: from :func:`compared`, where the own post-processing suppresses overlapping
            boxes; else None.

    Raises:
        StageError: a number in them is NaN or infinite.
    """
    written = {"images": images, "as_built": as_built, "as_tflite": as_tflite}
    result = {
        **{name: None if found is None else found.lists for name, found in written.items()},
        "ends": {name: found.ends for name, found in written.items() if found is not None},
        "suppression": suppression,
    }
    try:
        text = json.dumps(result, indent=1, sort_keys=True, allow_nan=False)
    except ValueError as error:  # weights may be finite, and what is computed with them may not
        raise StageError(
            "unsupported-model",
            "The model itself finds boxes or scores that are NaN or infinite.",
            "Its training diverged: take an earlier checkpoint of it.",
        ) from error
    (out / RESULT_FILE).write_text(text + "\n", encoding="utf-8")


def compared(own: Any, chosen: Any) -> Any:
    """Describe what of the model's own suppression a comparison has to know.

    Args:
        own: ``iou``, the largest overlap that it keeps; ``sigma``, by which it lowers scores of
            boxes that overlap a better one (exp(-IoU² / 2 sigma); 0: it lowers none);
            ``across_classes``, whether a box of one class suppresses those of others; ``score``,
            below which it leaves boxes out. None: it has none.
        chosen: the options of the operator in the artefact; None: it has none.

    Returns:
        ``own``; where the operator keeps less overlap, with that ``iou``: what the operator leaves
        out by a user's wish is not missed.
    """
    if own is None or chosen is None:
        return own
    return {**own, "iou": min(own["iou"], chosen["iou_threshold"])}


def inside(found: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Leave out boxes that lie wholly in the filling of a letterboxed photograph.

    (The own post-processing does so; an application would do so, too.)
    """
    return [item for item in found if item["box"][0] < 1 and item["box"][1] < 1]


def weights(variables: Iterable[Any]) -> int:
    """Count the numbers that variables hold."""
    return sum(math.prod(variable.shape.as_list()) for variable in variables)


def _one_size(configuration: Any) -> Any:
    """Return (height, width) of what the resizer makes of any image; None if that varies."""
    resizer = pipeline.image_resizer(configuration)
    kind = resizer.WhichOneof("image_resizer_oneof")
    if kind == "fixed_shape_resizer":
        return resizer.fixed_shape_resizer.height, resizer.fixed_shape_resizer.width
    kept = resizer.keep_aspect_ratio_resizer
    if kind == "keep_aspect_ratio_resizer" and kept.pad_to_max_dimension:
        return kept.max_dimension, kept.max_dimension
    return None


def _detection(box: Any, score: Any, label: int) -> dict[str, Any]:
    # The model counts classes from 0, label maps from 1.
    return {"box": [float(side) for side in box], "score": float(score), "class_id": label + 1}
