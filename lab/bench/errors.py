"""What stops a benchmark."""


class BenchError(Exception):
    """The run cannot go on; the message is one sentence for the person who started it."""
