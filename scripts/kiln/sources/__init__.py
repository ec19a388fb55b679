"""Fetch kiln's inputs and check them against their pins.

Other packages fetch a recipe's source with :mod:`kiln.sources.model`, and locked packages with
:mod:`kiln.sources.debian` and :mod:`kiln.sources.pypi`. Each kind of source is one module with a
:class:`~kiln.sources.fetcher.Fetcher`; :mod:`kiln.sources.kinds` lists them.
"""
