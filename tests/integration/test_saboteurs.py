"""Genuine artefacts pass every gate; each mistake that people make is caught, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import SAMPLE, SAMPLES, VARIANTS, Stages, Wanted

CENTERNET, LITE = "centernet_mobilenet_v2_fpn_shapes", "efficientdet_lite0_shapes"

#: Mistake -> (gate, code of the problem, words in what it says).
CAUGHT = {
    "zero-one": ("normalization", "normalization", "0 to 1"),
    "raw-pixels": ("normalization", "normalization", "raw pixels"),
    "minus-one-one": ("normalization", "normalization", "-1 to 1"),
    "pbtxt": ("labels", "labels-pbtxt", "item"),
    "labels-off-by-one": ("labels", "labels-shifted", "off by one"),
    "labels-shuffled": ("labels", "labels-shuffled", "another order"),
    "labels-without-gaps": ("labels", "labels-gaps", "leaves out"),
    "boxes-xy": ("structure", "boxes-swapped", "x before y"),
    "classes-scores": ("structure", "roles-swapped", "classes and scores"),
    "fed-otherwise": ("feeding", "feeding", "trained on"),
    "half-restored": ("parity", "weights", "restored in part"),
    "no-metadata": ("structure", "no-metadata", "annotate"),
    "cut-short": ("structure", "unreadable", "cut short"),
}

#: What else a mistake shows in; a gate outside of these must not fail.
ALSO = {
    "zero-one": {"parity"},
    "raw-pixels": {"parity"},
    "minus-one-one": {"parity"},
    "labels-off-by-one": set(),
    "boxes-xy": {"parity"},
    "classes-scores": {"parity", "labels", "trained", "normalization"},
    "fed-otherwise": {"parity"},
    "half-restored": {"trained"},
    "no-metadata": {"runtime-tensorflow"},
    "cut-short": {"runtime-tensorflow"},
}

#: The mistakes that the behaviour gives away, too, and what the diagnosis calls them.
DIAGNOSED = {
    "zero-one": "normalization",
    "boxes-xy": "boxes-swapped",
    "classes-scores": "roles-swapped",
    "fed-otherwise": "feeding",
    "half-restored": "weights",
}

#: By sample: photographs enough for every gate, one at least of other proportions than the input.
FEW = {
    SAMPLE: ("astronaut.png", "chelsea.png", "coffee.png"),
    CENTERNET: ("scene_00.png", "scene_01.png", "scene_02.png"),
    LITE: ("scene_00.png", "scene_01.png", "scene_02.png"),
}

#: By sample: what does not apply. Raw pixels are what CenterNet's graph takes; the other two
#: samples' own normalisation or label map has nothing to get wrong there.
NOT_FOR = {
    SAMPLE: {"minus-one-one", "labels-without-gaps"},
    CENTERNET: {"raw-pixels"},
    LITE: set(),
}


#: Mistakes that show without running the file: one sample is enough.
IN_THE_FILE = {"pbtxt", "labels-off-by-one", "labels-shuffled", "no-metadata", "cut-short"}


def applies(name: str, kind: str) -> bool:
    """Whether the mistake is made in that sample."""
    return kind not in NOT_FOR[name] and (name == SAMPLE or kind not in IN_THE_FILE)


@dataclass(frozen=True)
class Checked:
    """What the gates say of one file."""

    gates: dict[str, dict[str, Any]]
    facts: dict[str, Any]

    def failed(self) -> set[str]:
        return {name for name, gate in self.gates.items() if gate["status"] == "failed"}

    def problems(self, gate: str) -> dict[str, dict[str, str]]:
        return {item["code"]: item for item in self.gates[gate]["problems"]}


@pytest.fixture(scope="module")
def checked(
    samples: dict[str, Any],
    stages_for: Callable[[str], Stages],
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, str], Checked]:
    """By sample and mistake: what the gates find in the float32 artefact with the mistake."""
    found = {}
    for name in SAMPLES:
        sample, stages = samples[name], stages_for(name)
        record = sample.record["stages"]
        facts = record["export"]["facts"]
        architecture = {"center_net": "centernet"}.get(facts["architecture"], facts["architecture"])
        folder = project / "models" / "samples"
        images = tmp_path_factory.mktemp("few")
        for image in FEW[name]:
            shutil.copy(folder / ("images" if name == SAMPLE else "shapes") / image, images)
        label_map = folder / name / "label_map.pbtxt"
        model = sample.output("checkpoint", "model/", sample.kiln.home / f"model-{name}")
        stage, params = "reference", {"crops": True}
        if name == LITE:
            stage = "modelmaker_reference"
            params["spec"] = "efficientdet_lite0"
        wanted = [Wanted("source", stage, params, {"checkpoint": model, "images": images})]
        given = {
            "architecture": architecture,
            "num_classes": facts["num_classes"],
            "normalization": facts["normalization"],
        }
        annotated = {**given, "feeding": facts["feeding"]}
        kinds = ["genuine", *(kind for kind in CAUGHT if applies(name, kind))]
        for kind in kinds:
            inputs = {"model": sample.artefact("float32"), "label_map": label_map}
            wanted.append(Wanted(kind, "sabotage", {**annotated, "kind": kind}, inputs))
            wanted.append(
                Wanted(
                    f"check-{kind}",
                    "check",
                    {
                        **given,
                        "variant": "float32",
                        "input": facts["input"],
                        "weights": record["reference"]["facts"]["weights"],
                    },
                    {
                        "model": (kind, "model.tflite"),
                        "label_map": label_map,
                        "images": images,
                        "source": ("source", "detections.json"),
                    },
                )
            )
        ran = stages.run(*wanted)
        for kind in kinds:
            result = ran[f"check-{kind}"]
            gates = stages.json(result, "check.json")["gates"]
            found[name, kind] = Checked({gate["gate"]: gate for gate in gates}, result.facts)
    return found


@pytest.mark.parametrize("name", SAMPLES)
def test_a_genuine_one_passes(checked: dict[tuple[str, str], Checked], name: str) -> None:
    genuine = checked[name, "genuine"]
    assert set(genuine.gates) == {
        "structure", "runtime-tensorflow", "parity", "normalization", "feeding", "labels",
        "trained",
    }  # fmt: skip
    assert {gate["status"] for gate in genuine.gates.values()} == {"passed"}
    assert genuine.gates["parity"]["figures"]["pairs"] >= 5


CASES = [(name, kind) for name in SAMPLES for kind in CAUGHT if applies(name, kind)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_mistake_is_caught_by_name(
    checked: dict[tuple[str, str], Checked], name: str, kind: str
) -> None:
    found = checked[name, kind]
    gate, code, words = CAUGHT[kind]
    problem = found.problems(gate)[code]
    assert words in " ".join(problem.values()), problem
    assert all(problem[part] for part in ("expected", "seen", "cause")), problem
    assert found.failed() <= {gate, *ALSO.get(kind, ())}, found.gates


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[1] in DIAGNOSED])
def test_what_it_does_gives_it_away_too(
    checked: dict[tuple[str, str], Checked], name: str, kind: str
) -> None:
    """Without a look at the file: its answers differ, and the diagnosis says how they would not."""
    assert set(checked[name, kind].problems("parity")) == {DIAGNOSED[kind]}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_declared_normalisation_is_the_best(
    checked: dict[tuple[str, str], Checked], name: str
) -> None:
    figures = checked[name, "genuine"].gates["normalization"]["figures"]
    best, second = figures["tried"][:2]
    assert {key: best[key] for key in ("mean", "std")} == figures["declared"]
    assert best["agreement"] > 0.999
    assert second["agreement"] < best["agreement"] - 0.001
    assert len(figures["tried"]) == 5


# --- as builds do it ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_published_with_their_checks(samples: dict[str, Any], name: str) -> None:

    folder = samples[name].folder
    checks = json.loads((folder / "checks.json").read_text("utf-8"))
    assert set(checks["variants"]) == set(VARIANTS)
    for variant, entry in checks["variants"].items():
        assert entry["passed"], (variant, entry["gates"])
        states = {gate["gate"]: gate["status"] for gate in entry["gates"]}
        assert states["parity"] == states["structure"] == states["labels"] == "passed"
        assert entry["detections"].keys() <= checks["images"].keys()
    assert checks["source"]["detections"].keys() == checks["images"].keys()
    for entry in checks["images"].values():
        assert (folder / entry["preview"]).read_bytes()[:2] == b"\xff\xd8"  # JPEG
