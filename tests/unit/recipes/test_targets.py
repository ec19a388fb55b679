"""[[compile]] in a recipe, and the NPUs that it can name."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_texts import GOOD, load, refused

from kiln.project.closures import StageCode
from kiln.recipes import targets
from kiln.recipes.contents import Contents
from kiln.recipes.plan import Plan, make_plan

SHA, DEVICE = "ab" * 32, f"sha256:{'d' * 64}"


def compiling(*tables: str) -> str:
    return GOOD + "".join(f"[[compile]]\n{table}\n" for table in tables)


def test_targets_are_velas() -> None:
    assert targets.names() == (
        "ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256",
        "ethos-u65-256", "ethos-u65-512",
        "ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048",
    )  # fmt: skip
    for name in targets.names():
        found = targets.target(name)
        assert targets.target(name, found.system_config, found.memory_mode) == found


def test_a_configuration_without_the_default_mode_gets_its_own() -> None:
    found = targets.target("ethos-u85-128", "Ethos_U85_SYS_Flash_Low")
    assert found.memory_mode == "Shared_Sram"


def test_the_plan_compiles_in_the_other_image(tmp_path: Path) -> None:
    recipe = load(tmp_path, compiling('target = "ethos-u65-256"\nleast_mapped = 0.5'))
    contents = Contents(
        checkpoint={"checkpoint/ckpt-0.index": SHA, "pipeline.config": SHA},
        label_map=SHA,
        images={"a.jpg": SHA},
    )
    odapi, code = f"sha256:{'a' * 64}", StageCode("c" * 64)
    plan = make_plan(recipe, contents, ["int8"], image=odapi, code=code, device=DEVICE)
    step = plan.steps[-1]
    assert plan.compiled == {"int8_ethos-u65-256": step.id}
    assert step.image == DEVICE
    assert step.params == {
        "target": "ethos-u65-256",
        "system_config": "Ethos_U65_Client_Server",
        "memory_mode": "Dedicated_Sram_384KB",
        "least_mapped": 0.5,
    }
    assert step.upstream() == {"annotate-int8"}
    assert step.id in plan.published()
    assert plan.image_of(step) == "device"
    assert {other.image for other in plan.steps[:-1]} == {""}
    # The image and the target are in the key; other steps' keys do not change by it.
    other = make_plan(
        recipe, contents, ["int8"], image=odapi, code=code, device=f"sha256:{'e' * 64}"
    )
    assert other.steps[-1].key != step.key
    plain = make_plan(load(tmp_path, GOOD), contents, ["int8"], image=odapi, code=code)
    assert [item.key for item in plain.steps] == [item.key for item in plan.steps[:-1]]
    assert plan.without(plan.compiled).steps == plan.steps[:-1]


def test_layers_in_float_are_not_compiled(tmp_path: Path) -> None:
    """The file is converted once more, as if the recipe named no layers, for all targets."""
    contents = Contents(
        checkpoint={"checkpoint/ckpt-0.index": SHA},
        label_map=SHA,
        images={"a.jpg": SHA},
        check_images={"a.jpg": SHA},
    )
    tables = [f'target = "ethos-u65-{macs}"' for macs in (256, 512)]
    text = compiling(*tables, 'target = "ethos-u55-32"\nkeep_float_layers = true')
    odapi, code = f"sha256:{'a' * 64}", StageCode("c" * 64)

    def planned(text: str) -> Plan:
        recipe = load(tmp_path, text)
        return make_plan(recipe, contents, ["int8"], image=odapi, code=code, device=DEVICE)

    without = planned(text)
    plan = planned(f'{text}[int8]\nfloat_layers = ["a/b"]\n')
    first, second, kept = plan.compiled
    assert plan.unpublished == {first: "int8-integer", second: "int8-integer"}
    above = {name: plan.step(step).upstream() for name, step in plan.compiled.items()}
    assert above == {
        first: {"annotate-int8-integer"}, second: {"annotate-int8-integer"}, kept: {"annotate-int8"}
    }  # fmt: skip
    assert {plan.origin_of(name) for name in plan.compiled} == {"int8"}
    for step in ("convert", "annotate", "check", "task-library", "litert", "mediapipe"):
        form = plan.step(f"{step}-int8-integer")
        assert form.key == without.step(f"{step}-int8").key != plan.step(f"{step}-int8").key
        assert form.stage in ("convert", "annotate") or form.id in plan.reports
    assert plan.step(plan.compiled[first]).key == without.step(without.compiled[first]).key
    one = plan.without([first])
    assert "check-int8-integer" in one.ids() and "check-int8-integer" in one.reports
    none = one.without([second])
    assert (none.unpublished, list(none.compiled)) == ({}, [kept])
    assert not [step for step in (*none.ids(), *none.reports) if step.endswith("-integer")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (compiling('target = "ethos-u65-255"'), "did you mean 'ethos-u65-256'"),
        (compiling('target = "edgetpu"'), "known: ethos-u55-32, ethos-u55-64"),
        (compiling('target = ""'), "compile[0].target: must not be empty"),
        (compiling(""), "compile[0].target: missing"),
        (
            compiling('target = "ethos-u55-32"\nsystem_config = "Ethos_U65_High_End"'),
            "no system_config of ethos-u55-32 'Ethos_U65_High_End'",
        ),
        (
            compiling('target = "ethos-u55-32"\nmemory_mode = "Dedicated_Sram"'),
            "no memory_mode of Ethos_U55_High_End_Embedded 'Dedicated_Sram'",
        ),
        (compiling('target = "ethos-u55-32"\nleast_mapped = 1.5'), "compile[0].least_mapped"),
        (
            compiling('target = "ethos-u55-32"\nvariant = "dynamic"'),
            "compile[0].variant: 'dynamic' is not known; known: int8",
        ),
        (compiling('target = "ethos-u55-32"\ntargets = 1'), "did you mean 'target'?"),
        (compiling('target = "ethos-u55-32"', 'target = "ethos-u55-32"'), "is there twice"),
        (
            compiling('target = "ethos-u55-32"').replace(', "int8"]', "]"),
            "compile: variant 'int8' is not among the variants",
        ),
    ],
)
def test_contradictions_are_named(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(tmp_path, text)
