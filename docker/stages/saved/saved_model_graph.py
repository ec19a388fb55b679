"""Identify an exported SavedModel by its graph: its exporter, and its inputs.

There are three kinds of SavedModel. Those that the Object Detection API exports *for TFLite*
(``export_tflite_graph_tf2.py``) can be converted: they take one float image of a fixed size, and
SSD-like graphs end in a placeholder function for TFLite's detection operator, CenterNet's in the
detections themselves. Those exported for serving (``exporter_main_v2.py``, Model Maker's
``ExportFormat.SAVED_MODEL``) take raw bytes of any size and contain a suppression that TFLite does
not support. Those of TensorFlow 1 are another format.

Nothing is run here: ``saved_model.pb`` is only read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from stages.protocol.failures import StageError

POSTPROCESS = "TFLite_Detection_PostProcess"
"""What the exporter's placeholder for the detection operator declares to implement."""

SIGNATURE = "serving_default"

IMPLEMENTS = "_implements"

_TAG = "serve"
_BATCH_NORMS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "Rsqrt"})
_FLOAT = 1  # DT_FLOAT
_UINT8 = 4  # DT_UINT8

_EXPORT = (
    "python object_detection/export_tflite_graph_tf2.py --pipeline_config_path pipeline.config"
    " --trained_checkpoint_dir training --output_directory for_tflite"
)
"""The Object Detection API's own command for a convertible export."""


@dataclass(frozen=True)
class Postprocess:
    """The options of TFLite's detection operator in the graph; names are the operator's own.

    Args:
        function: names of the placeholder functions (all have the same options).
        scales: what box encodings were multiplied by: y, x, h, w.
        detections_per_class: at most, with ``use_regular_nms``.
    """

    functions: tuple[str, ...]
    num_classes: int
    max_detections: int
    score_threshold: float
    iou_threshold: float
    scales: tuple[float, float, float, float]
    use_regular_nms: bool
    detections_per_class: int


@dataclass(frozen=True)
class SavedGraph:
    """An exported detector that can be converted.

    Args:
        proto: the ``SavedModel`` message.
        input: name of the input tensor.
        height: of the input in pixels.
        width: likewise.
        outputs: signature name -> name of the tensor.
        max_detections: how many it outputs; None where the graph does not say.
        postprocess: of SSD-like models; None: CenterNet.
        batch_norms: how many the converter has to fold.
    """

    proto: Any = field(repr=False)
    input: str
    height: int
    width: int
    outputs: dict[str, str]
    max_detections: Optional[int]
    postprocess: Optional[Postprocess]
    batch_norms: int

    @property
    def architecture(self) -> str:
        """The architecture's name, as in :mod:`stages.steps.export`."""
        return "center_net" if self.postprocess is None else "ssd"


def read(folder: Path) -> SavedGraph:
    """Read the detector in a SavedModel folder. Needs TensorFlow's protocol buffers.

    Raises:
        StageError: kind ``checkpoint``: the files are damaged. Kind ``unsupported-model``: it
            cannot be converted; the message says which kind it is, and what to do.
    """
    proto = parse(folder / "saved_model.pb")
    graphs = [graph for graph in proto.meta_graphs if _TAG in graph.meta_info_def.tags]
    if not graphs:
        tags = sorted({tag for graph in proto.meta_graphs for tag in graph.meta_info_def.tags})
        raise _unsupported(
            f"it has no graph for serving (tags: {', '.join(tags) or 'none'})", _remedy()
        )
    graph = graphs[0]
    if not graph.object_graph_def.nodes:
        raise _unsupported(
            "it is one of TensorFlow 1 (it holds no objects)",
            "Train the model with the TensorFlow 2 Object Detection API, or convert it with"
            " TensorFlow 1's own tools.",
        )
    signature = graph.signature_def.get(SIGNATURE)
    if signature is None or not signature.inputs or not signature.outputs:
        raise _unsupported(
            f"it has no signature {SIGNATURE!r}, so its image input is unknown", _remedy()
        )
    _refuse_serving(signature)
    height, width = _size(signature)
    postprocess = _postprocess(graph.graph_def)
    outputs = {name: tensor.name for name, tensor in signature.outputs.items()}
    _check_outputs(signature, postprocess)
    return SavedGraph(
        proto=proto,
        input=next(iter(signature.inputs.values())).name,
        height=height,
        width=width,
        outputs=outputs,
        max_detections=postprocess.max_detections if postprocess else _room(signature),
        postprocess=postprocess,
        batch_norms=_batch_norms(graph.graph_def, outputs.values()),
    )


