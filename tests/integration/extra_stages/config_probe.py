"""A stage of the tests: what the Object Detection API itself says of configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.odapi import config_differences, pipeline
from stages.protocol.failures import StageError

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {
    "built": {},  # file name -> [height, width, detections] of what was built
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/messages.json`` (of the API), and ``out/verdicts.json``.

    The latter says for each file of ``inputs["configs"]`` why the stages refuse it; empty: they
    do not. Facts: ``differences`` of those in ``built``.
    """
    from stages.odapi import tensorflow_setup

    tensorflow_setup.load()
    from object_detection.builders import model_builder
    from object_detection.protos import pipeline_pb2

    found: dict[str, Any] = {}
    _walk(pipeline_pb2.TrainEvalPipelineConfig.DESCRIPTOR, found)
    extractors = {
        "ssd": sorted(model_builder.SSD_KERAS_FEATURE_EXTRACTOR_CLASS_MAP),
        "center_net": sorted(model_builder.CENTER_NET_EXTRACTOR_FUNCTION_MAP),
    }
    told = {"messages": found, "extractors": extractors}
    (out / "messages.json").write_text(json.dumps(told, sort_keys=True))
    verdicts, differences = {}, {}
    for path in sorted(inputs["configs"].iterdir()):
        folder = out / "one"
        folder.mkdir(exist_ok=True)
        (folder / "pipeline.config").write_bytes(path.read_bytes())
        try:
            config = pipeline.read_pipeline(folder)
            verdicts[path.name] = ""
        except StageError as error:
            verdicts[path.name] = error.message
            continue
        if path.name in params["built"]:
            height, width, most = params["built"][path.name]
            built = config_differences.Built((height, width), most)
            differences[path.name] = config_differences.differences(config, built)
    (out / "verdicts.json").write_text(json.dumps(verdicts))
    return {"differences": differences}


def _walk(message: Any, found: dict[str, Any]) -> None:
    """Add a message's fields, and those of all that it can hold."""
    name = _short(message.full_name)
    if name in found:
        return
    fields = found[name] = {}
    for field in message.fields:
        rivals = field.containing_oneof
        values = field.enum_type and [value.name for value in field.enum_type.values]
        fields[field.name] = {
            "type": field.type,
            "repeated": field.label == field.LABEL_REPEATED,
            "rivals": sorted(other.name for other in rivals.fields) if rivals else [],
            "message": _short(field.message_type.full_name) if field.message_type else "",
            "values": values or [],
        }
        if field.message_type:
            _walk(field.message_type, found)


def _short(name: str) -> str:
    return name.replace("object_detection.protos.", "")
