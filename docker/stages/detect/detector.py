"""Run a detector by its own metadata only, as a device would.

Normalisation, feeding, output roles, box format and class names all come from the file, so a wrong
statement in its metadata shows in the detections. Needs numpy, and ``ai_edge_litert`` or TensorFlow
for the interpreter (imported when used).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from stages.detect import raw_detections
from stages.files import feeding, pixels
from stages.protocol.failures import StageError
from stages.tflite import decoding, tflite_meta, tflite_model

_QUANTIZED = ("uint8", "int8")
_DETECTIONS = (
    tflite_meta.LOCATION, tflite_meta.CATEGORY, tflite_meta.SCORE, tflite_meta.COUNT
)  # fmt: skip
_RAW = (tflite_meta.RAW_BOXES, tflite_meta.RAW_SCORES)
_DECODED = tflite_meta.BoxFormat((1, 0, 3, 2), "boundaries", "ratio")
"""How :mod:`stages.detect.raw_detections` writes boxes."""

_HEAVY = 100_000
"""Bytes of a file, mostly weights, for each of its operators, from which on two threads are faster
for a large input. They wait for each other behind every operator: many light ones (EfficientDet's)
take longer with two, on a busy machine twice as long."""

Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""(mean, std), per channel or one for all, in pixel values."""


def make_interpreter(
    data: bytes, reference_kernels: bool = False, threads: int = 1
) -> tuple[Any, str]:
    """Make a TFLite interpreter with allocated tensors; return it with name and version.

    ``ai_edge_litert`` where it is installed, else TensorFlow's.

    Args:
        data: the whole ``.tflite`` file.
        reference_kernels: use TensorFlow's plain kernels. In version 2.8 they run EfficientDet's
            quantised operators two to four times as fast as the optimised ones, which are
            written for Arm.
        threads: how many. Not as many as there are processors: the result must not depend on that.

    Raises:
        StageError: kind ``unsupported-model``; the runtime refuses the model.
    """
    options: dict[str, Any] = {}
    try:
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        runtime = f"ai_edge_litert {getattr(ai_edge_litert, '__version__', '')}".strip()
    except ImportError:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        from stages.odapi import tensorflow_setup

        tensorflow = tensorflow_setup.load()
        Interpreter = tensorflow.lite.Interpreter  # noqa: N806
        runtime = f"tensorflow {tensorflow.__version__}"
        if reference_kernels:
            kernels = tensorflow.lite.experimental.OpResolverType.BUILTIN_REF
            options["experimental_op_resolver_type"] = kernels
    try:
        interpreter = Interpreter(model_content=data, num_threads=threads, **options)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise _unsupported(f"{runtime} refuses it: {str(error).strip().splitlines()[0]}") from error
    return interpreter, runtime


def threads(data: bytes, graph: tflite_model.Subgraph) -> int:
    """Return how many threads run a file fastest: 1 or 2.

    What it finds is the same to the last bit. It is no more than two, as of TensorFlow's threads
    (:mod:`stages.odapi.tensorflow_setup`): nothing depends on how many processors there are.

    Args:
        data: the whole ``.tflite`` file.
        graph: its graph.
    """
    shape = graph.tensors[graph.inputs[0]].shape
    large = len(shape) == 4 and pixels.is_large(*shape[1:3])
    return 2 if large and len(data) >= _HEAVY * len(graph.operators) else 1


class OutputError(StageError):
    """A run's outputs are not those of a detector: kind ``unsupported-model``.

    Args:
        code: a stable name of the fault: ``not-finite``, ``count`` or ``shapes``.
        reason: what is wrong with them.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(
            "unsupported-model",
            f"The model's outputs are not those of a detector: {reason}.",
            "Compare the roles of its outputs in the metadata with those in the graph; where they "
            "are right, its weights or its post-processing are damaged.",
        )
        self.code = code


class Detector:
    """A loaded artefact.

    Args:
        data: the whole ``.tflite`` file.
        reference_kernels: see :func:`make_interpreter`.
        threaded: whether to use as many threads as are fastest (:func:`threads`); else one.
        make: loads the file into a runtime; :func:`make_interpreter` says how.

    Attributes:
        metadata: the file's metadata.
        labels: class names by class index.
        feeding: how a photograph becomes the input; where the file does not say it,
            :data:`stages.files.feeding.ASSUMED`.
        height: of the input, in pixels.
        width: of the input, in pixels.
        decoding: how raw boxes and scores become detections; None where the graph does that.
        input_type: ``float32``, ``uint8`` or ``int8``.
        input_quantization: of the input; None for a float one.
        capacity: how many detections an output can hold; None before the first run.
        end: the lowest score that the last run found, if its outputs were full: what it left out
            has a lower one. Else 0.
        runtime: name and version of the interpreter.

    Raises:
        StageError: kind ``unsupported-model``; no metadata, or not that of a detector.
    """

    def __init__(
        self,
        data: bytes,
        reference_kernels: bool = False,
        threaded: bool = False,
        *,
        make: Callable[..., tuple[Any, str]] = make_interpreter,
    ) -> None:
        try:
            model = tflite_model.read(data)
            metadata = tflite_meta.read(model)
            if metadata is None:
                raise _unsupported("it carries no metadata")
            self.labels = tflite_meta.labels(data, metadata)
            described = tflite_meta.input_file(data, metadata, feeding.FILE)
            self.feeding = feeding.ASSUMED if described is None else feeding.parse(described)
            self.decoding = _decoding(data, metadata)
            names = _DETECTIONS if self.decoding is None else _RAW
            self._positions = {name: metadata.output(name) for name in names}
        except ValueError as error:  # FlatError is one
            raise _unsupported(str(error)) from error
        self.metadata = metadata
        self._graph = model.graph
        self._check_description(model.graph)
        self._image = metadata.inputs[0]
        tensor = self._graph.tensors[self._graph.inputs[0]]
        _, self.height, self.width, _ = tensor.shape
        self.input_type = tensor.type
        self.input_quantization = tensor.quantization
        box: Optional[tflite_meta.BoxFormat] = _DECODED
        if self.decoding is None:
            box = metadata.outputs[self._positions[tflite_meta.LOCATION]].box
        if box is None or sorted(box.index) != [0, 1, 2, 3] or box.type == "unknown":
            raise _unsupported(f"its metadata does not say how boxes are written ({box})")
        self._box = box
        self._interpreter, self.runtime = make(
            data, reference_kernels, threads(data, model.graph) if threaded else 1
        )
        self._details = self._interpreter.get_output_details()
        self.capacity: Optional[int] = None
        self.end = 0.0

    @property
    def raw(self) -> bool:
        """Whether the input takes raw pixels, not normalised ones."""
        return self.input_type in pixels.RAW_INPUTS

    @property
    def score_threshold(self) -> Optional[float]:
        """The threshold that the metadata declares, if any."""
        name = tflite_meta.SCORE if self.decoding is None else tflite_meta.RAW_SCORES
        return self.metadata.outputs[self._positions[name]].score_threshold

    def input_values(
        self,
        image: Any,
        normalization: Optional[Normalization] = None,
        how: Optional[feeding.Feeding] = None,
    ) -> Any:
        """Compute the input tensor for an image.

        Args:
            image: uint8 array [h, w, 3], RGB.
            normalization: (mean, std) to use instead of the metadata's.
            how: the feeding to use instead of the file's.

        Returns:
            [1, height, width, 3]: float32, normalised; or the raw pixels for an input in eight bits
            (:data:`stages.files.pixels.RAW_INPUTS`).
        """
        resized = pixels.fed(image, self.height, self.width, how or self.feeding)
        if self.raw:
            return pixels.to_raw(resized, self.input_type)[None]
        mean, std = normalization or (self._image.mean, self._image.std)
        return pixels.normalize(resized, mean, std)[None]

    def detect(
        self,
        image: Any,
        score_threshold: float = 0.0,
        max_results: Optional[int] = None,
        *,
        normalization: Optional[Normalization] = None,
        how: Optional[feeding.Feeding] = None,
    ) -> list[dict[str, Any]]:
        """Detect the objects in an image.

        Args:
            image: uint8 array [h, w, 3], RGB.
            score_threshold: results below it are left out.
            max_results: keep at most this many, the best ones; ``None``: all.
            normalization: (mean, std) to use instead of the metadata's.
            how: the feeding to use instead of the file's.

        Returns:
            ``box`` [ymin, xmin, ymax, xmax] as fractions of the image (not clipped to it, except
            those that were decoded here; those wholly in a letterbox's filling are left out),
            ``score``, ``class_id`` (line of the label file, counted from 1) and ``label``
            (``???`` where there is no such line); best score first, equal scores by class and
            box.

        Raises:
            OutputError: the outputs are not those of a detector.
        """
        outputs = self.run(self.input_values(image, normalization, how))
        found = self.in_photograph(self.read(outputs, score_threshold), image, how)
        return found if max_results is None else found[:max_results]

    def in_photograph(
        self, found: list[dict[str, Any]], image: Any, how: Optional[feeding.Feeding] = None
    ) -> list[dict[str, Any]]:
        """Convert boxes of :meth:`read` from fractions of the input to fractions of the image.

        Boxes wholly in a letterbox's filling are left out.

        Args:
            found: as :meth:`read` returns them.
            image: what the input was made of.
            how: the feeding that was used instead of the file's.
        """
        used = how or self.feeding
        _, shares = pixels.placed(*image.shape[:2], self.height, self.width, used)
        inside = pixels.in_photograph(found, shares)
        if self.decoding is None:
            return inside
        # As the model's own post-processing, whose place decoding takes, ends boxes.
        return [
            {**item, "box": [min(max(side, 0.0), 1.0) for side in item["box"]]} for item in inside
        ]

    def run(self, values: Any) -> dict[str, Any]:
        """Run the interpreter; return the outputs by the names the metadata gives them.

        Args:
            values: as :meth:`input_values` makes them.

        Returns:
            float32 arrays, of the shapes that the file gives them: ``location``, ``category``,
            ``score``, ``number of detections``. Raw boxes and scores are decoded to these.

        Raises:
            OutputError: the outputs are not those of a detector.
        """
        self._interpreter.set_tensor(self._interpreter.get_input_details()[0]["index"], values)
        self._interpreter.invoke()
        found = {name: self._output(name) for name in self._positions}
        if self.decoding is not None:
            found = _decoded(found, self.decoding)
        _, _, scores = _valid_rows(found)
        self.capacity = int(found[tflite_meta.SCORE].size)
        self.end = _short(scores.min()) if 0 < self.capacity == len(scores) else 0.0
        return found

    def read(self, outputs: dict[str, Any], score_threshold: float = 0.0) -> list[dict[str, Any]]:
        """Convert outputs of :meth:`run` to detections, as :meth:`detect` returns them.

        Raises:
            OutputError: the outputs are not those of a detector.
        """
        boxes, classes, scores = _valid_rows(outputs)
        found = [
            self._detection(*row)
            for row in zip(boxes, classes, scores)
            if float(row[2]) >= score_threshold
        ]
        found.sort(key=lambda item: (-item["score"], item["class_id"], item["box"]))
        return found

    def _check_description(self, graph: tflite_model.Subgraph) -> None:
        described = (len(self.metadata.inputs), len(self.metadata.outputs))
        if described != (len(graph.inputs), len(graph.outputs)) or len(graph.inputs) != 1:
            raise _unsupported(
                f"its metadata describes {described[0]} inputs and {described[1]} outputs, its "
                f"graph has {len(graph.inputs)} and {len(graph.outputs)}"
            )
        tensor = graph.tensors[graph.inputs[0]]
        shape = tensor.shape
        if len(shape) != 4 or shape[0] != 1 or shape[3] != 3 or min(shape) < 1:
            raise _unsupported(f"its input has the shape {list(shape)}")
        if tensor.type != "float32" and tensor.type not in pixels.RAW_INPUTS:
            raise _unsupported(f"its input is {tensor.type}")
        image = self.metadata.inputs[0]
        if tensor.type == "float32" and not image.mean:
            raise _unsupported("its metadata declares no normalisation for a float input")
        if len(image.mean) != len(image.std) or len(image.mean) not in (0, 1, 3) or 0 in image.std:
            raise _unsupported(f"its metadata declares mean {image.mean} and std {image.std}")

    def _output(self, name: str) -> Any:
        import numpy as np

        detail = self._details[self._positions[name]]
        values = self._interpreter.get_tensor(detail["index"])
        scale, zero_point = detail["quantization"]
        if values.dtype.name in _QUANTIZED and scale:
            return (values.astype(np.float32) - zero_point) * np.float32(scale)
        return values.astype(np.float32)

    def _detection(self, box: Any, category: Any, score: Any) -> dict[str, Any]:
        index = round(float(category))
        return {
            "box": [_short(value) for value in self._corners(box)],
            "score": _short(score),
            "class_id": index + 1,
            "label": self.labels[index] if 0 <= index < len(self.labels) else "???",
        }

    def _corners(self, box: Any) -> tuple[Any, Any, Any, Any]:
        a, b, c, d = (box[position] for position in self._box.index)
        if self._box.coordinates == "pixel":
            a, b, c, d = a / self.width, b / self.height, c / self.width, d / self.height
        if self._box.type == "upper_left":
            return b, a, b + d, a + c
        if self._box.type == "center":
            return b - d / 2, a - c / 2, b + d / 2, a + c / 2
        return b, a, d, c


def _short(value: Any) -> float:
    """Return the shortest number that is the same float32: exact, and readable in JSON."""
    import numpy as np

    return float(str(np.float32(value)))


def _decoding(data: bytes, metadata: tflite_meta.Metadata) -> Optional[decoding.Decoding]:
    """Read how raw outputs are decoded; None where the metadata names none.

    Raises:
        ValueError: it is not said, or cannot be read.
    """
    if tflite_meta.RAW_BOXES not in {output.name for output in metadata.outputs}:
        return None
    return decoding.parse(tflite_meta.output_files(data, metadata, tflite_meta.RAW_BOXES))


def _decoded(outputs: dict[str, Any], how: decoding.Decoding) -> dict[str, Any]:
    """Make of raw outputs what TFLite's detection operator outputs: all rows, and their number.

    Raises:
        OutputError: their shapes are not those that are described, or they are not finite.
    """
    import numpy as np

    raw, scores = outputs[tflite_meta.RAW_BOXES], outputs[tflite_meta.RAW_SCORES]
    if (raw.shape, scores.shape) != ((1, how.count, 4), (1, how.count, how.classes)):
        raise OutputError("shapes", f"their shapes do not fit {decoding.FILE}")
    if not (np.isfinite(raw).all() and np.isfinite(scores).all()):
        raise OutputError("not-finite", "there are numbers among them that are not finite")
    boxes = raw_detections.boxes(raw[0], how)
    inside = raw_detections.clipped(boxes)
    kept = raw_detections.select(boxes, scores[0], how.suppression)
    most = how.suppression.max_detections
    found = {
        tflite_meta.LOCATION: np.zeros((1, most, 4), np.float32),
        tflite_meta.CATEGORY: np.zeros((1, most), np.float32),
        tflite_meta.SCORE: np.zeros((1, most), np.float32),
        tflite_meta.COUNT: np.array([len(kept)], np.float32),
    }
    for place, (row, label) in enumerate(kept):
        found[tflite_meta.LOCATION][0, place] = inside[row]
        found[tflite_meta.CATEGORY][0, place] = label
        found[tflite_meta.SCORE][0, place] = scores[0, row, label]
    return found


def load(path: Path) -> Detector:
    """Load the detector in a file.

    Raises:
        StageError: see :class:`Detector`.
    """
    return Detector(path.read_bytes())


def valid_count(count: Any, capacity: int) -> int:
    """Return how many rows of the outputs hold a detection.

    Args:
        count: the output that says it: an array of one number.
        capacity: how many rows there are.

    Raises:
        OutputError: it is not a whole number from 0 to ``capacity``.
    """
    said = float(count.reshape(-1)[0])
    if not 0 <= said <= capacity or said != int(said):  # comparisons with NaN are false
        raise OutputError(
            "count", f"their count is {said:g}, not a whole number from 0 to {capacity}"
        )
    return int(said)


def _valid_rows(outputs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return boxes [count, 4], classes [count] and scores [count].

    Only those rows exist: the detection operator leaves what was in memory in the others.

    Raises:
        OutputError: shapes or count are wrong, or a number in one of these rows is not finite.
    """
    import numpy as np

    boxes, classes, scores, count = (outputs[name].reshape(-1) for name in _DETECTIONS)
    if count.size != 1 or not len(boxes) == 4 * len(classes) == 4 * len(scores):
        raise OutputError("shapes", "their shapes are not those that their roles need")
    valid = valid_count(count, len(scores))
    rows = (boxes.reshape(-1, 4)[:valid], classes[:valid], scores[:valid])
    if not all(np.isfinite(array).all() for array in rows):
        raise OutputError("not-finite", "there are numbers among them that are not finite")
    return rows


def _unsupported(reason: str) -> StageError:
    return StageError(
        "unsupported-model",
        f"The model cannot be run by its metadata: {reason}.",
        "Run the annotate stage on it first.",
    )
