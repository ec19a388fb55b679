"""What a user asked for, as typed data, and the plan made of it.

Neighbours load a recipe with :mod:`kiln.recipes.recipe`, choose some with
:mod:`kiln.recipes.selection`, and get steps with their keys from :mod:`kiln.recipes.plan`; nothing
here runs or fetches anything.
"""
