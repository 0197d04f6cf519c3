"""The ruleset in force: read, watched, applied, swapped."""
