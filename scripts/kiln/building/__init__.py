"""From a recipe to ``dist``, and what stands around a build: the dry run, the list of recipes, the
look at the machine, cleaning up. Neighbours use :class:`kiln.building.build.Builder`; the other
modules are one command each.
"""
