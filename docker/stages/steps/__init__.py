"""The stages: one file each, with the stage's name.

A stage may use everything in the other packages, and what another stage offers.
"""
