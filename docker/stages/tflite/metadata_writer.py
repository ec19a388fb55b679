"""Write metadata into a ``.tflite`` with tflite-support's own schema objects and packer.

Only the assembly is ours: tflite-support's detector writer assigns output roles by ascending tensor
index (right for one kind of graph only); this one is given the roles. It runs in the metadata
environment; tflite-support is imported inside the functions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from stages.tflite import decoding, output_roles, packed_files, tflite_meta

NAMES = {
    output_roles.BOXES: tflite_meta.LOCATION,
    output_roles.CLASSES: tflite_meta.CATEGORY,
    output_roles.SCORES: tflite_meta.SCORE,
    output_roles.COUNT: tflite_meta.COUNT,
    output_roles.RAW_BOXES: tflite_meta.RAW_BOXES,
    output_roles.RAW_SCORES: tflite_meta.RAW_SCORES,
}
"""The output names that the Task Library and MediaPipe look for, and those of raw outputs."""

_DESCRIPTIONS = {
    output_roles.BOXES: "The boxes found: top, left, bottom, right, each a fraction of the image.",
    output_roles.CLASSES: "The class of each box: a line of the label file, counted from 0.",
    output_roles.SCORES: "How sure the model is of each box, from 0 to 1.",
    output_roles.COUNT: "How many boxes there are.",
    output_roles.RAW_BOXES: "Boxes as encoded by the model, one for each anchor; decoding.json"
    " says how to decode them.",
    output_roles.RAW_SCORES: "How sure the model is of each class, for each anchor; a class is a"
    " line of the label file.",
}

_FEEDING = "How a photograph becomes the input, as JSON."
_DECODING = {
    decoding.FILE: "How raw boxes and scores become detections, as JSON.",
    decoding.ANCHORS_FILE: "The anchors: ycenter, xcenter, height and width of each, as"
    " little-endian float32, fractions of the input.",
}

BOX_INDEX = (1, 0, 3, 2)
"""Where left, top, right and bottom are in a box [top, left, bottom, right]."""

_VALUES_FROM_SECOND_DIMENSION = 2  # ValueRange of tflite-support's detector metadata


@dataclass(frozen=True)
class Declaration:
    """The contents of the metadata.

    ``mean`` and ``std`` are per channel or one for all, in units of the 0..255 pixel.
    ``label_file`` is the name of the packed label file. ``image`` describes the input in a
    sentence; ``image_files`` are packed files that describe it, by name, and ``box_files`` those
    that describe raw boxes.
    """

    name: str
    description: str
    version: str
    author: str
    license: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_file: str
    score_threshold: Optional[float]
    image: str = "The image, resized to the input's height and width."
    image_files: Mapping[str, bytes] = field(default_factory=dict)
    box_files: Mapping[str, bytes] = field(default_factory=dict)


def annotate(
    model: bytes,
    declaration: Declaration,
    outputs: dict[str, output_roles.Output],
    labels: bytes,
    workspace: Path,
) -> bytes:
    """Add metadata and the label file to ``model``.

    Args:
        model: a FlatBuffer without packed files.
        declaration: the metadata's contents.
        outputs: the model's outputs by role.
        labels: content of the label file.
        workspace: an existing folder for a temporary file of the model's size.

    Returns:
        The annotated file; the same bytes for the same arguments.
    """
    from tflite_support import metadata

    buffer = _metadata_buffer(model, declaration, outputs)
    with tempfile.TemporaryDirectory(dir=workspace) as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(model)
        populator = metadata.MetadataPopulator.with_model_file(str(path))
        populator.load_metadata_buffer(buffer)
        populator.load_associated_file_buffers(
            {declaration.label_file: labels, **declaration.image_files, **declaration.box_files}
        )
        populator.populate()
        return packed_files.canonical(path.read_bytes())


def annotate_like_seed(model: bytes, label_map: bytes, label_file: str, workspace: Path) -> bytes:
    """Annotate ``model`` like the original hand-written recipe did.

    That is tflite-support's ``create_for_inference`` with mean 0, std 255 and the raw label map
    as the label file; only the local time in the archive is removed.
    """
    from tflite_support.metadata_writers import object_detector

    with tempfile.TemporaryDirectory(dir=workspace) as folder:
        path = Path(folder) / label_file
        path.write_bytes(label_map)
        writer = object_detector.MetadataWriter.create_for_inference(
            bytearray(model), [SEED_MEAN], [SEED_STD], [str(path)]
        )
        return packed_files.canonical(writer.populate())


SEED_MEAN, SEED_STD = 0, 255
"""The original recipe's ``input_norm_mean`` and ``input_norm_std``."""


def packed_by_tflite_support(data: bytes) -> dict[str, Any]:
    """Read with tflite-support: ``metadata`` (its JSON form, parsed) and ``files``."""
    import json

    from tflite_support import metadata

    displayer = metadata.MetadataDisplayer.with_model_buffer(data)
    names = displayer.get_packed_associated_file_list()
    return {
        "metadata": json.loads(displayer.get_metadata_json()),
        "files": {name: bytes(displayer.get_associated_file_buffer(name)) for name in names},
    }


