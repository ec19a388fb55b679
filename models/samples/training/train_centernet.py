"""Trains the weights of the sample ``centernet_mobilenet_v2_fpn_shapes``.

Runs where the odapi image's environment is, without a network::

    PYTHONPATH=docker python models/samples/training/train_centernet.py \
        --oidv4 FOLDER --pipeline-config FILE --out FOLDER

and leaves ``weights.npz`` (the form of :mod:`stages.odapi.packed_weights`) and ``log.tsv`` in
``--out``; ``make train`` does that in the sealed image.

The model, its targets and its losses are the Object Detection API's own, as ``--pipeline-config``
says; the pictures are those of :mod:`scenes`. Only the loop is written here. The backbone starts
with the weights of the sample ``ssd_mobilenet_v2_oidv4`` (``--oidv4``: what the stage
``oidv4_checkpoint`` makes), which has the same layers; its first blocks, which see edges and
colours and cost the most, stay as they are, and its batch norms keep their statistics. Feature
pyramid and heads start from nothing.

Objects have the same size in pixels whatever the picture's, so most steps use small pictures. The
last ones use the model's size, which also gives the pyramid's batch norms the statistics they will
be used with.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import precision
import scenes

LAST_FROZEN = "block_2_add"
"""The backbone's last layer that is not trained, where the pyramid's largest level branches off."""

LEARNING_RATE = 2e-3
"""Of Adam, at its highest, for pyramid and heads; falls along a cosine to a hundredth of it."""

BACKBONE = 0.25
"""The backbone's learning rate as a share of that: it knows something already."""

WARM_UP = 100
"""Steps in which the learning rate rises to its highest."""

WEIGHT_DECAY = 2e-5
"""Of every kernel that is trained. Keeps activations in a range that int8 resolves well."""

CLIP = 5.0
"""Largest norm of all gradients together."""

MOMENTUM = 0.97
"""Of the moving statistics while training. Less than Keras' 0.99, so that at the end they are
those of the last, full-sized steps alone. Inference does not use it."""

MOST = 8
"""Places for objects a picture: targets have one shape. Scenes have at most six."""

VALIDATED = 30
"""Scenes of the measurement while training; those at the end use all :data:`FINALLY`."""

FINALLY = 100


@dataclass(frozen=True)
class Phase:
    """Consecutive steps with pictures of one size.

    Attributes:
        share: of all steps.
        side: of the square pictures, in pixels; ``None``: the model's.
        batch: pictures a step.
        objects: most objects a picture; ``None``: as scenes have them.
    """

    share: float
    side: Optional[int]
    batch: int
    objects: Optional[int]


