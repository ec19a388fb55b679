"""Share options between commands, and open what several commands need."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kiln.cli.reporters import JsonReporter, TextReporter
from kiln.core.channels import check_channels

if TYPE_CHECKING:
    from kiln.core.store import Store
    from kiln.images.builder import Images

PATH = click.Path(path_type=Path)


class NumberRange(click.FloatRange):
    """A number within bounds. Click's own range lets "nan" through: it is beyond no bound."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not in the range {self._describe_range()}.", param, ctx)
        return number


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Machine-readable events, one a line."
)
dist_option = click.option("--dist", type=PATH, default=None, help="Where artefacts go [dist/].")
models_dir_option = click.option("--models-dir", type=PATH, help="Where recipes are [models/].")
samples_option = click.option("--samples", is_flag=True, help="Only the embedded samples.")
variants_option = click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="VARIANT",
    help="Only float32, float16, dynamic, int8, int16x8 or prebuilt; may be repeated.",
)
archive_option = click.option(
    "--archive", type=PATH, help="The model's archive, already downloaded."
)


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--cluster`` and ``--insecure``."""
    cluster = click.option(
        "--cluster",
        metavar="ADDRESS",
        help="Run stages on the workers of a Dask scheduler, or local:N.",
    )
    return cluster(insecure_option(command))


insecure_option = click.option(
    "--insecure", is_flag=True, help="Allow a cluster without encryption."
)
images_argument = click.argument("names", nargs=-1, metavar="[IMAGE]...")


@contextlib.contextmanager
def reporter_for(as_json: bool) -> Iterator[JsonReporter | TextReporter]:
    """Return the reporter, for people or for programs."""
    from kiln.cache.opening import finish_all

    with JsonReporter() if as_json else TextReporter() as reporter:
        yield reporter
        finish_all()


def own_store() -> Store:
    """Open the user's store, and remove leftovers of killed runs."""
    from kiln.core.store import Store

    store = Store(Store.default_root())
    store.sweep()
    return store


@contextlib.contextmanager
def opened_images(as_json: bool) -> Iterator[Images]:
    """Open the project's images; an engine is only looked for when needed."""
    from kiln.images.builder import Images
    from kiln.project.folders import Project

    store = own_store()
    with reporter_for(as_json) as reporter:
        yield Images.on_any_engine(Project.find().docker, store, reporter.event)


def chosen_images(docker: Path, names: Sequence[str]) -> list[str]:
    """Return the named images, or all when none is named; parents first.

    Raises:
        UsageError: there is no such image.
    """
    from kiln.core.suggest import refuse_unknown
    from kiln.images.definition import load

    known: Mapping[str, Any] = load(docker)
    refuse_unknown("image", names, known)
    return [name for name in known if not names or name in names]


def channel_values(name: str, text: str) -> tuple[float, ...]:
    """Parse ``--mean``, ``--std`` or ``--fill``: one number, or one for each colour channel.

    Raises:
        UsageError: it is something else.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    check_channels(name, found, text)
    return found
