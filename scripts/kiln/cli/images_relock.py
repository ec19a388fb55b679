"""``kiln images relock``: rebuild and record images, and list the changes."""

from __future__ import annotations

import click

from kiln.cli.common import chosen_images, images_argument, json_option, opened_images
from kiln.cli.reporters import JsonReporter


@click.command("relock", short_help="Rebuild images and record them again.")
@images_argument
@click.option("--once", is_flag=True, help="Build once, not twice to compare.")
@json_option
def images_relock(names: tuple[str, ...], once: bool, as_json: bool) -> None:
    """Rebuild images (all when none is named), record them in docker/images.lock, and list the
    changes.

    Parents come first. Each image is built twice, and both builds must be the same.
    """
    from kiln.images.relock import relock
    from kiln.project.folders import Project

    Project.find().refuse_changes()
    with opened_images(as_json) as images:
        for item in relock(images, chosen_images(images.docker_dir, names), once=once):
            if as_json:
                JsonReporter().event(
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
                print(f"  Out of date now, because they start from it: {', '.join(item.stale)}")
