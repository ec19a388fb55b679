"""A program in place of Arm's Vela: it takes the same options, and does what a test tells it to."""

from __future__ import annotations

from pathlib import Path

VERSION = "0.0.1"

_PROGRAM = """
import csv, os, pathlib, sys, time
model, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
out = pathlib.Path(options["--output-dir"])
here = pathlib.Path(__file__).parent
def answer(npu=12, cpu=1, row={}):
    (out / "model_vela.tflite").write_bytes((here / "answer.tflite").read_bytes())
    figures = {
        "cycles_total": "2000", "core_clock": "1000000.0", "inferences_per_second": "500.0",
        "nn_macs": "77", "sram_memory_used": "1.5", "dram_memory_used": "0.0",
        "on_chip_flash_memory_used": "0.0", "off_chip_flash_memory_used": "2.0", **row,
    }
    name = f"model_summary_{options['--system-config']}.csv"
    with (out / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, figures)
        writer.writeheader()
        writer.writerow(figures)
    print("Warning (supported operators) operator: CUSTOM, ofm: 'x'")
    print("Reason: Unsupported opType (x)")
    print()
    print(f"CPU operators = {cpu} (7.7%)")
    print(f"NPU operators = {npu} (92.3%)")
"""


def make_vela(folder: Path, answer: bytes, does: str = "answer()") -> Path:
    """Make a folder for ``PYTHONPATH`` with this program.

    Args:
        answer: the file that it writes.
        does: a line of Python, which may call ``answer(npu, cpu, row)``.
    """
    package = folder / "ethosu" / "vela"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(f"{_PROGRAM}\n{does}\n", "utf-8")
    (package / "answer.tflite").write_bytes(answer)
    about = folder / f"ethos_u_vela-{VERSION}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: ethos-u-vela\nVersion: {VERSION}\n", "utf-8")
    return folder
