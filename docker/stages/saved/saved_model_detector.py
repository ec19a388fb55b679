"""Run an exported SavedModel in TensorFlow itself, without any conversion.

An SSD-like export ends in a placeholder function for TFLite's detection operator that returns only
zeros. The function's *inputs* are the model's answer: encoded boxes, class scores, anchors. So the
function is changed to return those, and the operator's arithmetic is done here, in numpy.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.detect import detector, fast_nms
from stages.protocol.failures import StageError
from stages.saved.saved_model_graph import IMPLEMENTS, SIGNATURE, Postprocess, SavedGraph

_PACKED = "kiln_packed"


class SavedDetector:
    """A loaded detector; :func:`opened` makes it."""

    def __init__(self, graph: SavedGraph, session: Any) -> None:
        self._graph, self._session = graph, session

    def detect(self, values: Any) -> list[dict[str, Any]]:
        """Detect objects.

        Args:
            values: float32 [height, width, 3], as the graph takes them.

        Returns:
            Detections as :func:`stages.steps.reference.run` writes them, best score first.
        """
        graph = self._graph
        answers = self._session.run(graph.outputs, {graph.input: values[None]})
        if graph.postprocess is None:
            return _centernet(answers)
        return _ssd(list(answers.values()), graph.postprocess)


@contextlib.contextmanager
def opened(folder: Path, graph: SavedGraph) -> Iterator[SavedDetector]:
    """Open the detector of a SavedModel folder, as a context manager.

    Args:
        folder: the SavedModel.
        graph: :func:`stages.saved.saved_model_graph.read` of it.

    Raises:
        StageError: kind ``checkpoint``; its variables are missing or damaged.
    """
    # Four outputs carry three tensors, which are told apart by rank, independent of size: the
    # boxes get one more dimension.
    with session(folder, returning(graph, packed=(0,))) as made:
        yield SavedDetector(graph, made)


@contextlib.contextmanager
def session(folder: Path, proto: Any) -> Iterator[Any]:
    """Open a TensorFlow 1 session with another graph and the variables of a folder.

    Args:
        folder: a SavedModel.
        proto: the ``SavedModel`` message to load in the place of its own.

    Raises:
        StageError: kind ``checkpoint``; its variables are missing or damaged.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for path in folder.iterdir():
            if path.name not in ("saved_model.pb", "fingerprint.pb"):
                (place / path.name).symlink_to(path.resolve())
        (place / "saved_model.pb").write_bytes(proto.SerializeToString())
        config = v1.ConfigProto(intra_op_parallelism_threads=2, inter_op_parallelism_threads=1)
        made = stack.enter_context(v1.Session(graph=tf.Graph(), config=config))
        try:
            # TensorFlow 1's loader uses the graph alone, independent of the classes of the
            # exporter's objects.
            v1.saved_model.load(made, ["serve"], str(place))
        except (tf.errors.OpError, OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0].rstrip(".")
            raise StageError(
                "checkpoint",
                f"The SavedModel cannot be loaded: {first}.",
                "Its files are damaged or incomplete; copy the whole folder again.",
            ) from error
        yield made


def returning(graph: SavedGraph, packed: tuple[int, ...]) -> Any:
    """Change the SavedModel's placeholder for the detection operator to return its inputs.

    Args:
        graph: of any kind; a CenterNet has no placeholder and is copied unchanged.
        packed: which of the placeholder's three inputs get one more dimension.

    Returns:
        A ``SavedModel`` message. Its outputs have no shape information.
    """
    proto = type(graph.proto)()
    proto.CopyFrom(graph.proto)
    if graph.postprocess is None:
        return proto
    for meta in proto.meta_graphs:
        for function in meta.graph_def.library.function:
            if function.signature.name in graph.postprocess.functions:
                _return_inputs(function, packed)
        nodes = [*meta.graph_def.node]
        nodes += [node for item in meta.graph_def.library.function for node in item.node_def]
        for node in nodes:
            node.attr.pop("_output_shapes", None)  # of the zeros
        for tensor in meta.signature_def[SIGNATURE].outputs.values():
            tensor.tensor_shape.Clear()
            tensor.tensor_shape.unknown_rank = True
    return proto


