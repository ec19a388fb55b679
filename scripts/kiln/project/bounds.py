"""Bound the size of untrusted files, by kind, with the largest real size beside each bound.

A larger file is refused by its size, before anything of it is read. Parsed JSON takes some thirty
times the memory of its text; the bounds of parsed files are small enough for that.
"""

from __future__ import annotations

from typing import NamedTuple

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


class Bound(NamedTuple):
    """Most bytes to read of a kind of file, and the size of the largest real one."""

    most: int
    largest: int


#: The real ones are from the three samples' release, unless noted.
KEY = Bound(16 * _KIB, 268)  # a P-521 key's public half; private ones have twice that
STATEMENT = Bound(4 * _MIB, 20_100)  # any sigstore bundle: an int8 file's provenance
MODEL_SIGNATURE = Bound(4 * _MIB, 7_227)
SUMS = Bound(4 * _MIB, 10_028)
RECORD = Bound(4 * _MIB, 200_000)  # checks.json of 40 images; conversion.json has 27 kB
DETECTIONS = Bound(64 * _MIB, 5_000_000)  # 250 images with 100 detections each
MEASUREMENTS = Bound(_MIB, 30_000)  # latency.json, accuracy.json
SBOM = Bound(4 * _MIB, 99_281)
SOURCE = Bound(32 * _MIB, 3_409_920)
PREVIEW = Bound(2_000_000, 64_267)  # larger previews make a page too large for phones
LABELS = Bound(4 * _MIB, 20_000)  # the 601 classes of Open Images V4
FEEDING = Bound(4 * _KIB, 130)
PAGE = Bound(64 * _MIB, 756_089)
RECIPE = Bound(256 * _KIB, 2_268)
TRUST_FILE = Bound(256 * _KIB, 1_200)  # the one in docs/trust.md
TRUSTED_ROOT = Bound(4 * _MIB, 8_249)  # sigstore's own
BUNDLE_INDEX = Bound(8 * _MIB, 640_000)  # of all samples and images
LOCK = Bound(256 * _KIB, 2_905)  # docker/images.lock
CONTENTS = Bound(4 * _MIB, 352_892)  # docker/odapi/contents.xz
ARTEFACT = Bound(_GIB, 24_206_160)  # SSD MobileNet v2 in float32
ANNOTATIONS = Bound(512 * _MIB, 470_000_000)  # COCO's instances_train2017.json
