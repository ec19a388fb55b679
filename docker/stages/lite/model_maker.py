"""Import TFLite Model Maker 0.4.3 with the same settings for every stage.

``tflite_model_maker`` imports all of its tasks (text, audio, recommendation, search) and their
dependencies. The stages import only the modules of detection, below ``tensorflow_examples``; some
packages that *those* import are never used while a detector is built, restored and exported. They
are not installed (``docker/modelmaker/overrides.txt``) but replaced by stand-ins; :data:`ABSENT`
lists them. A stand-in can be imported, and subclassed where upstream does so at import; using one
raises an error.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType
from typing import Any, NoReturn, Optional

from stages.odapi import tensorflow_setup
from stages.protocol.failures import StageError

_ROOT = "tensorflow_examples.lite.model_maker"

ABSENT = {
    # Imported by the modules of detection themselves.
    "lxml": "reads Pascal VOC annotations; DataLoader.from_csv and TFRecords do without",
    "matplotlib": "draws detections",
    "neural_structured_learning": "adversarial training",
    "tensorflow_addons": "training callbacks that average weights",
    # Imported because the registry of model specs imports those of every task.
    "official": "BERT, for text classification and question answering",
    # Imported by the export of every task, for formats other than TFLite and SavedModel.
    "tensorflowjs": "export for browsers",
    # Imported by tensorflow-hub, which derives one class from one of its.
    "tensorflow_estimator": "TensorFlow 1's training loops",
}
"""Top-level modules that stand-ins replace where they are not installed, with their purpose.

Packages that upstream imports only if they exist (pycocotools, sounddevice, pandas, scipy, h5py,
tensorboard, googleapiclient) need no stand-in, and those of other tasks (librosa, numba, scann,
scikit-learn, …) are never imported.
"""


@dataclass(frozen=True)
class ModelMaker:
    """TensorFlow, and the modules of Model Maker that stages use, under their own names.

    ``utils`` to ``train`` are automl's EfficientDet in the copy that Model Maker carries.
    """

    tf: Any
    model_spec: Any
    object_detector: Any
    object_detector_spec: Any
    object_detector_dataloader: Any
    configs: Any
    export_format: Any
    utils: Any
    hparams_config: Any
    nms_np: Any
    inference: Any
    efficientdet_keras: Any
    util_keras: Any
    label_util: Any
    anchors: Any
    postprocess: Any
    train_lib: Any
    train: Any


_MODULES = {
    "model_spec": "core.task.model_spec",
    "object_detector": "core.task.object_detector",
    "object_detector_spec": "core.task.model_spec.object_detector_spec",
    "object_detector_dataloader": "core.data_util.object_detector_dataloader",
    "configs": "core.task.configs",
    "export_format": "core.export_format",
    "utils": "third_party.efficientdet.utils",
    "hparams_config": "third_party.efficientdet.hparams_config",
    "nms_np": "third_party.efficientdet.nms_np",
    "inference": "third_party.efficientdet.inference",
    "efficientdet_keras": "third_party.efficientdet.keras.efficientdet_keras",
    "util_keras": "third_party.efficientdet.keras.util_keras",
    "label_util": "third_party.efficientdet.keras.label_util",
    "anchors": "third_party.efficientdet.keras.anchors",
    "postprocess": "third_party.efficientdet.keras.postprocess",
    "train_lib": "third_party.efficientdet.keras.train_lib",
    "train": "third_party.efficientdet.keras.train",
}

_loaded: Optional[ModelMaker] = None


def load() -> ModelMaker:
    """Import Model Maker, with TensorFlow set up by :mod:`stages.odapi.tensorflow_setup`.

    Every stage of a process shares the first call's result.

    Raises:
        StageError: this environment has no Model Maker.
    """
    global _loaded
    if _loaded is None:
        # TensorFlow first, without stand-ins: it tries imports to detect packages.
        tf = tensorflow_setup.load()
        try:
            with stand_ins():
                modules = {
                    name: importlib.import_module(f"{_ROOT}.{path}")
                    for name, path in _MODULES.items()
                }
        except ModuleNotFoundError as error:
            raise StageError(
                "stage-failed",
                f"TFLite Model Maker cannot be imported here: there is no module {error.name!r}.",
                "Its stages run in the image 'modelmaker'; see `image` in the recipe.",
            ) from error
        _repair_batch_norm(modules["utils"])
        _loaded = ModelMaker(tf=tf, **modules)
    return _loaded


def _repair_batch_norm(utils: Any) -> None:
    """Let Keras 2.8 call automl's batch norm.

    Its ``call`` passes ``mask`` to Keras, whose own ``call`` has no such argument in this version
    (0.4.3 does not keep to its own pins), and then fills a collection that only TensorFlow 1 reads.
    Without that override the layer is Keras's own with another default name, as intended.
    """
    if "call" in vars(utils.BatchNormalization):
        del utils.BatchNormalization.call


# --- stand-ins -------------------------------------------------------------------------------


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """While active, importing a missing module of :data:`ABSENT` gives a stand-in.

    Installed packages take precedence: the finder is asked last. Afterwards the finder is removed,
    so that code which tries an import to detect a package gets the true answer; stand-ins that were
    imported stay.
    """
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def stand_ins_in_use() -> list[str]:
    """List the packages of :data:`ABSENT` that are stand-ins in this process, sorted."""
    return sorted(name for name in ABSENT if isinstance(sys.modules.get(name), _Module))


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        package = fullname.partition(".")[0]
        if package not in ABSENT:
            return None
        if fullname != package and not isinstance(sys.modules[package], _Module):
            return None  # the package is there; what it lacks is its own matter
        return importlib.machinery.ModuleSpec(fullname, _Loader(), is_package=True)


class _Loader(Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: a stand-in has no code."""


class _Module(ModuleType):
    """A module that has any name; see :class:`_StandIn`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python's own questions: it has no __file__, no __all__
            raise AttributeError(name)
        value = _stand_in(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class _StandIn(type):
    """A class that upstream can subclass; calling it or a subclass is refused."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(f"{cls._origin}.{name}")

    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        package = cls._origin.partition(".")[0]
        raise StageError(
            "stage-failed",
            f"Model Maker used {cls._origin}, but {package} ({ABSENT[package]}) is not installed: "
            "detection export was not known to need it.",
            "Please report it with the stage's log; until then use other settings.",
        )

    def __repr__(cls) -> str:
        return f"<stand-in for {cls._origin}>"


def _stand_in(origin: str) -> _StandIn:
    return _StandIn(origin.rpartition(".")[2], (), {"_origin": origin})
