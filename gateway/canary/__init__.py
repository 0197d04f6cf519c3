"""Canaries: a phrase for each principal, and finding out whose it is from a text. Pure: no I/O, no clock, no chance."""
