"""The release's page in a real browser, and its code on the real samples."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import numpy as np
import page_dist
import pytest
from PIL import Image
from places import ROOT
from support import SAMPLE, run_mediapipe

from kiln.images.lock import Locked
from kiln.measure import accuracy_record
from kiln.measure.accuracy_record import Entry
from kiln.page.contents import Model, Variant, read_release
from kiln.page.document import render
from kiln.page.snippets import litert_python, mediapipe_python
from kiln.running.engine import Engine
from stages.detect import detector
from stages.files import pixels

pytest.importorskip("ai_edge_litert")

PHONE, TABLET, DESKTOP = (360, 740), (820, 1180), (1280, 900)

#: Contrast that WCAG 2.2 AA asks of text (1.4.3), and of large text (24 px, or 18.66 px bold).
LEAST_CONTRAST, LEAST_CONTRAST_LARGE = 4.5, 3.0

#: Every visible text outside drawings with its contrast: colours are put over each other from the
#: root down, luminance is WCAG's.
CONTRASTS = """(() => {
  const parse = color => {
    const n = color.match(/[\\d.]+/g).map(Number);
    return [...n.slice(0, 3), n[3] ?? 1];
  };
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
  const lum = c => c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const field = el => {
    const chain = []; for (let e = el; e; e = e.parentElement) chain.unshift(e);
    return chain.reduce((below, e) => over(parse(getComputedStyle(e).backgroundColor), below),
      [255, 255, 255]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const el = node.parentElement;
    if (!node.data.trim() || el.closest("svg, script") || !el.checkVisibility()) continue;
    const style = getComputedStyle(el), below = field(el);
    const [a, b] = [lum(over(parse(style.color), below)), lum(below)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    found.push([(a + 0.05) / (b + 0.05), large, node.data.trim().slice(0, 40)]);
  }
  return found;
})()"""

#: For every drawing that is shown: what of it lies outside, and whether it has a size.
OVERLAYS = """(() => {
  const bad = []; let count = 0;
  for (const svg of document.querySelectorAll("svg.shot")) {
    if (!svg.checkVisibility()) continue;
    const frame = svg.getBoundingClientRect();
    count += 1;
    if (frame.width < 100 || frame.height < 20) bad.push(["small", svg.getAttribute("aria-label")]);
    for (const item of svg.querySelectorAll("rect, text")) {
      const box = item.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1 ||
          box.top < frame.top - 1 || box.bottom > frame.bottom + 1) bad.push([item.outerHTML]);
    }
  }
  return [count, bad];
})()"""

#: The pictures as the page has them, decoded: width of each, and of its place in drawing units.
PICTURES = """Promise.all([...document.querySelectorAll("svg.store image")].map(async item => {
  const picture = new Image(); picture.src = item.getAttribute("href"); await picture.decode();
  return [picture.naturalWidth, picture.naturalHeight,
          item.width.baseVal.value / item.height.baseVal.value];
}))"""


@pytest.fixture(scope="session")
def program() -> str:
    """A browser of this machine; without one these tests are skipped, and say why."""
    found = browser.find()
    if found is not None:
        return found
    reason = f"no browser ({', '.join(browser.NAMES)}) is installed"
    if os.environ.get("KILN_REQUIRE_BROWSER") == "1":
        pytest.fail(f"KILN_REQUIRE_BROWSER is set: {reason}", pytrace=False)
    pytest.skip(f"{reason}; on Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def tab(program: str) -> Iterator[browser.Page]:
    with browser.browser(program) as page:
        yield page


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with everything on it: passed, failed, unchecked, hostile names, all figures."""
    folder = tmp_path_factory.mktemp("page")
    dist, images = folder / "dist", page_dist.toy_images(folder / "images")
    page_dist.add_checks(page_dist.toy_dist(dist, "good"), images)
    bad = page_dist.toy_dist(dist, "bad", "<script>alert(1)</script> " + "long_name" * 20)
    checks = page_dist.add_checks(bad, images)
    spoil(checks)
    page_dist.write(bad / "checks.json", checks)
    page_dist.change(bad / "conversion.json", profile="seed", untrained=["all scores alike"])
    page_dist.toy_dist(dist, "unchecked")
    runs = [
        {"model": "good", "variant": name, "sha256": item["sha256"], "median_ms": 12.3, "runs": 50,
         "threads": 1, "runtime": "LiteRT", "cpu": "some processor with a long name 3000"}
        for name, item in page_dist.read(dist / "good" / "conversion.json")["artefacts"].items()
    ]  # fmt: skip
    page_dist.write(dist / "latency.json", {"schema": 1, "runs": runs})
    accuracy_record.save(dist, list(figures(dist)))
    (dist / "index.html").write_text(render(dist), "utf-8")
    return (dist / "index.html").as_uri()


def figures(dist: Path) -> Iterator[Entry]:
    """Of two models, on data sets with and without everything known of them."""
    known = {"name": "some scenes " * 6, "annotations_sha256": "a" * 64, "images_sha256": "b" * 64}
    known |= {"images": 4990, "all_images": 5000, "skipped": 10}
    ap = {"ap": 0.5, "ap50": 0.6, "ap75": 0.4, "ar100": 0.55}
    for name, data in (("good", known), ("bad", {})):
        for variant, item in page_dist.read(dist / name / "conversion.json")["artefacts"].items():
            yield Entry(name, variant, item["file"], item["sha256"], data, ap, {**ap, "ap": 0.48})


def spoil(checks: dict[str, Any]) -> None:
    """Every kind of difference and status."""
    variant = checks["variants"]["int8"]
    found = variant["detections"]["quarters.png"]
    found[0]["score"] -= 0.5
    found[1] = {**found[1], "class_id": 1000, "label": "a class with quite a long name indeed" * 3}
    found[2]["box"] = [-0.5, 0.6, 1.5, 1.2]  # models say such things
    found.append({"box": [0.9, 0.9, 1, 1], "score": 0.5, "class_id": 7, "label": "日本語"})
    problem = {"code": "x", "expected": "y" * 200, "seen": "z", "cause": "w"}
    for gate, status in zip(
        variant["gates"], ["failed", "allowed", "skipped", "odd"], strict=False
    ):
        gate.update(status=status, problems=[problem])
    variant["passed"] = False


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, TABLET, DESKTOP], ids=["phone", "tablet", "desktop"])
def test_looks(tab: browser.Page, url: str, size: tuple[int, int], dark: bool) -> None:
    tab.show(url, *size, dark=dark, phone=size != DESKTOP)
    assert tab.run("document.querySelectorAll('section').length") == 5
    assert tab.run("document.querySelectorAll('table.accuracy').length") == 2
    assert tab.run("matchMedia('(prefers-color-scheme: dark)').matches") == dark

    width, inside = tab.run("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= inside == size[0]

    drawn = 0
    for number in range(3):  # each of the three pictures in turn
        tab.run(
            f"document.querySelectorAll('[id^=image-][id$=\"-{number}\"]').forEach(r => r.click())"
        )
        count, outside = tab.run(OVERLAYS)
        assert outside == []
        drawn += count
    assert drawn == 2 * 3 * 3  # two checked models, three pictures, source and two files

    contrasts = tab.run(CONTRASTS)
    assert len(contrasts) > 200
    poor = [
        item
        for item in contrasts
        if item[0] < (LEAST_CONTRAST_LARGE if item[1] else LEAST_CONTRAST)
    ]
    assert poor == []

    pictures = tab.run(PICTURES)
    assert len(pictures) == 3
    for natural_width, natural_height, shape in pictures:
        assert natural_width > 0
        assert natural_width / natural_height == pytest.approx(shape, rel=0.02)

    assert tab.complaints() == []
    assert [address for address in tab.requests() if not address.startswith("data:")] == [url[:100]]


def test_the_policy_holds(tab: browser.Page, url: str) -> None:
    """What the test above relies on: a violation would be seen, and stops what it is about."""
    tab.show(url, *DESKTOP, dark=False)
    tab.run("document.body.insertAdjacentHTML('beforeend', '<img src=\"file:///x.png\">')")
    tab.run("new Promise(done => setTimeout(done, 100))")
    assert any("Content Security Policy" in said for said in tab.complaints())
    stopped = [
        event["params"].get("blockedReason")
        for event in tab.events
        if event.get("method") == "Network.loadingFailed"
    ]
    assert stopped == ["csp"]


def test_comforts(tab: browser.Page, url: str) -> None:
    tab.show(url, *DESKTOP, dark=False)
    shown = (
        "[...document.querySelectorAll('svg.shot g')]"
        ".filter(g => g.getBoundingClientRect().width > 0).length"
    )
    # In the first model the second picture is the one with a score that fell.
    tab.run("document.querySelectorAll('[id^=image-][id$=\"-1\"]').forEach(r => r.click())")
    before = tab.run(shown)
    tab.run(
        "document.querySelectorAll('.slider input').forEach(range => {"
        " range.value = '0.95'; range.dispatchEvent(new Event('input')); })"
    )
    assert 0 < tab.run(shown) < before
    assert tab.run("document.querySelectorAll('.code button').length") > 5
    assert tab.complaints() == []


def test_works_without_a_script(tab: browser.Page, url: str) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.show(url, *DESKTOP, dark=False)
        document = tab.call("DOM.getDocument", depth=0)["root"]["nodeId"]

        def find(selector: str) -> int:
            node: int = tab.call("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
            return node

        def visible(selector: str) -> bool:
            tree = tab.call("Accessibility.getPartialAXTree", nodeId=find(selector))["nodes"]
            return not tree[0]["ignored"]

        assert find("button") == 0
        assert not visible(".slider input")
        panel = ".choices[class] .panels > div:nth-child({}) figure"
        first = next(k for k in (1, 2, 3) if visible(panel.format(k)))
        other = 1 if first != 1 else 2
        assert not visible(panel.format(other))
        label = find(f".choices label:nth-of-type({other})")
        tab.call("DOM.scrollIntoViewIfNeeded", nodeId=label)
        quad = tab.call("DOM.getContentQuads", nodeId=label)["quads"][0]
        where = {"x": (quad[0] + quad[4]) / 2, "y": (quad[1] + quad[5]) / 2}
        for kind in ("mousePressed", "mouseReleased"):
            tab.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)
        assert visible(panel.format(other))
        assert not visible(panel.format(first))
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)


