"""Run artefacts in runtimes that no image holds: newer, older and other ones."""
