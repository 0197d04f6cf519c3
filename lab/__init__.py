"""Instruments: benchmarks today; traffic, attackers and faults later. Known to the command line alone."""
