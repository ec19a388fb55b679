"""Trains the weights of the sample ``efficientdet_lite0_shapes``, from nothing.

Runs where the modelmaker image's environment is, without a network::

    PYTHONPATH=docker python models/samples/training/train_efficientdet.py --out FOLDER

and leaves ``FOLDER/weights.npz`` (the form of :mod:`stages.odapi.packed_weights`) and
``FOLDER/log.tsv``.

The net, its anchors, its labeller and its hyperparameters are Model Maker's own
(``EfficientDetNet``, ``Anchors``, ``AnchorLabeler``, the spec's configuration), the pictures those
of :mod:`scenes`. Only the loop and the two losses are written here, after the EfficientDet paper
(https://arxiv.org/abs/1911.09070: focal loss on classes, Huber loss on boxes, both over the number
of matched anchors): the library's trainer wants a pretrained module.

Objects have the same size in pixels whatever the picture's, so most steps use small pictures, which
cost a sixth; the last ones use the spec's size, which also gives the batch norms the statistics
they will be used with. Stochastic depth is off: it is for training much longer.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
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

_STARTED = time.monotonic()

SPEC = "efficientdet_lite0"

LEARNING_RATE = 2e-3
"""Of Adam, at its highest; falls along a cosine to a hundredth of it."""

WARM_UP = 100
"""Steps in which the learning rate rises to its highest."""

MOMENTUM = 0.97
"""Of the batch norms' moving statistics while training. Less than the model's 0.99, so that at
the end they are those of the last, full-sized steps alone. Inference does not use it."""

SEEDS, SCENES = 50, 100_000
"""How many seeds have scenes of their own, and how many each has."""

NOTED, MEASURED = 50, 250
"""Steps between two notes of the losses, and between two measurements."""

VALIDATED, FINALLY = 30, 100
"""Scenes of a measurement while training, and of those at the end."""

SCORE, OVERLAP, DETECTIONS = 0.02, 0.5, 25
"""What a measurement keeps: scores from here, boxes that overlap less (IoU), at most so many.
The last two are those of the exported model."""


@dataclass(frozen=True)
class Phase:
    """Consecutive steps with pictures of one size.

    Attributes:
        share: of all steps.
        side: of the square pictures, in pixels.
        batch: pictures a step.
        objects: most objects a picture; ``None``: as scenes have them.
    """

    share: float
    side: int
    batch: int
    objects: Optional[int]


PHASES = (Phase(0.82, 128, 16, 3), Phase(0.18, 320, 4, None))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the EfficientDet-Lite0 sample.")
    parser.add_argument("--out", type=Path, required=True, help="an existing or new folder")
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--seed", type=int, default=1, choices=range(SEEDS), metavar="0-49")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    library = load()
    from stages.odapi import packed_weights, restoration

    library.tf.keras.utils.set_random_seed(options.seed)
    net, config = build_net()
    with (options.out / "log.tsv").open("w") as log:
        train(net, config, options.steps, options.seed, log)
        variables = restoration.object_paths(net)
        round_to_half(variables)
        found = measure(detector(net, config), config, FINALLY)
        note(log, "float16 weights", f"AP {found:.4f}")
    packed_weights.write(
        options.out / "weights.npz", {name: value.numpy() for name, value in variables.items()}
    )


def load() -> Any:
    """Model Maker, with oneDNN's kernels: they need two thirds of the time.

    Stages do without, since what those kernels compute depends on the CPU's model. What training
    computes depends on more than that, and nobody repeats it to build.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    import tensorflow  # noqa: F401  (now, since it reads the environment once, at import)

    from stages.lite import model_maker

    return model_maker.load()


def build_net() -> tuple[Any, Any]:
    """Model Maker's net for the classes of :mod:`scenes`, freshly initialised, and its
    configuration."""
    import tensorflow as tf

    from stages.lite import efficientdet_lite

    spec = efficientdet_lite.model_spec(SPEC, scenes.NUM_CLASSES)
    net = efficientdet_lite.net(spec)
    net.backbone._global_params = net.backbone._global_params._replace(survival_prob=None)
    for layer in net.submodules:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = MOMENTUM
    return net, spec.config


