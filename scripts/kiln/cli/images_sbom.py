"""``kiln images sbom``: list the contents of the sealed images, as CycloneDX."""

from __future__ import annotations

import click

from kiln.cli.common import chosen_images, images_argument, json_option, reporter_for
from kiln.cli.reporters import JsonReporter


@click.command("sbom", short_help="Write what is in images, as CycloneDX.")
@images_argument
@click.option("--check", is_flag=True, help="Only check that the files match the locks.")
@json_option
def images_sbom(names: tuple[str, ...], check: bool, as_json: bool) -> None:
    """Write docker/IMAGE/sbom.cdx.json (of all images when none is named).

    Packages with versions, digests, licences and requirements, from the locks and the packages.
    """
    from kiln.core.files import write_atomic
    from kiln.core.store import Store
    from kiln.images.sbom import make_sbom, refuse_outdated, sbom_path
    from kiln.project.folders import Project

    project = Project.find()
    docker_dir = project.docker
    chosen = chosen_images(docker_dir, names)
    if check:
        refuse_outdated(docker_dir, chosen)
        if not as_json:
            print(f"Up to date: {', '.join(chosen)}")
        return
    project.refuse_changes()
    store = Store(Store.default_root())
    with reporter_for(as_json) as reporter:
        for name in chosen:
            data = make_sbom(
                docker_dir,
                name,
                store,
                on_progress=lambda item, done, total: reporter.event(
                    "download", name=item, done=done, total=total
                ),
            )
            path = sbom_path(docker_dir, name)
            changed = not path.is_file() or path.read_bytes() != data
            write_atomic(path, data)
            if as_json:
                JsonReporter().event("sbom", image=name, file=str(path), changed=changed)
            else:
                print(f"{path}: {'written' if changed else 'unchanged'}")
