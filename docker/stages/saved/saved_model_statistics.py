"""Find the normalisation that a SavedModel was trained with, by its first batch norm's statistics.

A batch norm holds the mean and the variance that its input had during training. For pixels on the
training's scale, the layer before it gives values with about these statistics; on another scale it
does not. Detections do not show this difference: a detector that gets 0 to 1 instead of -1 to 1
sees the same scene with less contrast, and still finds most of it.

This only works for graphs that still have their batch norms, with a training's statistics.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from stages.files.normalizations import Normalization
from stages.saved.saved_model_detector import returning, session
from stages.saved.saved_model_graph import SavedGraph

_BATCH_NORM = "FusedBatchNorm"
_NEAR = 12
"""Most operators between the image and the first batch norm."""


def distances(
    folder: Path, graph: SavedGraph, images: Sequence[Any], norms: Sequence[Normalization]
) -> Optional[dict[Normalization, float]]:
    """Measure how far the first batch norm's input is from its statistics.

    Args:
        folder: the SavedModel.
        graph: of it.
        images: float32 [height, width, 3], 0 to 255.
        norms: the normalisations to try.

    Returns:
        The divergence (:func:`divergence`) by normalisation, 0 or more; None where the graph has no
        usable batch norm.
    """
    with _asked(folder, graph) as ask:
        if ask is None:
            return None
        return {norm: _distance(ask, images, norm) for norm in norms}


def _distance(ask: Callable[[Any], tuple[Any, Any, Any]], images: Any, norm: Normalization) -> Any:
    import numpy as np

    from stages.files import pixels

    sums, squares, count, remembered = 0.0, 0.0, 0, None
    for image in images:
        values, *remembered = ask(pixels.normalize(image, norm.mean, norm.std))
        flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
        sums, squares = sums + flat.sum(axis=0), squares + np.square(flat).sum(axis=0)
        count += len(flat)
    mean = sums / count
    return divergence(mean, squares / count - np.square(mean), *remembered)


def divergence(mean: Any, variance: Any, own_mean: Any, own_variance: Any) -> float:
    """Compute the Kullback-Leibler divergence of two normal distributions, averaged over channels.

    Args:
        mean: float64 [channels], measured.
        variance: likewise.
        own_mean: float32 [channels], the batch norm's.
        own_variance: likewise.

    Returns:
        0 where they are the same, in nats; see Kullback & Leibler, "On Information and
        Sufficiency", 1951.
    """
    import numpy as np

    tiny = 1e-6  # channels that are 0 everywhere, as some filters are
    seen = np.maximum(variance, 0) + tiny
    own = own_variance.astype(np.float64) + tiny
    parts = np.log(own / seen) + (seen + np.square(mean - own_mean)) / own - 1
    return float(np.mean(parts) / 2)


@contextlib.contextmanager
def _asked(
    folder: Path, graph: SavedGraph
) -> Iterator[Optional[Callable[[Any], tuple[Any, Any, Any]]]]:
    """Return a function from an image, as the graph takes it, to the first batch norm's input and
    its mean and variance."""
    # The detection operator's placeholder is called with these three instead of its own inputs.
    proto = returning(graph, packed=(0, 2)) if graph.postprocess is not None else None
    if proto is None or not _rewire(proto, graph):
        yield None
        return
    with session(folder, proto) as made:

        def ask(values: Any) -> tuple[Any, Any, Any]:
            answers = made.run(list(graph.outputs.values()), {graph.input: values[None]})
            by_rank = {answer.ndim: answer for answer in answers}
            return by_rank[5][0, 0], by_rank[1], by_rank[2][0]

        yield ask


def _rewire(proto: Any, graph: SavedGraph) -> bool:
    """Give the placeholder the batch norm's input, mean and variance; False where there is none."""
    assert graph.postprocess is not None
    found = False
    for meta in proto.meta_graphs:
        for function in meta.graph_def.library.function:
            for node in function.node_def:
                if "f" in node.attr and node.attr["f"].func.name in graph.postprocess.functions:
                    norm = _first_batch_norm(function)
                    if norm is None:
                        return False
                    for number, source in enumerate((norm.input[0], norm.input[3], norm.input[4])):
                        node.input[number] = source
                    found = True
    return found


def _first_batch_norm(function: Any) -> Optional[Any]:
    """Return the batch norm nearest to the image, which is a function's first argument."""
    consumers: dict[str, list[Any]] = {}
    for node in function.node_def:
        for source in node.input:
            consumers.setdefault(source.lstrip("^").partition(":")[0], []).append(node)
    level = [function.signature.input_arg[0].name] if function.signature.input_arg else []
    for _ in range(_NEAR):
        following = [node for name in level for node in consumers.get(name, ())]
        for node in following:
            if node.op.startswith(_BATCH_NORM) and len(node.input) >= 5:
                return node
        level = list(dict.fromkeys(node.name for node in following))
    return None
