"""The stages: one file each, found by the stage's name.

A stage may use whatever lies in the other packages, and what another stage offers.
"""
