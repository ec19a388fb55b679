"""Artefacts outside the images: the toy detectors in real LiteRT, and every way of going wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runtime_pythons
from int8_toy import int8_toy
from int16_toy import int16_toy
from PIL import Image
from places import FIXTURES
from tflite_files import fixture, with_own_threshold

from kiln.checks import runtimes, worker_process
from kiln.core.errors import UsageError
from stages.detect import detector
from stages.files import pixels
from stages.tflite import packed_files

pytest.importorskip("ai_edge_litert")

TOYS = ("toy_ssd_annotated", "toy_centernet_annotated", "toy_ssd_uint8_annotated")
RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
THRESHOLD = 0.5


def picture(*quarters: tuple[int, int, int]) -> np.ndarray:
    """Of the toys' input size."""
    image = np.zeros((8, 8, 3), np.uint8)
    for index, colour in enumerate(quarters):
        row, column = divmod(index, 2)
        image[row * 4 :, column * 4 :][:4, :4] = colour
    return image


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name, quarters in (("a.png", (GREY, RED, BLUE, GREEN)), ("b.png", (BLUE, GREY, GREY, RED))):
        found[name] = tmp_path / name
        Image.fromarray(picture(*quarters)).save(found[name])
    return found


def expected(model: Path, images: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """What this process's interpreter finds, from half the threshold on."""
    loaded = detector.load(model)
    return {
        name: loaded.detect(pixels.load_rgb(path), THRESHOLD / 2) for name, path in images.items()
    }


def toys(*names: str) -> dict[str, Path]:
    return {name: FIXTURES / f"{name}.tflite" for name in names}


Check = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def check(images: dict[str, Path]) -> Check:
    def run(models: dict[str, Path], wanted: Any = None, **more: Any) -> dict[str, Any]:
        wanted = wanted or {name: expected(path, images) for name, path in models.items()}
        found = runtimes.check_outside(models, images, wanted, THRESHOLD, **more)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        for gates in found.values():
            assert [gate["gate"] for gate in gates] == ["runtime-litert", "runtime-mediapipe"]
            for gate in gates:
                assert set(gate) == {"gate", "status", "summary", "problems", "figures"}
                assert (gate["status"] == "failed") == bool(gate["problems"])
        return {name: {gate["gate"]: gate for gate in gates} for name, gates in found.items()}

    return run


def test_all_toys_in_litert_and_what_to_do_for_mediapipe(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_pythons.use(monkeypatch)
    for name, gates in check(toys(*TOYS)).items():
        gate = gates["runtime-litert"]
        assert gate["status"] == "passed", (name, gate)
        figures = gate["figures"]
        assert figures["runtime"] == "ai-edge-litert" and figures["version"][0].isdigit()
        assert (figures["pairs"], figures["missed"], figures["extra"]) == (5, 0, 0)
        assert (figures["min_iou"], figures["max_score_difference"]) == (1.0, 0.0)
        assert figures["agreement"] == 1.0
        gate = gates["runtime-mediapipe"]
        assert gate["status"] == "skipped"
        assert gate["summary"] == "mediapipe is not installed (`make runtimes` installs it)"


def test_an_int8_input_is_not_for_mediapipe(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_pythons.use(monkeypatch)
    path = tmp_path / "int8.tflite"
    path.write_bytes(int8_toy())
    gates = check({"int8": path})["int8"]
    assert gates["runtime-litert"]["status"] == "passed"
    assert gates["runtime-litert"]["figures"]["pairs"] == 5
    assert gates["runtime-mediapipe"]["status"] == "skipped"
    assert "microcontrollers" in gates["runtime-mediapipe"]["summary"]


def test_a_python_without_any_runtime(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # -S: no site-packages.
    script = f'exec "{runtime_pythons.sys.executable}" -S "$@"'
    runtime_pythons.use(monkeypatch, runtime_pythons.script(tmp_path, script))
    gates = check(toys("toy_ssd_annotated"))["toy_ssd_annotated"]
    assert {gate["status"] for gate in gates.values()} == {"skipped"}
    assert "ai-edge-litert is not installed" in gates["runtime-litert"]["summary"]


def test_what_the_model_s_own_threshold_may_have_cut_off_is_not_missed(
    check: Check, images: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_pythons.use(monkeypatch)
    strict = tmp_path / "strict.tflite"
    strict.write_bytes(with_own_threshold(fixture("toy_ssd_annotated"), 0.6))
    assert runtimes.own_threshold_of(strict) == pytest.approx(0.6)
    for score, status in ((0.605, "passed"), (0.8, "failed")):
        found = expected(strict, images)
        found["a.png"].append({**found["a.png"][0], "box": [0.0, 0.0, 0.5, 0.5], "score": score})
        gate = check({"strict": strict}, {"strict": found})["strict"]["runtime-litert"]
        assert gate["status"] == status, gate
        assert gate["figures"]["pairs"] == 5
    assert runtimes.own_threshold_of(FIXTURES / "toy_centernet.tflite") == 0
    assert runtimes.own_threshold_of(tmp_path / "absent.tflite") == 0


def test_raw_outputs_are_decoded_as_the_file_says(
    check: Check, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_pythons.use(monkeypatch)
    models = toys("toy_raw_annotated")
    path = models["toy_raw_annotated"]
    assert (runtimes.room_of(path), runtimes.own_threshold_of(path)) == (4, 0)
    litert, mediapipe = check(models, {"toy_raw_annotated": expected(path, images)})[
        "toy_raw_annotated"
    ].values()
    assert (litert["status"], litert["figures"]["pairs"]) == ("passed", 5)
    assert mediapipe["status"] == "skipped"
    assert "not applicable" in mediapipe["summary"]


def test_what_is_missed_and_what_is_extra_is_told(
    check: Check, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_pythons.use(monkeypatch)
    models = toys("toy_ssd_annotated")
    right = expected(models["toy_ssd_annotated"], images)
    blue = next(item for item in right["a.png"] if item["label"] == "blue")
    blue["class_id"], blue["label"] = 2, "green"
    gate = check(models, {"toy_ssd_annotated": right})["toy_ssd_annotated"]["runtime-litert"]
    assert gate["status"] == "failed"
    assert (gate["figures"]["pairs"], gate["figures"]["missed"]) == (4, 1)
    assert gate["figures"]["extra"] == 1
    missed, extra = gate["problems"]
    assert (missed["code"], extra["code"]) == ("missed", "extra")
    assert "green 0.98" in missed["seen"] and "a.png" in missed["seen"]
    assert "blue 0.98" in extra["seen"]
    assert missed["seen"] in gate["summary"]


@pytest.mark.parametrize(("code", "change"), [("score", "score"), ("boxes", "box")])
def test_other_scores_and_boxes(
    check: Check,
    images: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    change: str,
) -> None:
    runtime_pythons.use(monkeypatch)
    models = toys("toy_ssd_annotated")
    wanted = expected(models["toy_ssd_annotated"], images)
    item = wanted["b.png"][0]
    item[change] = item["score"] - 0.05 if change == "score" else [v * 0.96 for v in item["box"]]
    gate = check(models, {"toy_ssd_annotated": wanted})["toy_ssd_annotated"]["runtime-litert"]
    assert gate["status"] == "failed"
    assert {problem["code"] for problem in gate["problems"]} == {code}
    assert gate["figures"]["pairs"] == 5


def test_a_model_that_finds_nothing_says_so(
    check: Check, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_pythons.use(monkeypatch)
    for path in images.values():
        Image.fromarray(picture(GREY, GREY, GREY, GREY)).save(path)
    gate = check(toys("toy_ssd_annotated"))["toy_ssd_annotated"]["runtime-litert"]
    assert gate["status"] == "passed" and "nothing to find in 2 images" in gate["summary"]
    assert gate["figures"]["pairs"] == 0 and gate["figures"]["min_iou"] is None


def test_damaged_files_cost_nobody_else_anything(
    check: Check, images: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_pythons.use(monkeypatch)
    data = (FIXTURES / "toy_ssd_annotated.tflite").read_bytes()
    models = {"cut": tmp_path / "cut.tflite", **toys("toy_ssd", "toy_ssd_annotated")}
    models["cut"].write_bytes(data[: len(data) // 2])
    wanted = expected(models["toy_ssd_annotated"], images)
    gates = check(models, dict.fromkeys(models, wanted))
    (problem,) = gates["cut"]["runtime-litert"]["problems"]
    assert problem["code"] == "refused" and "truncated or damaged" in problem["seen"]
    assert "it carries no metadata" in gates["toy_ssd"]["runtime-litert"]["summary"]
    assert gates["toy_ssd_annotated"]["runtime-litert"]["status"] == "passed"


def test_an_unreadable_image_is_named(
    check: Check, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_pythons.use(monkeypatch)
    models = toys("toy_ssd_annotated")
    wanted = {"toy_ssd_annotated": expected(models["toy_ssd_annotated"], images)}
    images["a.png"].write_bytes(b"no picture")
    gate = check(models, wanted)["toy_ssd_annotated"]["runtime-litert"]
    assert gate["problems"][0]["code"] == "failed" and "a.png" in gate["summary"]


def test_images_must_be_those_that_are_expected(images: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="about other images"):
        runtimes.check_outside(toys("toy_ssd"), images, {"toy_ssd": {"a.png": []}})


def test_a_crash_costs_one_gate(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, signal, sys\nprint('chatter')\n"
        "print('F0000 check failed', file=sys.stderr, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    runtime_pythons.use(monkeypatch, runtime_pythons.with_module(tmp_path, "mediapipe", code))
    for gates in check(toys(*TOYS[:2])).values():
        assert gates["runtime-litert"]["status"] == "passed"
        gate = gates["runtime-mediapipe"]
        (problem,) = gate["problems"]
        assert problem["code"] == "crashed"
        assert "ended by SIGSEGV; its last output: F0000 check failed" in gate["summary"]


def test_an_exit_is_a_crash_too(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os\nos._exit(3)\n"
    runtime_pythons.use(monkeypatch, runtime_pythons.with_module(tmp_path, "mediapipe", code))
    gate = check(toys(TOYS[0]))[TOYS[0]]["runtime-mediapipe"]
    assert "it ended with exit code 3 and no answer" in gate["summary"]


def test_a_hang_is_ended(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `sleep` is a child of its own: the whole group has to go.
    mark = tmp_path / "child"
    code = (
        "import subprocess\nchild = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(mark)!r}, 'w').write(str(child.pid))\nchild.wait()\n"
    )
    runtime_pythons.use(monkeypatch, runtime_pythons.with_module(tmp_path, "mediapipe", code))
    gates = check(toys(TOYS[0]), silence=10)[TOYS[0]]
    assert gates["runtime-litert"]["status"] == "passed"
    assert gates["runtime-mediapipe"]["problems"][0]["code"] == "timeout"
    assert "no message for 10 s" in gates["runtime-mediapipe"]["summary"]
    status = Path(f"/proc/{mark.read_text()}/stat")  # gone, or a zombie nobody has reaped
    assert not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] in "ZX"


def test_the_process_has_no_network(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A module that tries what a library of telemetry would, also in a process that it starts.
    attempt = (
        "import socket\n"
        "for family in (socket.AF_INET, socket.AF_INET6):\n"
        "    try:\n"
        "        socket.socket(family, socket.SOCK_STREAM)\n"
        "        raise SystemExit('has a socket')\n"
        "    except PermissionError:\n"
        "        pass\n"
        "socket.socketpair()\n"
    )
    code = (
        f"import subprocess, sys\nattempt = {attempt!r}\nexec(attempt)\n"
        "subprocess.run([sys.executable, '-S', '-c', attempt], check=True)\n"
        "raise ImportError('all attempts failed')\n"
    )
    runtime_pythons.use(monkeypatch, runtime_pythons.with_module(tmp_path, "mediapipe", code))
    gate = check(toys(TOYS[0]))[TOYS[0]]["runtime-mediapipe"]
    assert gate["status"] == "skipped" and "all attempts failed" in gate["summary"]


def test_without_a_way_to_cut_it_off_mediapipe_is_not_loaded(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine whose system calls the worker does not know.
    code = "raise ImportError('loaded all the same')\n"
    python = runtime_pythons.with_module(tmp_path, "mediapipe", code)
    strange = "import platform\nplatform.machine = lambda: 'riscv64'\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(strange)
    runtime_pythons.use(monkeypatch, python)
    gates = check(toys(TOYS[0]))[TOYS[0]]
    assert gates["runtime-litert"]["status"] == "passed"
    assert gates["runtime-mediapipe"]["status"] == "skipped"
    assert "riscv64 cannot block" in gates["runtime-mediapipe"]["summary"]


@pytest.mark.parametrize("loaded", ["ImportError at import", "OSError at import", "later"])
def test_a_system_library_that_lacks(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: str
) -> None:
    kind = "OSError" if loaded == "later" else loaded.split()[0]
    code = f"raise {kind}('libGL.so.1: no such file')\n"
    if loaded == "later":
        # Modules as far as they are asked for, whose detector cannot load its native part.
        code = (
            "import sys, types\n"
            "class Any:\n"
            "    def __init__(self, **_): pass\n"
            "    @classmethod\n"
            f"    def create_from_options(cls, options): {code}"
            "for name in ('tasks', 'tasks.python', 'tasks.python.core', 'tasks.python.vision',\n"
            "             'tasks.python.core.base_options'):\n"
            "    module = sys.modules['mediapipe.' + name] = types.ModuleType(name)\n"
            "    module.BaseOptions = module.ObjectDetector = module.ObjectDetectorOptions = Any\n"
        )
    runtime_pythons.use(monkeypatch, runtime_pythons.with_module(tmp_path, "mediapipe", code))
    gate = check(toys(TOYS[0]))[TOYS[0]]["runtime-mediapipe"]
    assert gate["status"] == "skipped"  # the artefact is not to blame
    assert "MediaPipe 9.9 cannot be loaded: libGL.so.1: no such file" in gate["summary"]


def test_a_process_that_does_not_go_down_keeps_nobody_waiting(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "worker"
    code = (
        "import atexit, os, time\n"
        f"open({str(mark)!r}, 'w').write(str(os.getpid()))\n"
        "atexit.register(time.sleep, 10**6)\n"
        "raise ImportError('enough')\n"
    )
    runtime_pythons.use(monkeypatch, runtime_pythons.with_module(tmp_path, "mediapipe", code))
    gates = check(toys(TOYS[0]), silence=10**5)[TOYS[0]]
    assert gates["runtime-litert"]["status"] == "passed"
    assert "enough" in gates["runtime-mediapipe"]["summary"]
    assert not Path(f"/proc/{mark.read_text()}").exists()


def test_which_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "images.toml").touch()
    monkeypatch.setenv("KILN_PROJECT", str(tmp_path))
    monkeypatch.delenv(worker_process.PYTHON_VARIABLE, raising=False)
    assert str(worker_process.python()) == runtime_pythons.sys.executable
    ours = tmp_path / ".venv-runtimes" / "bin" / "python"
    ours.parent.mkdir(parents=True)
    ours.touch()
    assert worker_process.python() == ours
    for wrong in (ours, tmp_path, tmp_path / "nothing"):  # not executable, a folder, not there
        monkeypatch.setenv(worker_process.PYTHON_VARIABLE, str(wrong))
        with pytest.raises(UsageError, match="cannot be run"):
            worker_process.python()


def test_an_interpreter_that_is_none(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "python"
    wrong.write_text("not a program")
    wrong.chmod(0o755)
    runtime_pythons.use(monkeypatch, wrong)
    gates = check(toys(TOYS[0]))[TOYS[0]]
    assert {gate["problems"][0]["code"] for gate in gates.values()} == {"crashed"}
    assert "cannot be run: Exec format error" in gates["runtime-litert"]["summary"]


@pytest.fixture
def mediapipe(monkeypatch: pytest.MonkeyPatch) -> None:
    python = runtime_pythons.with_runtimes()
    if python is None:
        pytest.skip("MediaPipe is not installed (`make runtimes` installs it)")
    runtime_pythons.use(monkeypatch, python)


def test_all_toys_in_mediapipe(check: Check, mediapipe: None) -> None:
    for name, gates in check(toys(*TOYS)).items():
        gate = gates["runtime-mediapipe"]
        assert gate["status"] == "passed", (name, gate)
        assert gate["figures"]["runtime"] == "mediapipe"
        assert gate["figures"]["pairs"] == 5
        # The toys' pictures are pure colours: the resizer has nothing to differ in.
        assert gate["figures"]["max_score_difference"] <= 1e-4
        assert gate["figures"]["min_iou"] >= 0.99


def test_mediapipe_gets_the_pictures_that_were_fed(
    check: Check, images: dict[str, Path], tmp_path: Path, mediapipe: None
) -> None:
    """Not the photographs, which may have any shape."""
    models = toys("toy_ssd_annotated")
    wanted = {"toy_ssd_annotated": expected(models["toy_ssd_annotated"], images)}
    fed = {}
    for name, path in images.items():
        fed[name] = tmp_path / f"{len(fed)}"  # as the store names it: by nothing of its content
        with fed[name].open("wb") as file:
            np.save(file, pixels.load_rgb(path))
        Image.fromarray(picture(GREEN, GREEN, GREEN, GREEN)).resize((31, 17)).save(path)
    seen = check(models, wanted, rounded=wanted, pictures={"toy_ssd_annotated": fed})
    gate = seen["toy_ssd_annotated"]["runtime-mediapipe"]
    assert gate["status"] == "passed" and gate["figures"]["pairs"] == 5, gate


def test_a_picture_of_another_size_is_not_resized_for_mediapipe(
    check: Check, images: dict[str, Path], mediapipe: None
) -> None:
    wanted = {"toy_ssd_annotated": expected(FIXTURES / "toy_ssd_annotated.tflite", images)}
    Image.fromarray(picture(GREY, RED, BLUE, GREEN)).resize((16, 8)).save(images["a.png"])
    gate = check(toys("toy_ssd_annotated"), wanted)["toy_ssd_annotated"]["runtime-mediapipe"]
    (problem,) = gate["problems"]
    assert problem["code"] == "failed"
    assert "a picture is uint8 [8, 16, 3], not uint8 [8, 8, 3]" in gate["summary"]


def test_wrong_normalisation_fails_in_mediapipe(
    check: Check, images: dict[str, Path], mediapipe: None
) -> None:
    # The seed's metadata says 0..1 where the model wants -1..1.
    wanted = expected(FIXTURES / "toy_ssd_annotated.tflite", images)
    gate = check(toys("toy_ssd_seed"), {"toy_ssd_seed": wanted})["toy_ssd_seed"][
        "runtime-mediapipe"
    ]
    assert gate["status"] == "failed" and gate["figures"]["missed"] == 5
    assert "normalisation" in gate["problems"][0]["cause"]


def test_mediapipe_refuses_in_its_own_words(
    check: Check, images: dict[str, Path], tmp_path: Path, mediapipe: None
) -> None:
    bare, _ = packed_files.split((FIXTURES / "toy_ssd_annotated.tflite").read_bytes())
    models = {"bare": tmp_path / "bare.tflite", **toys("toy_ssd")}
    models["bare"].write_bytes(bare)  # the label file is declared, but not there
    nothing: dict[str, Any] = {name: [] for name in images}
    gates = check(models, dict.fromkeys(models, nothing))
    for name, words in (("toy_ssd", "require TFLite Model Metadata"), ("bare", "labelmap.txt")):
        gate = gates[name]["runtime-mediapipe"]
        assert gate["problems"][0]["code"] == "refused" and words in gate["summary"]


def test_a_near_miss_is_seen_to_be_one(
    check: Check, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_pythons.use(monkeypatch)
    models = toys("toy_ssd_annotated")
    right = expected(models["toy_ssd_annotated"], images)
    for item in right["a.png"]:
        item["score"] -= 0.0100001
    gate = check(models, {"toy_ssd_annotated": right})["toy_ssd_annotated"]["runtime-litert"]
    [problem] = gate["problems"]
    assert problem["expected"] == "at most 0.01"
    seen = problem["seen"].removeprefix("score difference ")
    assert float(seen) == pytest.approx(0.0100001) and float(seen) > 0.01


def test_arithmetic() -> None:
    assert runtimes.arithmetic(FIXTURES / "toy_ssd.tflite") == "float"
    assert runtimes.arithmetic(FIXTURES / "toy_ssd_uint8.tflite") == "integer"
    assert runtimes.arithmetic(FIXTURES / "toy_labels.pbtxt") == "float"


def test_arithmetic_in_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "toy.tflite"
    path.write_bytes(int16_toy())
    assert runtimes.arithmetic(path) == "integer-16"
