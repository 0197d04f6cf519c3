"""Benchmarks: each is one interleaved run that prints ratios, because absolute figures drift with the machine."""