PHASES = (Phase(0.8, 128, 16, 3), Phase(0.2, None, 8, None))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the CenterNet sample.")
    parser.add_argument("--oidv4", type=Path, required=True, help="the SSD sample's model folder")
    parser.add_argument("--pipeline-config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="an existing or new folder")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    from stages.odapi import packed_weights, tensorflow_setup

    tf = tensorflow_setup.load()
    tf.keras.utils.set_random_seed(options.seed)
    tf.config.experimental.enable_op_determinism()
    model, size = build(options.pipeline_config)
    take_backbone(model, options.oidv4)
    detect = detector(model)
    variables = packed_weights.variables(model)
    with (options.out / "log.tsv").open("w", encoding="utf-8") as log:
        train(model, detect, size, options, log)
        for name, variable in variables.items():
            variable.assign(packed_weights.half(name, variable.numpy()).astype(np.float32))
        note(log, "float16 weights", f"AP {measure(detect, size, FINALLY):.4f}")
    packed_weights.write(
        options.out / "weights.npz",
        {name: variable.numpy() for name, variable in variables.items()},
    )


def build(config: Path) -> tuple[Any, tuple[int, int]]:
    """The model of a ``pipeline.config``, freshly initialised, and its (height, width)."""
    from stages.odapi import detection_model, pipeline

    parsed = pipeline.read_pipeline(config.parent)
    size = pipeline.fix_image_size(parsed, None)
    model = detection_model.build(parsed)
    detection_model.create_variables(model, size)
    return model, size


def take_backbone(model: Any, folder: Path) -> None:
    """Copy the SSD sample's backbone, layer by layer, and prepare the model for training.

    Raises:
        SystemExit: a layer of the backbone is not in the SSD model.
    """
    from stages.files import checkpoint_files
    from stages.odapi import detection_model, pipeline, restoration

    parsed = pipeline.read_pipeline(folder)
    size = pipeline.fix_image_size(parsed, None)
    ssd = detection_model.build(parsed)
    detection_model.create_variables(ssd, size)
    prefix = checkpoint_files.find_checkpoint(folder)
    restoration.restore(ssd, restoration.open_training(prefix, averages=False))
    theirs = {layer.name: layer for layer in ssd._feature_extractor.classification_backbone.layers}
    frozen = True
    for layer in model._feature_extractor.classification_backbone.layers:
        if layer.weights:
            if layer.name not in theirs:
                raise SystemExit(f"the SSD model has no layer {layer.name}")
            layer.set_weights(theirs[layer.name].get_weights())
        if hasattr(layer, "moving_variance"):
            layer._training = False  # the Object Detection API's switch: statistics stay
        layer.trainable = not frozen
        frozen = frozen and layer.name != LAST_FROZEN
    for layer in model.submodules:
        if hasattr(layer, "moving_variance"):
            layer.momentum = MOMENTUM


def train(model: Any, detect: Any, size: tuple[int, int], options: Any, log: Any) -> None:
    """All phases; measures a few times on the way."""
    done, scene = 0, scenes.TRAINING + options.seed * 1_000_000
    ends = np.rint(np.cumsum([phase.share for phase in PHASES]) * options.steps).astype(int)
    optimizers = make_optimizers(model)
    for phase, end in zip(PHASES, ends):
        side = phase.side or size[0]
        step = training_step(model, optimizers, side, phase.batch)
        total = np.zeros(3)
        for batch in batches(side, phase, scene).take(end - done):
            rate = learning_rate(done, options.steps)
            for share, (optimizer, _) in zip((BACKBONE, 1.0), optimizers):
                optimizer.learning_rate = rate * share
            total += step(*batch)
            done += 1
            if done % 50 == 0:
                values = " ".join(f"{value:.4f}" for value in total / 50)
                note(log, done, f"centre, scale and offset loss {values}")
                total = np.zeros(3)
            if done % 500 == 0 and done < options.steps:
                note(log, done, f"AP {measure(detect, size, VALIDATED):.4f}")
        scene += phase.batch * options.steps
    note(log, done, f"AP {measure(detect, size, FINALLY):.4f}")


def make_optimizers(model: Any) -> list[tuple[Any, list[Any]]]:
    """(optimizer, its variables) of the backbone, and of pyramid and heads."""
    import tensorflow as tf

    extractor = model._feature_extractor
    backbone = extractor.classification_backbone.trainable_variables
    known = {id(variable) for variable in backbone}
    rest = [v for v in extractor._feature_extractor_model.trainable_variables if id(v) not in known]
    for heads in model._prediction_head_dict.values():
        rest += heads[0].trainable_variables
    return [(tf.keras.optimizers.Adam(), list(backbone)), (tf.keras.optimizers.Adam(), rest)]


def learning_rate(step: int, steps: int) -> float:
    """Warm-up, then a cosine."""
    if step < WARM_UP:
        return LEARNING_RATE * (step + 1) / WARM_UP
    share = (step - WARM_UP) / max(steps - WARM_UP, 1)
    return LEARNING_RATE * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)


