"""``kiln.cluster.preload`` for a worker that Dask starts, with toy containers."""

from __future__ import annotations

from toy_worker import put_toys_in_place, toy_station

from kiln.cluster import preload

put_toys_in_place()
preload.station_of = toy_station

dask_setup = preload.dask_setup
