"""The tables of a pipeline.config: read from a package's text, and written as a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kiln.recipes import pipeline_schema
from schemas import describe_pipeline, generate_pipeline

MESSAGES = {
    "TrainEvalPipelineConfig": ["model:@DetectionModel"],
    "DetectionModel": ["ssd:@Ssd|0", "center_net:@Ssd|0"],
    "Ssd": ["num_classes:i", "score_converter:Ssd.Score", "scales:[f]"],
}
ENUMS = {"Ssd.Score": ["IDENTITY", "SIGMOID"]}


def test_what_is_written_is_read_back() -> None:
    described = {"messages": MESSAGES, "enums": ENUMS, "extractors": {"ssd": ["a" * 70, "b" * 70]}}
    text = generate_pipeline.generate(described)
    assert max(map(len, text.splitlines())) <= 100
    read: dict[str, Any] = {}
    exec(text, read)
    assert {name: words.split() for name, words in read["MESSAGES"].items()} == MESSAGES
    assert {name: words.split() for name, words in read["ENUMS"].items()} == ENUMS
    assert read["EXTRACTORS"]["ssd"].split() == ["a" * 70, "b" * 70]


def test_the_module_is_as_the_generator_writes_it() -> None:
    """By its own content; that this is the image's is tested in the image."""
    described = {
        "messages": {name: words.split() for name, words in pipeline_schema.MESSAGES.items()},
        "enums": {name: words.split() for name, words in pipeline_schema.ENUMS.items()},
        "extractors": {kind: names.split() for kind, names in pipeline_schema.EXTRACTORS.items()},
    }
    text = generate_pipeline.generate(described)
    assert text == generate_pipeline.OUTPUT.read_text("utf-8")


def test_a_package_is_described(tmp_path: Path) -> None:
    proto = pytest.importorskip("google.protobuf.descriptor_pb2")
    file = proto.FileDescriptorProto(name="x.proto", package="object_detection.protos")
    root = file.message_type.add(name="TrainEvalPipelineConfig")
    root.field.add(name="model", number=1, type=11, label=1, type_name=_full("DetectionModel"))
    model = file.message_type.add(name="DetectionModel")
    model.oneof_decl.add(name="model")
    for number, name in enumerate(("ssd", "center_net"), 1):
        model.field.add(
            name=name, number=number, type=11, label=1, oneof_index=0, type_name=_full("Ssd")
        )
    ssd = file.message_type.add(name="Ssd")
    score = ssd.enum_type.add(name="Score")
    for number, name in enumerate(ENUMS["Ssd.Score"]):
        score.value.add(name=name, number=number)
    ssd.field.add(name="num_classes", number=1, type=5, label=1)
    ssd.field.add(name="score_converter", number=2, type=14, label=1, type_name=_full("Ssd.Score"))
    ssd.field.add(name="scales", number=3, type=2, label=3)
    file.message_type.add(name="NotReached")
    file.enum_type.add(name="NotUsed")
    (tmp_path / "protos").mkdir()
    text = (
        f"DESCRIPTOR = FileDescriptor(\n  name='x', serialized_pb={file.SerializeToString()!r})\n"
    )
    (tmp_path / "protos" / "x_pb2.py").write_text(text)
    (tmp_path / "builders").mkdir()
    (tmp_path / "builders" / "model_builder.py").write_text(
        "if two:\n  SSD_KERAS_FEATURE_EXTRACTOR_CLASS_MAP = {'b_keras': b, 'a_keras': a}\n"
        "else:\n  SSD_FEATURE_EXTRACTOR_CLASS_MAP = {'a': a}\n  CENTER_NET = {}\n"
    )
    assert describe_pipeline.describe(tmp_path) == {
        "messages": MESSAGES,
        "enums": ENUMS,
        "extractors": {
            "ssd": ["a_keras", "b_keras"], "center_net": [], "ssd of TensorFlow 1": ["a"],
        },
    }  # fmt: skip


def _full(name: str) -> str:
    return f".object_detection.protos.{name}"
