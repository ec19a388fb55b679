"""A stage of the tests: checkpoints saved in the ways that trainings save theirs, restored.

The model is a toy with the parts by which the Object Detection API's are recognised.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from stages.odapi import restoration
from stages.protocol.failures import StageError

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Save a model's weights in each of :data:`WAYS`; restore them as reference and exporter do.

    The weights are "good" or "moved"; where there are averages, those are the other ones.

    Returns:
        Facts, by way: ``restored``, ``exported`` and ``restored_again``, after the export
        (``good``, ``moved`` or ``neither``), ``weights_from``, ``place``, ``notes``, ``as_it_is``
        (whether the exporter takes the files themselves); or ``refused`` (kind, message, remedy).
        ``evaluated``: by way, how far the weights are from the good ones that the Object Detection
        API's own evaluation uses.
    """
    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    said: dict[str, Any] = {"evaluated": {}}
    for way, save in WAYS.items():
        model = _toy(tf)
        values = _values(model)
        prefix = out / way / "ckpt-1"
        prefix.parent.mkdir()
        asks = save(tf, model, values, str(prefix))
        try:
            said[way] = _try(tf, values, prefix, asks)
        except StageError as error:
            said[way] = {"refused": [error.kind, error.message, error.remedy]}
        if way in ("averages", "begun"):
            said["evaluated"][way] = _evaluated(tf, values["good"], prefix)
    return said


def _toy(tf: Any) -> Any:
    """A model with weights of its own and a batch norm's statistics."""
    model = tf.Module()
    layers = tf.keras.layers
    model._feature_extractor = tf.keras.Sequential(
        [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Conv2D(4, 1)]
    )
    model._feature_extractor.build([None, 8, 8, 3])
    model._box_predictor = layers.Dense(2)
    model._box_predictor.build([None, 4])
    return model


def _values(model: Any) -> dict[str, Any]:
    """Two sets of values for the model's variables, in their order; one is its own."""
    import numpy as np

    random = np.random.Generator(np.random.PCG64(7))
    values: dict[str, Any] = {"good": [], "moved": []}
    for variable in model.variables:
        good = random.uniform(0.5, 1.5, variable.shape.as_list()).astype(np.float32)
        values["good"].append(good)
        # Only weights have averages; a batch norm's statistics are the same in both.
        values["moved"].append(good + np.float32(1.0) if variable.trainable else good)
    _set(model, values["good"])
    return values


def _set(model: Any, values: Any) -> None:
    for number, variable in enumerate(model.variables):
        variable.assign(values[number])


def _try(tf: Any, values: Any, prefix: Path, asks: bool) -> dict[str, Any]:
    training = restoration.open_training(prefix, asks)
    model = _toy(tf)
    restoration.restore(model, training)
    restored, other = _which(model, values), _toy(tf)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "ckpt-1"
        if training.as_exporter_expects:
            made = prefix
        else:
            restoration.write_for_exporter(training, made)
        # These two lines are the exporter's.
        status = tf.train.Checkpoint(model=other).restore(str(made)).expect_partial()
        status.assert_existing_objects_matched()
    exported = _which(other, values)
    # A reference in the same process takes the model that was exported; that checkpoint is gone.
    _set(other, [value + 3 for value in values["good"]])
    restoration.restore(other, training)
    return {
        "restored": restored,
        "exported": exported,
        "restored_again": _which(other, values),
        "weights_from": training.weights_from,
        "place": "/".join(training.place),
        "notes": list(training.notes),
        "as_it_is": training.as_exporter_expects,
    }


def _which(model: Any, values: Any) -> str:
    import numpy as np

    for name, wanted in values.items():
        if all(
            np.array_equal(variable.numpy(), wanted[number])
            for number, variable in enumerate(model.variables)
        ):
            return str(name)
    return "neither"


