"""Policies as code: what is to be made of a request, from facts alone. Pure: no I/O, no clock, no chance."""