def parse(path: Path) -> Any:
    """Parse ``saved_model.pb``: the ``SavedModel`` message, with one graph at least.

    Raises:
        StageError: kind ``checkpoint``: it is damaged.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString(path.read_bytes())
    except (OSError, DecodeError):
        proto.Clear()
    if not proto.meta_graphs:
        raise StageError(
            "checkpoint",
            "saved_model.pb cannot be read: it is damaged, or not a SavedModel.",
            "Copy the SavedModel's whole folder again.",
        )
    return proto


def _refuse_serving(signature: Any) -> None:
    """Refuse an export for serving, with a message for its exporter.

    Raises:
        StageError: kind ``unsupported-model``.
    """
    kinds = {tensor.dtype for tensor in signature.inputs.values()}
    if "detection_boxes" in signature.outputs:
        raise _unsupported(
            "it was exported for serving (exporter_main_v2.py), with a suppression inside that"
            " TFLite does not know",
            "Give the checkpoint instead (--checkpoint; that export keeps one in the folder"
            f" 'checkpoint' beside 'saved_model'), or export it for TFLite: {_EXPORT}",
        )
    if _UINT8 in kinds and "output_0" in signature.outputs:
        raise _unsupported(
            "its input takes bytes of any size, as TFLite Model Maker's ExportFormat.SAVED_MODEL"
            " does",
            "If it is one of Model Maker's, name its spec: --model-maker efficientdet_lite0 (to"
            " efficientdet_lite4).",
        )


def _size(signature: Any) -> tuple[int, int]:
    """Return height and width of the one input.

    Raises:
        StageError: kind ``unsupported-model``; it is not one float image of a fixed size.
    """
    tensors = list(signature.inputs.values())
    shapes = [[dimension.size for dimension in t.tensor_shape.dim] for t in tensors]
    good = len(tensors) == 1 and tensors[0].dtype == _FLOAT and len(shapes[0]) == 4
    if not good or shapes[0][0] != 1 or shapes[0][3] != 3 or min(shapes[0]) < 1:
        shown = ", ".join(
            f"{'x'.join('?' if side < 1 else str(side) for side in shape)} {_type_name(t.dtype)}"
            for t, shape in zip(tensors, shapes)
        )
        raise _unsupported(
            f"it takes {shown}, and not one 1 x height x width x 3 float image", _remedy()
        )
    return shapes[0][1], shapes[0][2]


def _type_name(number: int) -> str:
    from tensorflow.core.framework import types_pb2

    return str(types_pb2.DataType.Name(number)).replace("DT_", "").lower()


def _check_outputs(signature: Any, postprocess: Optional[Postprocess]) -> None:
    """Check that the outputs are four floats and, without the operator, CenterNet's.

    Raises:
        StageError: kind ``unsupported-model``.
    """
    names = sorted(signature.outputs)
    if postprocess is None and names == [f"output_{number}" for number in range(6)]:
        raise _unsupported(
            "it is a CenterNet with keypoints, of which boxes alone can be converted",
            f"Export it without --centernet_include_keypoints: {_EXPORT}",
        )
    floats = all(tensor.dtype == _FLOAT for tensor in signature.outputs.values())
    if len(names) != 4 or not floats:
        raise _unsupported(
            f"it gives {', '.join(names)}, and not four float tensors: boxes, classes, scores and"
            " a count",
            _remedy(),
        )
    if postprocess is not None:
        return
    # The exporter's own numbering: count, scores, classes, boxes.
    ranks = {"output_0": 1, "output_1": 2, "output_2": 2, "output_3": 3}
    known = {
        name: len(tensor.tensor_shape.dim)
        for name, tensor in signature.outputs.items()
        if not tensor.tensor_shape.unknown_rank
    }
    if set(names) != set(ranks) or any(rank != ranks[name] for name, rank in known.items()):
        raise _unsupported(
            f"it neither ends in {POSTPROCESS} nor gives what a CenterNet does (output_0 to"
            " output_3: count, scores, classes, boxes)",
            _remedy(),
        )


def _room(signature: Any) -> Optional[int]:
    dimensions = signature.outputs["output_1"].tensor_shape.dim
    size = int(dimensions[1].size) if len(dimensions) == 2 else 0
    return size if size > 0 else None


def _postprocess(graph_def: Any) -> Optional[Postprocess]:
    """Read the detection operator's options; None where the graph does not end in one.

    Raises:
        StageError: kind ``unsupported-model``; they cannot be understood.
    """
    found: dict[str, dict[str, Any]] = {}
    for function in graph_def.library.function:
        if IMPLEMENTS in function.attr:
            name, attributes = _implemented(function.attr[IMPLEMENTS])
            if name == POSTPROCESS:
                if len(function.signature.input_arg) != 3 or len(function.signature.output_arg) < 4:
                    raise _unsupported(f"its {POSTPROCESS} does not take three tensors", _remedy())
                found[function.signature.name] = attributes
    if not found:
        return None
    said, *others = found.values()
    if any(other != said for other in others):
        raise _unsupported(f"it holds several detectors ({len(found)} of {POSTPROCESS})", _remedy())
    try:
        made = Postprocess(
            functions=tuple(sorted(found)),
            num_classes=int(said["num_classes"]),
            max_detections=int(said["max_detections"]),
            score_threshold=float(said["nms_score_threshold"]),
            iou_threshold=float(said["nms_iou_threshold"]),
            scales=tuple(float(said[f"{side}_scale"]) for side in "yxhw"),  # type: ignore[arg-type]
            use_regular_nms=bool(said.get("use_regular_nms", False)),
            detections_per_class=int(said.get("detections_per_class", 100)),
        )
    except KeyError as error:
        raise _unsupported(f"its {POSTPROCESS} does not say {error}", _remedy()) from error
    if said.get("max_classes_per_detection", 1) != 1 and not made.use_regular_nms:
        raise _unsupported("it gives several classes for one box", _remedy())
    return made


def _implemented(attribute: Any) -> tuple[str, dict[str, Any]]:
    """Return name and attributes of what a function implements; older versions write text."""
    from google.protobuf import text_format
    from tensorflow.core.framework import attr_value_pb2

    said = attribute.func
    if attribute.WhichOneof("value") == "s":
        said = attr_value_pb2.NameAttrList()
        try:
            text_format.Parse(attribute.s.decode("utf-8", "replace"), said)
        except text_format.ParseError:
            return "", {}
    values = {key: getattr(v, v.WhichOneof("value") or "s") for key, v in said.attr.items()}
    return str(said.name), values


def _batch_norms(graph_def: Any, outputs: Any) -> int:
    """Count the batch norms (or reciprocal square roots) before the outputs."""
    library = {function.signature.name: function for function in graph_def.library.function}
    nodes = {node.name: node for node in graph_def.node}
    count = 0
    waiting = [_node_name(name) for name in outputs]
    seen: set[str] = set()
    called: list[str] = []
    while waiting:
        name = waiting.pop()
        if name in seen or name not in nodes:
            continue
        seen.add(name)
        waiting += [_node_name(item) for item in nodes[name].input]
        count += nodes[name].op in _BATCH_NORMS
        called += _calls(nodes[name])
    entered: set[str] = set()
    while called:
        name = called.pop()
        if name in entered or name not in library:
            continue
        entered.add(name)
        for node in library[name].node_def:
            count += node.op in _BATCH_NORMS
            called += _calls(node)
    return count


def _node_name(tensor: str) -> str:
    return tensor.lstrip("^").partition(":")[0]


def _calls(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.WhichOneof("value") == "func":
            yield value.func.name
        for item in value.list.func:
            yield item.name


def _remedy() -> str:
    return f"What can be converted is made with: {_EXPORT}"


def _unsupported(reason: str, remedy: str) -> StageError:
    return StageError(
        "unsupported-model", f"This SavedModel cannot be converted: {reason}.", remedy
    )
