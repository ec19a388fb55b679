"""What a training leaves in its folder."""

from __future__ import annotations

from pathlib import Path

CONFIG = (
    "model { ssd { num_classes: 2 feature_extractor { type: 'ssd_mobilenet_v2_keras' } "
    "box_coder { faster_rcnn_box_coder { } } image_resizer { fixed_shape_resizer { } } } }\n"
)
LABELS = "item { id: 1 name: 'cat' }\nitem { id: 2 name: 'dog' }\n"
STATE = 'model_checkpoint_path: "{}"\nall_model_checkpoint_paths: "/gone/ckpt-1"\n'


def save(folder: Path, name: str, shards: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.index").write_text(f"index of {name}")
    for number in range(shards):
        (folder / f"{name}.data-{number:05}-of-{shards:05}").write_text(f"{number} of {name}")