def train(net: Any, config: Any, steps: int, seed: int, log: Any) -> None:
    """All phases; measures a few times on the way."""
    import tensorflow as tf

    optimizer = tf.keras.optimizers.Adam()
    detect = detector(net, config)
    done, scene = 0, scenes.TRAINING + seed * SCENES
    ends = np.rint(np.cumsum([phase.share for phase in PHASES]) * steps).astype(int)
    for phase, end in zip(PHASES, ends):
        step = training_step(net, config, optimizer, phase)
        recent = []
        for images, classes, boxes in batches(config, phase, scene).take(end - done):
            optimizer.learning_rate = learning_rate(done, steps)
            recent.append(step(images, classes, boxes).numpy())
            done += 1
            if done % NOTED == 0:
                means = np.mean(recent, 0)
                note(log, done, "losses: classes {:.4f}, boxes {:.4f}".format(*means))
                recent = []
            if done % MEASURED == 0 and done < steps:
                note(log, done, f"AP {measure(detect, config, VALIDATED):.4f}")
        scene += phase.batch * steps
    note(log, done, f"AP {measure(detect, config, FINALLY):.4f}")


def learning_rate(step: int, steps: int) -> float:
    """Warm-up, then a cosine."""
    if step < WARM_UP:
        return LEARNING_RATE * (step + 1) / WARM_UP
    share = (step - WARM_UP) / max(steps - WARM_UP, 1)
    return LEARNING_RATE * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)


def batches(config: Any, phase: Phase, first: int) -> Any:
    """Endless dataset of (images, class targets, box targets) from scenes ``first``, first + 1, …

    images: float32 [batch, side, side, 3], normalised; class targets: int32 [batch, anchors],
    class from 0 or -1 for none; box targets: float32 [batch, anchors, 4], as the net encodes them.
    """
    import tensorflow as tf

    from stages.lite import model_maker

    library = model_maker.load()
    labeller = library.anchors.AnchorLabeler(
        anchors(config, phase.side, phase.side), config.num_classes
    )

    def drawn() -> Iterator[tuple[Any, Any, Any]]:
        seed = first
        while True:
            count = None if phase.objects is None else 1 + seed % phase.objects
            scene = scenes.scene(seed, phase.side, phase.side, count)
            seed += 1
            if len(scene.boxes):
                yield scene.image, scene.boxes, scene.classes[:, None]

    def labelled(image: Any, boxes: Any, classes: Any) -> tuple[Any, Any, Any]:
        by_level, boxes_by_level, _ = labeller.label_anchors(boxes, classes)
        return (
            (tf.cast(image, tf.float32) - config.mean_rgb) / config.stddev_rgb,
            tf.concat([tf.reshape(part, [-1]) for part in by_level.values()], 0),
            tf.concat([tf.reshape(part, [-1, 4]) for part in boxes_by_level.values()], 0),
        )

    signature = (
        tf.TensorSpec([phase.side, phase.side, 3], tf.uint8),
        tf.TensorSpec([None, 4], tf.float32),
        tf.TensorSpec([None, 1], tf.float32),
    )
    dataset = tf.data.Dataset.from_generator(drawn, output_signature=signature)
    dataset = dataset.map(labelled).batch(phase.batch).prefetch(4)
    # Threads of its own: TensorFlow's are busy with the step, and stages allow it only one.
    settings = tf.data.Options()
    settings.threading.private_threadpool_size = 2
    return dataset.with_options(settings)


def anchors(config: Any, height: int, width: int) -> Any:
    """The net's anchors for pictures of a size."""
    from stages.lite import model_maker

    return model_maker.load().anchors.Anchors(
        config.min_level,
        config.max_level,
        config.num_scales,
        config.aspect_ratios,
        config.anchor_scale,
        (height, width),
    )


