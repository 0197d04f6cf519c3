"""The data that every room shares: ids, prompts, events, errors. Pure: no I/O, no clock, no chance."""
