"""Work for a cluster: ``kiln worker``."""

from __future__ import annotations

from typing import Any

import click

from kiln.cli.common import NumberRange, insecure_option, json_option, reporter_for


@click.command(short_help="Run stages for a cluster's drivers.")
@click.option(
    "--scheduler", required=True, metavar="ADDRESS", help="The Dask scheduler: tls://HOST:PORT."
)
@click.option("--name", help="What drivers call it [host and process].")
@click.option(
    "--memory",
    type=NumberRange(min=0.5, max=1 << 16),
    metavar="GIB",
    help="For models, 4 GiB each [all memory].",
)
@click.option(
    "--models-at-a-time",
    "models",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Instead of what memory and processors allow.",
)
@click.option("--build-images", is_flag=True, help="Build images that cannot be had otherwise.")
@insecure_option
@json_option
def worker(
    scheduler: str,
    name: str | None,
    memory: float | None,
    models: int | None,
    build_images: bool,
    insecure: bool,
    as_json: bool,
) -> None:
    """Run stages for the drivers of a cluster (`kiln build --cluster`), until the scheduler ends.

    A worker needs a container engine, kiln's images (from the store, a registry or archives), the
    drivers' version of kiln, and their store.
    """
    from kiln.cluster.address import cluster_address

    address = cluster_address(scheduler, insecure=insecure, option="--scheduler", local=False)
    assert address is not None
    from kiln.cluster.worker import Offer, serve

    offer = Offer(
        name=name,
        memory=None if memory is None else int(memory * (1 << 30)),
        models=models,
        may_build=build_images,
    )
    with reporter_for(as_json) as reporter:

        def tell(event: str, **fields: Any) -> None:
            reporter.event(event, **fields)

        serve(address, offer, tell)