def _evaluated(tf: Any, good: Any, prefix: Path) -> float:
    """Restore as ``model_lib_v2.eval_continuously`` does; swapping wants a strategy."""
    import numpy as np

    model, optimizer = _toy(tf), averaging(tf)
    saved = tf.train.Checkpoint(step=tf.Variable(0), model=model, optimizer=optimizer)
    optimizer.shadow_copy(model)
    saved.restore(str(prefix)).expect_partial()
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        optimizer.swap_weights()
    return max(
        float(np.max(np.abs(variable.numpy() - good[number])))
        for number, variable in enumerate(model.variables)
    )


def averaging(tf: Any) -> Any:
    """The optimizer of the Object Detection API's trainings with averages.

    By its file: its package imports what the image does not have.
    """
    import official

    path = Path(official.__file__).parent / "modeling" / "optimization" / "ema_optimizer.py"
    spec = importlib.util.spec_from_file_location("ema_optimizer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ExponentialMovingAverage(tf.keras.optimizers.legacy.SGD(0.1, momentum=0.9))


# --- ways to save; each returns whether the configuration's evaluation uses averages -------------


def _with_averages(tf: Any, model: Any, weights: Any, of: Any = None) -> Any:
    """An optimizer whose averages are the model's values; the model gets other weights."""
    optimizer = averaging(tf)
    part = of or model
    optimizer.shadow_copy(part)
    for variable in part.trainable_variables:
        optimizer.get_slot(variable, "average").assign(variable)
    _set(model, weights)
    return optimizer


def _save(tf: Any, prefix: str, *root: Any, **parts: Any) -> None:
    tf.train.Checkpoint(*root, **parts).save(prefix.rpartition("-")[0])


def _plain(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    _save(tf, prefix, model=model)
    return False


def _root(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    _save(tf, prefix, model, step=tf.Variable(7))
    return False


def _written(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    """By ``write``, which makes no counter."""
    tf.train.Checkpoint(model=model).write(prefix)
    return False


def _named(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    _save(tf, prefix, detection_model=model)
    return False


def _two(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    _save(tf, prefix, student=model, teacher=_toy(tf))
    return False


def _averages(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    """As the API's training saves it; the weights of the last step are other ones."""
    optimizer = _with_averages(tf, model, values["moved"])
    _save(tf, prefix, step=tf.Variable(7), model=model, optimizer=optimizer)
    return True


def _silent(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    _averages(tf, model, values, prefix)
    return False


def _nested(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    """A training loop of one's own, saved whole."""
    loop = tf.Module()
    loop.optimizer = _with_averages(tf, model, values["moved"])
    loop.net = model
    _save(tf, prefix, loop=loop)
    return True


def _averaged_root(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    _save(tf, prefix, model, optimizer=_with_averages(tf, model, values["moved"]))
    return True


def _none(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    _save(tf, prefix, model=model)
    return True


def _begun(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    """Before the first step: averages are zeros."""
    optimizer = averaging(tf)
    optimizer.shadow_copy(model)
    _save(tf, prefix, model=model, optimizer=optimizer)
    return True


def _part(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    optimizer = _with_averages(tf, model, values["good"], of=model._feature_extractor)
    _save(tf, prefix, model=model, optimizer=optimizer)
    return True


def _nan(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    import numpy as np

    kernel = model._box_predictor.kernel
    kernel.assign(np.float32([[np.nan, 1], [1, np.inf], [1, 1], [1, 1]]))
    _save(tf, prefix, model=model)
    return False


def _nan_left(tf: Any, model: Any, values: Any, prefix: str) -> bool:
    """Weights that diverged in the last step; their averages did not, and count."""
    bad = [value * float("nan") for value in values["good"]]
    for number, variable in enumerate(model.variables):
        if not variable.trainable:
            bad[number] = values["good"][number]
    _save(tf, prefix, model=model, optimizer=_with_averages(tf, model, bad))
    return True


WAYS = {
    "plain": _plain,
    "root": _root,
    "written": _written,
    "named": _named,
    "two": _two,
    "averages": _averages,
    "silent": _silent,
    "nested": _nested,
    "averaged-root": _averaged_root,
    "none": _none,
    "begun": _begun,
    "part": _part,
    "nan": _nan,
    "nan-left": _nan_left,
}
