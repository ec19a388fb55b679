"""What a user asked for, as typed data, and the plan made of it.

Neighbours read recipes with :mod:`kiln.recipes.recipe`, those that a command is about with
:mod:`kiln.recipes.selection`, and get steps with their keys from :mod:`kiln.recipes.plan`; what a
source is, its class in :mod:`kiln.recipes.source` says. Nothing here runs or fetches anything.
"""