def _metadata_buffer(
    model: bytes, declaration: Declaration, outputs: dict[str, output_roles.Output]
) -> bytearray:
    import flatbuffers
    from tflite_support import metadata
    from tflite_support import metadata_schema_py_generated as schema
    from tflite_support import schema_py_generated as model_schema
    from tflite_support.metadata_writers import metadata_info, writer_utils

    kind = writer_utils.get_input_tensor_types(bytearray(model))[0]
    int8 = kind == model_schema.TensorType.INT8
    image = metadata_info.InputImageTensorMd(
        name="image",
        description=declaration.image,
        norm_mean=list(declaration.mean),
        norm_std=list(declaration.std),
        color_space_type=schema.ColorSpaceType.RGB,
        tensor_type=kind,
    ).create_metadata()
    if declaration.image_files:
        image.associatedFiles = [
            _described(name, _FEEDING) for name in sorted(declaration.image_files)
        ]
    if int8:  # tflite-support states the range of uint8 and float32 only
        image.stats.min, image.stats.max = [-128.0], [127.0]
    ordered = sorted(outputs.items(), key=lambda entry: entry[1].position)
    subgraph = schema.SubGraphMetadataT()
    subgraph.inputTensorMetadata = [image]
    subgraph.outputTensorMetadata = [_output(role, declaration) for role, _ in ordered]
    grouped = (output_roles.BOXES, output_roles.CLASSES, output_roles.SCORES)
    if set(grouped) <= set(outputs):
        group = schema.TensorGroupT()
        group.name = "detection_result"  # tflite-support's code generator looks for this name
        group.tensorNames = [NAMES[role] for role in grouped]
        subgraph.outputTensorGroups = [group]

    general = metadata_info.GeneralMd(
        name=declaration.name,
        version=declaration.version or None,
        description=declaration.description,
        author=declaration.author or None,
        licenses=declaration.license or None,
    ).create_metadata()
    general.subgraphMetadata = [subgraph]
    builder = flatbuffers.Builder(0)
    builder.Finish(general.Pack(builder), metadata.MetadataPopulator.METADATA_FILE_IDENTIFIER)
    return bytearray(builder.Output())


def _described(name: str, description: str) -> Any:
    from tflite_support import metadata_schema_py_generated as schema

    file = schema.AssociatedFileT()
    file.name = name
    file.description = description
    file.type = schema.AssociatedFileType.DESCRIPTIONS
    return file


def _output(role: str, declaration: Declaration) -> Any:
    from tflite_support import metadata_schema_py_generated as schema
    from tflite_support import schema_py_generated as model_schema
    from tflite_support.metadata_writers import metadata_info

    texts = {"name": NAMES[role], "description": _DESCRIPTIONS[role]}
    if role in output_roles.RAW_ROLES:
        return _raw_output(role, declaration, metadata_info.TensorMd(**texts).create_metadata())
    if role == output_roles.CLASSES:
        tensor = metadata_info.CategoryTensorMd(
            label_files=[metadata_info.LabelFileMd(declaration.label_file)], **texts
        ).create_metadata()
    elif role == output_roles.SCORES:
        tensor = metadata_info.ClassificationTensorMd(
            tensor_type=model_schema.TensorType.FLOAT32, **texts
        ).create_metadata()
        if declaration.score_threshold is not None:
            tensor.processUnits = [_threshold(declaration.score_threshold)]
    else:
        tensor = metadata_info.TensorMd(**texts).create_metadata()
    if role == output_roles.BOXES:
        box = schema.BoundingBoxPropertiesT()
        box.index = list(BOX_INDEX)
        box.type = schema.BoundingBoxType.BOUNDARIES
        box.coordinateType = schema.CoordinateType.RATIO
        tensor.content.contentPropertiesType = schema.ContentProperties.BoundingBoxProperties
        tensor.content.contentProperties = box
    if role != output_roles.COUNT:
        tensor.content.range = schema.ValueRangeT()
        tensor.content.range.min = _VALUES_FROM_SECOND_DIMENSION
        tensor.content.range.max = _VALUES_FROM_SECOND_DIMENSION
    return tensor


def _raw_output(role: str, declaration: Declaration, tensor: Any) -> Any:
    """Complete the description of raw boxes or scores."""
    from tflite_support import metadata_schema_py_generated as schema

    if role == output_roles.RAW_BOXES:
        tensor.associatedFiles = [
            _described(name, _DECODING[name]) for name in sorted(declaration.box_files)
        ]
        return tensor
    labels = schema.AssociatedFileT()
    labels.name = declaration.label_file
    labels.description = "The name of each class: one a line, in the order of the scores."
    labels.type = schema.AssociatedFileType.TENSOR_AXIS_LABELS
    tensor.associatedFiles = [labels]
    if declaration.score_threshold is not None:
        tensor.processUnits = [_threshold(declaration.score_threshold)]
    return tensor


def _threshold(value: float) -> Any:
    from tflite_support import metadata_schema_py_generated as schema

    unit = schema.ProcessUnitT()
    unit.optionsType = schema.ProcessUnitOptions.ScoreThresholdingOptions
    unit.options = schema.ScoreThresholdingOptionsT()
    unit.options.globalScoreThreshold = value
    return unit
