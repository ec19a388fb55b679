"""Write a release's notes in Markdown: what is in it, how it was checked, how to verify it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from kiln.core.plain_text import plain
from kiln.page.contents import Model, Release, Variant, read_release
from kiln.release.assets import NAME

#: The issuer of workflow identities.
ISSUER = "https://token.actions.githubusercontent.com"

#: All characters with a meaning in Markdown, inside a table cell or outside.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#|~&])")


def notes(dist: Path, release_id: str, identity: str = "") -> str:
    """Write the notes of the release in ``dist``. Nothing is verified here; readers verify.

    Args:
        identity: the signer's identity, where there is no key.

    Raises:
        UsageError: there is no model in ``dist``.
    """
    release = read_release(dist)
    parts = [
        _table(release),
        *_how_to_feed(release),
        _made_in(release),
        _how_to_verify(release, release_id, identity),
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    r"""Escape ``text`` so that Markdown shows it literally.

    >>> print(escaped("a|b <i> [x](y)"))
    a\|b \<i\> \[x\]\(y\)
    """
    return _SPECIAL.sub(r"\\\1", plain(" ".join(text.split())))


def _table(release: Release) -> str:
    head = ["Model", "Variant", "Size", "Checks", "SHA-256"]
    lines = [_row(head), _row("---" if name != "Size" else "---:" for name in head)]
    for model in release.models:
        for number, variant in enumerate(model.variants):
            lines.append(_row(_cells(model, variant, first=number == 0)))
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(model: Model, variant: Variant, *, first: bool) -> Iterator[str]:
    licence = model.conversion.text("licence")
    yield (f"{escaped(model.title)}" + (f" ({escaped(licence)})" if licence else "")) * first
    yield _code(variant.file) + (" (default)" if variant.default else "")
    yield f"{variant.size:,}" if variant.size is not None else "missing"
    yield _checks(variant)
    yield _code(variant.sha256)


def _code(text: str) -> str:
    """Put ``text`` in a code span of a table; characters that cannot be escaped are replaced."""
    return f"`{re.sub('[`|]', '?', plain(' '.join(text.split())))}`" if text else ""


def _checks(variant: Variant) -> str:
    if variant.passed is None:
        return "not checked"
    allowed = [gate.name for gate in variant.gates if gate.status == "allowed"]
    count = sum(gate.status == "passed" for gate in variant.gates)
    said = f"{count} passed" if variant.passed else "failed"
    return said + (f", allowed to fail: {escaped(', '.join(allowed))}" if allowed else "")


def _how_to_feed(release: Release) -> Iterator[str]:
    """Say how pictures become the models' input, where the files say it."""
    lines = []
    for model in release.models:
        ways = dict.fromkeys(v.how_to_feed for v in model.variants if v.how_to_feed)
        lines += [f"- {escaped(model.title)}: {escaped(way)}" for way in ways]
    if lines:
        yield "\n".join(["How to feed them:", "", *lines])


def _made_in(release: Release) -> str:
    images = {
        (model.conversion.text("image", "name"), model.conversion.text("image", "identity"))
        for model in release.models
    }
    lines = ["Made in these sealed images:", ""]
    lines += [f"- {escaped(name)}, {_code(identity)}" for name, identity in sorted(images)]
    return "\n".join(lines)


def _how_to_verify(release: Release, release_id: str, identity: str) -> str:
    top = f"{NAME}-{release_id}"
    if release.key_id:
        signed = (
            f"Signed by the key `{release.key_id}`. With tflite-kiln and that key, from its owner"
        )
        trusted = "--key trusted.pub"
    else:
        signed = "Signed by an identity, without a key. With tflite-kiln"
        trusted = f"--identity {shlex.quote(identity or '<who released it>')} --issuer {ISSUER}"
    return f"""\
## Verify

{signed} (never one that came with the release):

```sh
kiln verify {top}.tar {trusted}
```

To check the files of this release with common tools only:

```sh
sha256sum --check --ignore-missing SHA256SUMS
```

`{top}.tar` holds everything, with labels, reports and a page (`index.html`); the other files are
copies of single files from it."""
