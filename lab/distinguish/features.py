"""What a clock and a ruler see of an answer: numbers for the classifier. Pure."""

import re
import statistics

from lab.distinguish.client import Answer

FEATURES = (
    "first byte",
    "first token",
    "first token less first byte",
    "whole answer",
    "tokens' time",
    "median gap",
    "longest gap",
    "reads",
    "chunks",
    "head bytes",
    "body bytes",
    "openai-processing-ms",
)
"""Times in milliseconds."""

_PROCESSING = re.compile(rb"(?i)\r\nopenai-processing-ms: (\d+)")


def features(answer: Answer) -> tuple[float, ...]:
    """The numbers of one answer, in the order of FEATURES."""
    gaps = [later - sooner for sooner, later in zip(answer.reads, answer.reads[1:], strict=False)] or [0.0]
    found = _PROCESSING.search(answer.head)
    return (
        answer.first * 1000,
        answer.token * 1000,
        (answer.token - answer.first) * 1000,
        answer.last * 1000,
        (answer.last - answer.token) * 1000,
        statistics.median(gaps) * 1000,
        max(gaps) * 1000,
        float(len(answer.reads)),
        float(answer.chunks),
        float(len(answer.head)),
        float(len(answer.body)),
        float(found[1]) if found else 0.0,
    )
