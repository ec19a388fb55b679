"""Import TensorFlow with the same settings for every stage."""

from __future__ import annotations

import os
from typing import Any

_loaded: Any = None


def load() -> Any:
    """Import TensorFlow, quiet, on the CPU, with a fixed number of threads.

    Every stage of a process shares the first call's result. Thread counts are fixed so that
    nothing can depend on how many processors the machine has; oneDNN's kernels are off because
    they choose their code by CPU model.
    """
    global _loaded
    if _loaded is None:
        # The C++ runtime reads them once, at import.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        tf.config.threading.set_intra_op_parallelism_threads(2)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        _loaded = tf
    return _loaded