def training_step(net: Any, config: Any, optimizer: Any, phase: Phase) -> Any:
    """A function that takes a batch, changes the net once, and returns the two losses."""
    import tensorflow as tf

    decayed = [v for v in net.trainable_variables if "kernel" in v.name]

    @tf.function
    def step(images: Any, classes: Any, boxes: Any) -> Any:
        with tf.GradientTape() as tape:
            logits, encoded = flat(net(images, training=True), phase.batch, config)
            class_loss, box_loss = losses(config, logits, encoded, classes, boxes)
            decay = config.weight_decay * tf.add_n([tf.nn.l2_loss(v) for v in decayed])
            loss = class_loss + config.box_loss_weight * box_loss + decay
        variables = net.trainable_variables
        gradients = tape.gradient(loss, variables)
        gradients, _ = tf.clip_by_global_norm(gradients, config.clip_gradients_norm)
        optimizer.apply_gradients(zip(gradients, variables))
        return tf.stack([class_loss, box_loss])

    return step


def flat(outputs: Any, batch: int, config: Any) -> tuple[Any, Any]:
    """The net's outputs of all levels: logits [batch, anchors, classes] and encoded boxes
    [batch, anchors, 4]."""
    import tensorflow as tf

    classes, boxes = outputs
    return (
        tf.concat([tf.reshape(part, [batch, -1, config.num_classes]) for part in classes], 1),
        tf.concat([tf.reshape(part, [batch, -1, 4]) for part in boxes], 1),
    )


def losses(config: Any, logits: Any, encoded: Any, classes: Any, boxes: Any) -> tuple[Any, Any]:
    """Focal loss (https://arxiv.org/abs/1708.02002) and Huber loss, per matched anchor."""
    import tensorflow as tf

    matched = tf.cast(classes >= 0, tf.float32)
    count = tf.reduce_sum(matched) + 1.0
    truth = tf.one_hot(classes, config.num_classes)  # all zero where the class is -1
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(truth, logits)
    wrong = tf.abs(truth - tf.sigmoid(logits))  # 1 - p_t
    weight = truth * config.alpha + (1 - truth) * (1 - config.alpha)
    class_loss = tf.reduce_sum(weight * wrong**config.gamma * entropy) / count
    error = tf.abs(boxes - encoded)
    huber = tf.where(error < config.delta, error**2 / 2, config.delta * (error - config.delta / 2))
    box_loss = tf.reduce_sum(huber * matched[..., None]) / (4 * count)
    return class_loss, box_loss


def round_to_half(variables: dict[str, Any]) -> None:
    """Round every value to float16, which is how packed weights hold them."""
    from stages.odapi import packed_weights

    for name, variable in variables.items():
        variable.assign(packed_weights.half(name, variable.numpy()).astype(np.float32))


def detector(net: Any, config: Any) -> Any:
    """A function from a picture of the spec's size, uint8 [side, side, 3], to what the net finds
    there: a list of (box in pixels, class id, score)."""
    import tensorflow as tf

    from stages.detect import fast_nms
    from stages.lite import model_maker

    grid = anchors(config, *config.image_size).boxes
    decode = model_maker.load().anchors.decode_box_outputs

    @tf.function
    def predict(image: Any) -> tuple[Any, Any]:
        scaled = (tf.cast(image, tf.float32) - config.mean_rgb) / config.stddev_rgb
        logits, encoded = flat(net(scaled[None], training=False), 1, config)
        return decode(encoded[0], grid), tf.sigmoid(logits[0])

    def detect(image: Any) -> list[Any]:
        boxes, scores = (part.numpy() for part in predict(image))
        kept = fast_nms.select(boxes, scores, SCORE, OVERLAP, DETECTIONS)
        return [(boxes[row], kind + 1, scores[row, kind]) for row, kind in kept]

    return detect


def measure(detect: Any, config: Any, count: int) -> float:
    """Average precision of a :func:`detector` on the first ``count`` validation scenes."""
    found, truth = [], []
    for number in range(count):
        scene = scenes.scene(scenes.VALIDATION + number, *config.image_size)
        found.append(detect(scene.image))
        truth.append(list(zip(scene.boxes, scene.classes)))
    return precision.average_precision(found, truth)


def note(log: Any, when: Any, what: str) -> None:
    """A line for the log and for who watches."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    spent = f"{time.monotonic() - _STARTED:.0f} s\t{time.process_time():.0f} s of CPU\t{memory} MiB"
    print(f"{when}\t{spent}\t{what}", flush=True)
    log.write(f"{when}\t{spent}\t{what}\n")
    log.flush()


if __name__ == "__main__":
    main()