def batches(side: int, phase: Phase, first: int) -> Any:
    """Endless dataset of (images, boxes, classes, weights) from scenes ``first``, first + 1, …

    images: uint8 [batch, side, side, 3]; boxes: float32 [batch, MOST, 4], fractions of the
    picture; classes: float32 [batch, MOST, number of classes], one-hot; weights: float32
    [batch, MOST], 1 for an object and 0 for an empty place.
    """
    import tensorflow as tf

    def drawn() -> Iterator[tuple[Any, Any, Any, Any]]:
        seed = first
        while True:
            count = None if phase.objects is None else 1 + seed % phase.objects
            scene = scenes.scene(seed, side, side, count)
            seed += 1
            objects = len(scene.boxes)
            if not objects:
                continue
            boxes = np.tile(np.array([0.25, 0.25, 0.75, 0.75], np.float32), (MOST, 1))
            boxes[:objects] = scene.boxes / side
            classes = np.zeros((MOST, scenes.NUM_CLASSES), np.float32)
            classes[np.arange(objects), scene.classes - 1] = 1
            yield scene.image, boxes, classes, (np.arange(MOST) < objects).astype(np.float32)

    signature = (
        tf.TensorSpec([side, side, 3], tf.uint8),
        tf.TensorSpec([MOST, 4], tf.float32),
        tf.TensorSpec([MOST, scenes.NUM_CLASSES], tf.float32),
        tf.TensorSpec([MOST], tf.float32),
    )
    dataset = tf.data.Dataset.from_generator(drawn, output_signature=signature)
    return dataset.batch(phase.batch, drop_remainder=True).prefetch(4)


def training_step(model: Any, optimizers: Any, side: int, batch: int) -> Any:
    """A function that takes a batch, changes the model once, and returns the three losses."""
    import tensorflow as tf

    extractor = model._feature_extractor
    groups = [variables for _, variables in optimizers]
    every = [variable for group in groups for variable in group]
    decayed = [v for v in every if v.shape.rank == 4]
    shapes = tf.constant([[side, side, 3]] * batch)

    @tf.function
    def step(images: Any, boxes: Any, classes: Any, weights: Any) -> Any:
        model.provide_groundtruth(
            groundtruth_boxes_list=tf.unstack(boxes),
            groundtruth_classes_list=tf.unstack(classes),
            groundtruth_weights_list=tf.unstack(weights),
        )
        inputs = extractor.preprocess(tf.cast(images, tf.float32))
        with tf.GradientTape() as tape:
            # What the model's predict does, but with the pyramid's batch norms in training.
            features = extractor._feature_extractor_model(inputs, training=True)
            predictions = {
                name: [heads[0](features)] for name, heads in model._prediction_head_dict.items()
            }
            predictions["preprocessed_inputs"] = inputs
            losses = model.loss(predictions, shapes)
            decay = WEIGHT_DECAY * tf.add_n([tf.nn.l2_loss(v) for v in decayed])
            loss = tf.add_n(list(losses.values())) + decay
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, every), CLIP)
        for optimizer, variables in optimizers:
            optimizer.apply_gradients(zip(gradients[: len(variables)], variables))
            gradients = gradients[len(variables) :]
        names = ("object_center", "box/scale", "box/offset")
        return tf.stack([losses[f"Loss/{name}"] for name in names])

    return step


def detector(model: Any) -> Any:
    """The model's own inference: a function of one picture, uint8 [height, width, 3].

    It returns boxes [n, 4] as fractions of the picture, classes [n] from 0 and scores [n].
    """
    import tensorflow as tf

    @tf.function
    def detect(image: Any) -> Any:
        tensor, shapes = model.preprocess(tf.cast(image, tf.float32)[None])
        found = model.postprocess(model.predict(tensor, shapes), shapes)
        return [found[f"detection_{what}"][0] for what in ("boxes", "classes", "scores")]

    return detect


def measure(detect: Any, size: tuple[int, int], count: int) -> float:
    """Average precision of ``detect`` on the first ``count`` validation scenes."""
    found, truth = [], []
    for number in range(count):
        scene = scenes.scene(scenes.VALIDATION + number, *size)
        boxes, classes, scores = (part.numpy() for part in detect(scene.image))
        found.append(list(zip(boxes * np.tile(size, 2), classes + 1, scores)))
        truth.append(list(zip(scene.boxes, scene.classes)))
    return precision.average_precision(found, truth)


def note(log: Any, when: Any, what: str) -> None:
    """A line for the log and for who watches."""
    line = f"{when}\t{time.process_time():.0f} s of CPU\t{what}"
    print(line, flush=True)
    log.write(line + "\n")
    log.flush()


if __name__ == "__main__":
    main()
