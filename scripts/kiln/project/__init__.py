"""Define the project's folders, the size bounds of its files, and access to shared stage code.

Every package but ``core`` may use all of it.
"""
