"""``make picture``: draw docs/detections.png from the sample's artefacts in dist/.

Every artefact runs by its own metadata alone (docker/stages/detect/detector.py), as on a device.

    usage: python -m samples.picture [--dist DIST] [--out PNG]
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from kiln.core.files import write_atomic
from shared import program
from stages.detect import detector
from stages.files import drawing, pixels
from stages.protocol.failures import StageError

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = "ssd_mobilenet_v2_oidv4"
VARIANTS = ("float32", "int8")
IMAGES = ("astronaut.png", "chelsea.png", "coffee.png")

#: Detections with a lower score are not drawn; an application would ask for about as much.
SCORE = 0.4

HEIGHT, GAP, HEAD = 264, 8, 30  # of a photo, between photos, of a row's title; in pixels
COLOURS = 255  # a palette keeps the PNG small enough for a README


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "detections.png")
    given = parser.parse_args()
    folder = given.dist / SAMPLE
    rows = []
    for variant in VARIANTS:
        path = folder / f"{SAMPLE}_{variant}.tflite"
        if not path.is_file():
            sys.exit(f"picture: there is no {path}; run `make sample` first")
        try:
            rows.append(row(path, variant))
        except StageError as error:
            sys.exit(f"picture: {path.name}: {error.message}")
    write_atomic(given.out, png(stack(rows)))
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")


def row(path: Path, variant: str) -> Any:
    """One artefact's detections on every image, side by side, below its name and size."""
    model = detector.load(path)
    photos = []
    for name in IMAGES:
        source = ROOT / "models" / "samples" / "images" / name
        found = model.detect(pixels.load_rgb(source), SCORE)
        for item in found:
            print(f"{variant:8} {name:14} {item['label']:14} {item['score']:.3f}")
        with Image.open(source) as photo:
            width = round(photo.width * HEIGHT / photo.height)
            small = photo.convert("RGB").resize((width, HEIGHT), Image.Resampling.LANCZOS)
        photos.append(drawing.draw(small, found))
    canvas = Image.new("RGB", (sum(p.width for p in photos) + GAP * (len(photos) - 1),
                               HEAD + HEIGHT), "white")  # fmt: skip
    title = f"{path.name}  ({path.stat().st_size / 1e6:.1f} MB)"
    font = ImageFont.load_default(16)
    ImageDraw.Draw(canvas).text((0, HEAD // 2), title, "black", font, anchor="lm")
    x = 0
    for photo in photos:
        canvas.paste(photo, (x, HEAD))
        x += photo.width + GAP
    return canvas


def stack(rows: list[Any]) -> Any:
    """Rows of the same width below each other."""
    canvas = Image.new("RGB", (rows[0].width, sum(item.height + GAP for item in rows)), "white")
    y = 0
    for item in rows:
        canvas.paste(item, (0, y))
        y += item.height + GAP
    return canvas


def png(image: Any) -> bytes:
    """The image as a PNG with a palette."""
    palette = image.quantize(COLOURS, Image.Quantize.MEDIANCUT, kmeans=4)
    stream = io.BytesIO()
    image.quantize(COLOURS, palette=palette).save(stream, "PNG", optimize=True)
    return stream.getvalue()


if __name__ == "__main__":
    program.run_function(main, "picture")
