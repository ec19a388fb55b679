"""Build from a recipe to ``dist``, and run the commands around a build: dry run, list of recipes,
machine check, cleaning.

Neighbours use :class:`kiln.building.build.Builder`; the other modules are one command each.
"""
