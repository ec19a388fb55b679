"""Run plans on other machines, through Dask.

:mod:`kiln.cluster.address` reads ``--cluster`` and refuses what is not safe, without Dask. Commands
pass :class:`kiln.cluster.driver.Cluster` to a builder, and :mod:`kiln.cluster.worker` is the other
side. Both exchange an :class:`kiln.cluster.order.Order` and an
:class:`kiln.cluster.order.Answer`, which are JSON; contents travel by
:mod:`kiln.cluster.transfer`. Only ``driver``, ``local``, ``preload`` and ``worker`` import Dask.
"""
