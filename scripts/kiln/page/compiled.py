"""Describe the files that were compiled for an NPU, from an untrusted record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kiln.page.formats import megabytes
from kiln.page.records import Record, number

#: Memories of a chip, as the record and as people call them.
_MEMORIES = {
    "sram": "SRAM",
    "dram": "DRAM",
    "on_chip_flash": "flash on the chip",
    "off_chip_flash": "flash",
}
_LARGEST = 1e12  # cycles, bytes
_MOST = 20  # files and operators: a recipe's targets and a detector's kinds are fewer


@dataclass(frozen=True)
class CompiledFile:
    """One compiled file in words; unknown text is empty.

    Attributes:
        made_of: the variant that was compiled.
        mapped: how many operators the NPU runs.
        left: those on the processor beside it.
        speed: inferences a second, and cycles, by the compiler's own model.
        memory: what it needs of each kind.
        chip: the configuration that it was compiled for.
        compiler: name and version.
    """

    name: str
    made_of: str
    mapped: str
    left: str
    speed: str
    memory: str
    chip: str
    compiler: str


def compiled_files(conversion: Record) -> Iterator[CompiledFile]:
    """Describe each compiled file in ``conversion.json``; at most 20."""
    for name, facts in list(conversion.records("compiled"))[:_MOST]:
        npu, cpu = (_sane(facts.raw("operators", kind)) for kind in ("npu", "cpu"))
        mapped = ""
        if npu is not None and cpu is not None and npu + cpu > 0:
            mapped = f"{npu:,.0f} of {npu + cpu:,.0f} ({100 * npu / (npu + cpu):.1f} %)"
        left = [
            f"{kind} {count:,.0f}"
            for kind, raw in list(facts.record("left").fields().items())[:_MOST]
            if (count := _sane(raw)) is not None
        ]
        rate, cycles = (
            _sane(facts.raw("estimate", key)) for key in ("inferences_per_second", "cycles")
        )
        speed = [] if rate is None else [f"{rate:,.1f} a second"]
        speed += [] if cycles is None else [f"{cycles / 1e6:,.2f} million cycles"]
        memory = [
            f"{megabytes(int(size))} {words}"
            for key, words in _MEMORIES.items()
            if (size := _sane(facts.raw("estimate", key)))
        ]
        made_of = facts.text("from")
        if made_of and facts.raw("integer_form") is True:
            made_of += ", without layers in float"
        chip = [facts.text("system_config"), facts.text("memory_mode")]
        version = facts.text("compiler", "version")
        yield CompiledFile(
            name=name,
            made_of=made_of,
            mapped=mapped,
            left=", ".join(left),
            speed=", ".join(speed),
            memory=", ".join(memory),
            chip=", ".join(filter(None, chip)),
            compiler=f"{facts.text('compiler', 'name')} {version}".strip(),
        )


def _sane(value: Any) -> float | None:
    """Return a number that a figure here can be, or None."""
    found = number(value)
    return found if found is not None and 0 <= found < _LARGEST else None
