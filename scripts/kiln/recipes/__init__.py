"""Read recipes as typed data, and plan the steps that they ask for.

Other packages read recipes with :mod:`kiln.recipes.recipe`, select those that a command is about
with :mod:`kiln.recipes.selection`, and get steps with their keys from :mod:`kiln.recipes.plan`.
Each kind of source is a class in :mod:`kiln.recipes.source`. Nothing here runs or fetches
anything.
"""