# --- the real samples --------------------------------------------------------------------------


def published(samples: dict[str, Any]) -> Iterator[tuple[Path, Model, Variant]]:
    for name, sample in samples.items():
        release = read_release(sample.kiln.dist)
        model = next(item for item in release.models if item.name == name)
        for variant in model.variants:
            yield sample.folder, model, variant


def image_for(model: Model, folder: Path) -> Path:
    """A picture of 4:3, which no input is, in which the sample finds something."""
    place = ROOT / "models" / "samples"
    path = place / "shapes" / "scene_03.png"
    if model.name == SAMPLE:
        path = place / "images" / "astronaut.png"
    with Image.open(path) as image:
        border = image.height // 8
        image.crop((0, border, image.width, image.height - border)).save(folder / path.name)
    return folder / path.name


def test_code_finds_what_the_files_find(
    samples: dict[str, Any], engine: Engine, device: Locked, tmp_path: Path
) -> None:
    seen = {"LiteRT": 0, "MediaPipe": 0}
    for folder, model, variant in published(samples):
        image = image_for(model, tmp_path)
        found = detector.load(folder / variant.file).detect(pixels.load_rgb(image), 0.5)
        assert found
        printed = {
            # Three decimals are printed.
            ("LiteRT", 0.001): page_dist.run(litert_python(variant, 0.5), folder, image),
            # MediaPipe resizes what it stretches in its own way.
            ("MediaPipe", 0.1): run_mediapipe(
                engine, device, mediapipe_python(variant, 0.5), folder, image
            ),
        }
        for (runtime, tolerance), lines in printed.items():
            best = {item["label"]: item["score"] for item in reversed(found)}
            told = {name: float(score) for name, score, *_ in reversed(lines)}
            assert told == pytest.approx(best, abs=tolerance), variant.file
            assert abs(len(lines) - len(found)) <= 1, variant.file  # one may be at the threshold
            if runtime == "LiteRT":
                # Sorted, because equal scores have no order. A letterbox's code clips boxes to the
                # picture, a stretched model's does not.
                boxes = sorted([item["box"][side] for side in (1, 0, 3, 2)] for item in found)
                places = sorted([float(word) for word in line[2:]] for line in lines)
                np.testing.assert_allclose(np.clip(places, 0, 1), np.clip(boxes, 0, 1), atol=0.001)
            seen[runtime] += 1
    assert seen == {"LiteRT": 12, "MediaPipe": 12}


def test_size_of_the_samples_page(samples: dict[str, Any], tmp_path: Path) -> None:
    for sample in samples.values():
        folder = Path(shutil.copytree(sample.folder, tmp_path / sample.folder.name))
        if not (folder / "checks.json").exists():
            images = json.loads((folder / "conversion.json").read_text("utf-8"))
            named = images["source"]["calibration_images"]
            page_dist.add_checks(
                folder, [next(page_dist.SAMPLES.glob(f"*/{name}")) for name in named]
            )
    page = render(tmp_path)
    assert len(page.encode()) < 3_000_000
    assert page.count("data:image/jpeg") == 6 + 6  # two of them share theirs
