"""The whole page."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from pathlib import Path

from kiln.page.contents import Release, read_release
from kiln.page.markup import Html, el, fill, join, text
from kiln.page.model_section import model_section
from kiln.page.overview import digest_id, overview
from kiln.page.parts import (
    badge,
    choice_rules,
    code,
    count,
    digest,
    facts,
    icon_definitions,
    megabytes,
    model_id,
    verdict,
)
from kiln.page.pictures import Store
from kiln.page.snippets import verification

PAGE_FILE = "index.html"

#: At most so many snippets are offered for one file.
_SNIPPETS = 4

_FOLDER = Path(__file__).parent


def render(dist: Path, key_id: str | None = None) -> str:
    """The page for a release: HTML that needs no other file and no network.

    A function of what is in ``dist`` (its own earlier ``index.html`` and ``SHA256SUMS`` are not
    looked at): no clock, no machine, no chance. A model folder with damaged or missing records
    still gets its section, which says so.

    Args:
        dist: the release folder; ``latency.json`` and ``accuracy.json`` in it are used where
            they are there.
        key_id: of the key that the page will be signed with, empty for none; by default that of
            the ``kiln.pub`` that is there.

    Raises:
        UsageError: ``dist`` is no folder, or holds no model.
    """
    release = read_release(dist)
    if key_id is not None:
        release = replace(release, key_id=key_id)
    store = Store()
    models = [model_section(model, store) for model in release.models]  # fills the store
    panels = max(max(len(m.pictures), len(m.variants), _SNIPPETS) for m in release.models)
    style = fill(_read("style.css"), choices=choice_rules(panels))
    script = _read("script.js")
    title = _title(release)
    return str(
        fill(
            _read("template.html"),
            policy=text(_policy(style, script)),
            title=text(title),
            style=style,
            script=script,
            icons=icon_definitions(),
            pictures=store.definitions(),
            navigation=_navigation(release),
            head=_head(release, title),
            files=overview(release),
            models=join(models, "\n"),
            signatures=_signatures(release),
        )
    )


def _read(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing is loaded, and only this page's own style and script are obeyed."""

    def source(code: str) -> str:
        hashed = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        return f"'sha256-{hashed}'"

    return (
        f"default-src 'none'; img-src data:; style-src {source(style)}; "
        f"script-src {source(script)}; base-uri 'none'; form-action 'none'"
    )


def _title(release: Release) -> str:
    files = sum(len(model.variants) for model in release.models)
    return f"{count(len(release.models), 'model')}, {count(files, 'file')}"


def _navigation(release: Release) -> Html:
    links = [("#files", "Files")]
    links += [(f"#{model_id(model)}", model.title) for model in release.models]
    links += [("#signatures", "Signatures and digests")]
    return el("ul", [el("li", el("a", words, href=target)) for target, words in links])


def _head(release: Release, title: str) -> Html:
    variants = [variant for model in release.models for variant in model.variants]
    versions = sorted({model.conversion.text("kiln") for model in release.models} - {""})
    sizes = [variant.size for variant in variants if variant.size is not None]
    return join(
        [
            el("p", "tflite-kiln release", class_="brand"),
            el("h1", title),
            el("p", _verdict(release), class_="verdict"),
            facts(
                [
                    ("Size", megabytes(sum(sizes))),
                    ("Made by", f"kiln {', '.join(versions)}" if versions else None),
                    ("Key", digest(release.key_id[:16]) if release.key_id else "none"),
                ],
                "facts inline",
            ),
        ]
    )


def _verdict(release: Release) -> Html:
    variants = [variant for model in release.models for variant in model.variants]
    states = [verdict(variant)[0] for variant in variants]
    broken = sum(bool(variant.notes) for variant in variants)
    failed, unchecked = states.count("failed"), states.count("skipped")
    said = []
    if broken:
        said.append(badge("failed", f"{count(broken, 'file')} not as recorded"))
    if failed:
        said.append(badge("failed", f"{count(failed, 'file')} failed"))
    if states.count("allowed"):
        allowed = count(states.count("allowed"), "file")
        said.append(badge("allowed", f"{allowed} passed with faults that the recipe allows"))
    if unchecked:
        said.append(badge("skipped", f"{count(unchecked, 'file')} not checked"))
    if passed := states.count("passed"):
        every = passed == len(variants) > 1
        said.append(badge("passed", f"{'all ' if every else ''}{count(passed, 'file')} passed"))
    return join(said, " ")


def _signatures(release: Release) -> Html:
    key = (
        el("p", "Signed with the key ", digest(release.key_id), " (SHA-256 of kiln.pub).")
        if release.key_id
        else el("p", badge("failed", "There is no kiln.pub: nobody can tell whose release it is."))
    )
    others = [m for m in release.models if m.signed_by and m.signed_by != release.key_id]
    unsigned = [m for m in release.models if not m.signed_by]
    notices = [f"{m.name}: model.sig names another key, {m.signed_by}." for m in others]
    notices += [f"{m.name}: there is no model.sig that names a key." for m in unsigned]
    rows = [
        el(
            "tr",
            el("th", el("code", f"{model.name}/{name}"), scope="row", role="rowheader"),
            el("td", digest(value), data_label="SHA-256", role="cell"),
            id=digest_id(model, name),
            role="row",
        )
        for model in release.models
        for name, value in model.files
    ]
    table = el(
        "table",
        el("caption", "Digests of the files as they are (previews left out)"),
        el(
            "thead",
            el(
                "tr",
                el("th", "File", scope="col", role="columnheader"),
                el("th", "SHA-256", scope="col", role="columnheader"),
                role="row",
            ),
            role="rowgroup",
        ),
        el("tbody", rows, role="rowgroup"),
        class_="digests stacked",
        role="table",
    )
    what = [
        ("model.sig", "in each model’s folder: signs every other file in that folder, its previews "
                      "and records included (OpenSSF model signature)"),
        ("attestations/", "in each model’s folder: signed statements of how each artefact was "
                          "made (SLSA provenance) and what its checks found"),
        ("release.sigstore.json", "signs the list of all files, this page included: nothing can "
                                  "be taken away or exchanged"),
        ("SHA256SUMS", "the sums of all files, for sha256sum"),
        ("kiln.pub", "says which key to ask the maker for; trust a copy that came another way"),
        ("index.html", "this page repeats what the signed files say and verifies nothing: where "
                       "they differ, the signed files count"),
    ]  # fmt: skip
    return el(
        "section",
        el("h2", "Signatures and digests", id="signatures"),
        key,
        [el("p", badge("failed", words), class_="notice failed") for words in notices],
        el("h3", "What vouches for what"),
        facts([(el("code", name), words) for name, words in what], "facts long"),
        el("h3", "Check it"),
        code(verification([model.name for model in release.models]), "Commands"),
        el("h3", "Digests"),
        el("div", table, class_="scroll", tabindex="0", role="region", aria_label="Digests"),
    )