def _return_inputs(function: Any, packed: tuple[int, ...]) -> None:
    names = [item.name for item in function.signature.output_arg]
    function.attr.pop(IMPLEMENTS, None)  # so that it is called like any other
    function.attr.pop("_input_shapes", None)
    answers = []
    for number, item in enumerate(function.signature.input_arg):
        if number not in packed:
            answers.append(item.name)
            continue
        function.node_def.add(
            name=f"{_PACKED}_{number}",
            op="Pack",
            input=[item.name],
            attr={
                "N": _attribute(i=1),
                "T": _attribute(type=item.type),
                "axis": _attribute(i=0),
            },
        )
        answers.append(f"{_PACKED}_{number}:output:0")
    for number, name in enumerate(names):
        function.ret[name] = answers[min(number, len(answers) - 1)]


def _attribute(**value: Any) -> Any:
    from tensorflow.core.framework import attr_value_pb2

    return attr_value_pb2.AttrValue(**value)


def _ssd(answers: list[Any], said: Postprocess) -> list[dict[str, Any]]:
    by_rank = {values.ndim: values for values in answers}
    boxes = decode(by_rank[4][0, 0], by_rank[2], said.scales)
    # A background class, where there is one, comes first.
    scores = by_rank[3][0][:, -said.num_classes :]
    return [
        _detection(boxes[row], scores[row, label], label)
        for row, label in select(boxes, scores, said)
    ]


def decode(encoded: Any, anchors: Any, scales: tuple[float, float, float, float]) -> Any:
    """Decode boxes like TFLite's operator.

    After ``DecodeCenterSizeBoxes`` in TensorFlow's
    ``tensorflow/lite/kernels/detection_postprocess.cc``.

    Args:
        encoded: float32 [boxes, 4 or more]: y, x, h, w.
        anchors: float32 [boxes, 4]: centre y, centre x, height, width.
        scales: that divide the four.

    Returns:
        float32 [boxes, 4]: ymin, xmin, ymax, xmax.
    """
    import numpy as np

    y, x, h, w = (encoded[:, side] / np.float32(scales[side]) for side in range(4))
    centre_y = y * anchors[:, 2] + anchors[:, 0]
    centre_x = x * anchors[:, 3] + anchors[:, 1]
    half_h = np.float32(0.5) * np.exp(h) * anchors[:, 2]
    half_w = np.float32(0.5) * np.exp(w) * anchors[:, 3]
    sides = [centre_y - half_h, centre_x - half_w, centre_y + half_h, centre_x + half_w]
    return np.stack(sides, axis=1)


def select(boxes: Any, scores: Any, said: Postprocess) -> list[tuple[int, int]]:
    """Select the boxes that the operator keeps: (row, class from 0), best score first.

    Args:
        boxes: float32 [boxes, 4], decoded.
        scores: float32 [boxes, classes].
        said: the operator's options in the graph.
    """
    suppression = {
        "regular": said.use_regular_nms,
        "score_threshold": said.score_threshold,
        "iou_threshold": said.iou_threshold,
        "detections_per_class": said.detections_per_class,
    }
    return fast_nms.keep(boxes, scores, suppression, said.max_detections)


def _centernet(answers: dict[str, Any]) -> list[dict[str, Any]]:
    count, scores, classes, boxes = (answers[f"output_{number}"] for number in range(4))
    found = [
        _detection(boxes[0, row], scores[0, row], round(float(classes[0, row])))
        for row in range(detector.valid_count(count, scores.shape[1]))
    ]
    return sorted(found, key=lambda item: -item["score"])


def _detection(box: Any, score: Any, label: int) -> dict[str, Any]:
    # The model counts classes from 0, label maps from 1.
    return {"box": [float(side) for side in box], "score": float(score), "class_id": label + 1}
