"""A stage of the tests: a checkpoint of an EfficientDet-Lite with seeded random weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from stages.files import pixels
from stages.lite import efficientdet_lite, model_maker
from stages.odapi import restoration
from stages.protocol.request import REQUIRED

ENVIRONMENT = "main"

PARAMS = {
    "seed": REQUIRED,  # int
    "spec": "efficientdet_lite0",
    "num_classes": 5,
    "image_size": None,
    "layouts": ["tf2"],  # which of the functions below; a folder each
    "fresh_heads": False,  # prediction heads as their initialisers make them
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/<layout>/checkpoint/ckpt-0.*`` for each layout.

    Batch norms get the statistics of ``inputs["images"]``, each behind the layers before it, and
    random scales and shifts, so that none is near its defaults (which would hide a failed
    restore). ``training`` also takes ``inputs["hub_module"]``.

    Returns:
        Facts: ``variables``.
    """
    tf = model_maker.load().tf
    tf.keras.utils.set_random_seed(params["seed"])  # for fresh heads
    spec = efficientdet_lite.model_spec(params["spec"], params["num_classes"], params["image_size"])
    net = efficientdet_lite.net(spec)
    names = fill(net, params["seed"], params["fresh_heads"])
    measure(net, spec, inputs["images"])
    for layout in params["layouts"]:
        folder = out / layout / "checkpoint"
        folder.mkdir(parents=True)
        _LAYOUTS[layout](tf, net, spec, str(folder / "ckpt-0"), inputs)
    return {"variables": len(names)}


def fill(net: Any, seed: int, fresh_heads: bool = False) -> list[str]:
    """Give every variable a seeded random value; returns their names.

    Args:
        net: an EfficientDet-Lite, with or without heads.
        seed: of the values.
        fresh_heads: whether the prediction heads keep what they have.
    """
    import numpy as np

    random = np.random.Generator(np.random.PCG64(seed))
    paths = restoration.object_paths(net)
    for path in sorted(paths):
        head = path.startswith(("class_net/classes", "box_net/boxes"))
        if head and fresh_heads:
            continue
        values = _values(random, path.rpartition("/")[2], paths[path].shape.as_list())
        # Heads that speak up less: scores then spread instead of all being 0 or 1.
        paths[path].assign(values * (0.3 if head else 1.0))
    return sorted(paths)


def measure(net: Any, spec: Any, folder: Path) -> None:
    """Give every batch norm the statistics of the images in ``folder``."""
    import numpy as np
    import tensorflow as tf

    files = pixels.list_images(folder)
    images = np.stack(
        [pixels.resize_bilinear(pixels.load_rgb(path), *spec.config.image_size) for path in files]
    )
    tensor, _ = efficientdet_lite.preprocessing(spec)(tf.constant(images))
    for layer in net.submodules:
        if hasattr(layer, "moving_variance"):
            layer.momentum = 0.0  # statistics are those of the one batch that follows
    tf.random.set_seed(0)
    net(tensor, training=True)


def _tf2(tf: Any, net: Any, spec: Any, prefix: str, inputs: dict[str, Path]) -> None:
    net.save_weights(prefix, save_format="tf")


def _tf2_model(tf: Any, net: Any, spec: Any, prefix: str, inputs: dict[str, Path]) -> None:
    """As ``tf.train.Checkpoint(model=net)``; with an optimizer's state, as training leaves it."""
    optimizer = tf.keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer._create_all_weights(net.trainable_variables)
    tf.train.Checkpoint(model=net, optimizer=optimizer).write(prefix)


def _named(tf: Any, net: Any, prefix: str, averages: bool, keep: Any = None) -> None:
    """As TensorFlow 1's ``Saver`` writes them: by variable name, with a training's other state."""
    import numpy as np

    weights = {variable.name.rpartition(":")[0]: variable.numpy() for variable in net.weights}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        saved = []
        for name, values in weights.items():
            if keep and not keep(name):
                continue
            if averages:
                # The plain variables hold something else: taking them would show.
                average = f"{name}/ExponentialMovingAverage"
                saved.append(tf.compat.v1.Variable(values, name=average))
                values = values + np.float32(0.25)
            saved.append(tf.compat.v1.Variable(values, name=name))
            if "moving_" not in name:
                saved.append(tf.compat.v1.Variable(np.ones_like(values), name=f"{name}/Momentum"))
        saved.append(tf.compat.v1.Variable(np.int64(7), name="global_step"))
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(saved)
        saver.save(session, prefix, write_meta_graph=False, write_state=False)


def _tf1(tf: Any, net: Any, spec: Any, prefix: str, inputs: dict[str, Path]) -> None:
    _named(tf, net, prefix, averages=False)


def _tf1_ema(tf: Any, net: Any, spec: Any, prefix: str, inputs: dict[str, Path]) -> None:
    _named(tf, net, prefix, averages=True)


def _tf1_part(tf: Any, net: Any, spec: Any, prefix: str, inputs: dict[str, Path]) -> None:
    """All but the box head's variables: what ``restore_ckpt`` by default passes over."""
    _named(tf, net, prefix, averages=False, keep=lambda name: not name.startswith("box_net/box-p"))


def _backbone(tf: Any, net: Any, spec: Any, prefix: str, inputs: dict[str, Path]) -> None:
    """Only the backbone of the net, as an object."""
    tf.train.Checkpoint(backbone=net.backbone).write(prefix)


def _training(tf: Any, net: Any, spec: Any, prefix: str, inputs: dict[str, Path]) -> None:
    """What Model Maker's training writes: a hub module and heads, by ``save_weights``.

    The trained model's own answer to the test patterns goes beside it.
    """
    import numpy as np

    spec.uri = str(inputs["hub_module"])
    spec.config.model_dir = str(Path(prefix).parent.parent / "logs")
    trained = spec.create_model()
    trained(tf.zeros([1, *spec.config.image_size, 3]), training=False)
    trained.classes.set_weights(net.class_net.classes.get_weights())
    trained.boxes.set_weights(net.box_net.boxes.get_weights())
    trained.save_weights(prefix, save_format="tf")
    answers = trained(tf.constant(efficientdet_lite.probes(spec)), training=False)
    numbers = np.concatenate([level.numpy().reshape(-1) for part in answers for level in part])
    np.save(str(Path(prefix).parent.parent / "answers.npy"), numbers)


_LAYOUTS = {
    "tf2": _tf2,
    "tf2-model": _tf2_model,
    "tf1": _tf1,
    "tf1-ema": _tf1_ema,
    "tf1-part": _tf1_part,
    "backbone": _backbone,
    "training": _training,
}


def _values(random: Any, kind: str, shape: list[int]) -> Any:
    if kind == "gamma":
        return random.uniform(0.5, 1.5, shape)
    if kind in ("beta", "bias"):
        return random.uniform(-0.5, 0.5, shape)
    if "kernel" not in kind:  # a batch norm's statistics, measured afterwards
        return random.uniform(0.5, 1.5, shape)
    inputs = math.prod(shape[:2] if "depthwise" in kind else shape[:-1])
    return random.normal(0.0, (2.0 / inputs) ** 0.5, shape)
