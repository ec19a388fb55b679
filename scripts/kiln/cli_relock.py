"""``kiln images relock``: record what images have become, and say what changed."""

from __future__ import annotations

import click

from kiln.ui import JsonReporter, TextReporter


@click.command("relock", short_help="Rebuild images and record them anew.")
@click.argument("names", nargs=-1, metavar="[IMAGE]...")
@click.option("--once", is_flag=True, help="Build once, not twice to compare.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable events, one a line.")
def images_relock(names: tuple[str, ...], once: bool, as_json: bool) -> None:
    """Rebuild images (all when none is named), record them in docker/images.lock, and say in words
    what changed.

    Those they start from come first. Each is built twice and must come out the same.
    """
    from kiln.choices import refuse_unknown
    from kiln.engine import Engine
    from kiln.images.builder import Images
    from kiln.images.definition import load
    from kiln.images.relock import relock
    from kiln.project import Project
    from kiln.store import Store

    docker = Project.find().docker
    known = load(docker)
    refuse_unknown("image", names, known)
    engine, store = Engine.find(), Store(Store.default_root())
    engine.sweep()
    store.sweep()
    with JsonReporter() if as_json else TextReporter() as reporter:
        images = Images(docker, lambda: engine, store, reporter.event)
        for item in relock(images, list(names or known), once=once):
            if as_json:
                reporter.event(
                    "relocked",
                    image=item.locked.name,
                    identity=item.locked.identity,
                    before=item.before,
                    changes=list(item.changes),
                    stale=list(item.stale),
                )
                continue
            verb = "unchanged," if item.same else "was" if item.before else "new,"
            tail = f" {item.before}" if item.before and not item.same else ""
            print(f"{item.locked.name}: {item.locked.identity} ({verb.rstrip(',')}{tail})")
            for line in item.changes:
                print(f"  {line}")
            if item.stale:
                print(f"  Out of date now, for they start from it: {', '.join(item.stale)}")
