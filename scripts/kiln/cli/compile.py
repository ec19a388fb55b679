"""``kiln compile``: compile a finished ``.tflite`` file for an NPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kiln.cli.common import PATH, NumberRange, json_option, reporter_for

if TYPE_CHECKING:
    from kiln.building.compiled_file import Compiled


@click.command("compile", short_help="Compile a .tflite file for an NPU.")
@click.argument("file", type=PATH)
@click.option("--target", metavar="NAME", required=True, help="The NPU, such as ethos-u65-256.")
@click.option(
    "--with",
    "compiler",
    metavar="IMAGE|PROGRAM",
    help="Another compiler: an image with one, a program, or a folder with `compile` in it [Vela].",
)
@click.option("--system-config", metavar="NAME", help="Vela's: clock and memories of the chip.")
@click.option("--memory-mode", metavar="NAME", help="Vela's: which memory holds what.")
@click.option(
    "--least-mapped",
    type=NumberRange(0, 1),
    metavar="S",
    help="Least share of operators on the NPU [0.9].",
)
@click.option(
    "--timeout",
    type=NumberRange(1, 86400),
    default=600,
    metavar="S",
    help="Seconds that the compiler may take [600].",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE", help="The file to write.")
@json_option
def compile_command(
    file: Path,
    target: str,
    compiler: str | None,
    system_config: str | None,
    memory_mode: str | None,
    least_mapped: float | None,
    timeout: float,
    force: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Compile FILE, an int8 .tflite, for an NPU; its labels and metadata are kept.

    By default with Arm's Vela, for an Ethos-U. The compiler runs in a container without a network.
    """
    from kiln.building.compiled_file import Wanted, compile_file

    wanted = Wanted(file, target, compiler, system_config, memory_mode, least_mapped, timeout)
    with reporter_for(as_json) as reporter:
        done = compile_file(wanted, output, reporter.event, force=force)
        reporter.event("compiled", path=str(done.path), **done.record)
    if not as_json:
        print(_shown(done))


def _shown(done: Compiled) -> str:
    record = done.record
    compiler, file = record["compiler"], record["file"]
    rows = {
        "sha256": file["sha256"],
        "compiler": f"{compiler['name']} {compiler.get('version', '')}".strip(),
        "target": record["target"],
    }
    if "operators" in record:
        npu, cpu = record["operators"]["npu"], record["operators"]["cpu"]
        rate, cycles = (record["estimate"][key] for key in ("inferences_per_second", "cycles"))
        rows["on the NPU"] = f"{npu} of {npu + cpu} operators"
        rows["estimate"] = f"{rate:,.1f} inferences a second, {cycles:,} cycles (Vela's model)"
    else:
        rows["calls"] = ", ".join(f"{name} {count}" for name, count in record["calls"].items())
    left = ", ".join(f"{name} {count}" for name, count in record["left"].items())
    rows["left to the CPU"] = left or "nothing"
    rows["put back"] = ", ".join(record["restored"]) or "nothing: it was all there"
    rows["record"] = str(done.record_path)
    rows["signed"] = str(done.provenance_path)
    lines = [f"  {key:<17}{value}" for key, value in rows.items()]
    return "\n".join([f"{done.path}, {file['size']:,} bytes", *lines])
