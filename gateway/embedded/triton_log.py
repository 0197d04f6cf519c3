"""Reading tritonserver's log: which line tells why. Pure."""

import re

from gateway.embedded.service import last_line

# Said on every machine without a GPU, and no hindrance.
NOISE = re.compile(r"CudaDriverHelper|NVML|DCGM|pinned|Timeout \d+:|CUDA memory pool")
# From the most telling to the least.
TELLING = (
    re.compile(r"error while loading shared libraries: .*"),
    re.compile(r"failed to load '[^']*' version \d+: .*"),
    re.compile(r"Poll failed for model .*"),
    re.compile(r"failed to start (?:HTTP|Metrics|GRPC) service.*|(?:Address|address) already in use.*"),
    re.compile(r"(?:error|Error): .*"),
    re.compile(r"(?<=^E)\d{4} .*"),
)
COMPLAINT = re.compile(r"Stub process '?[^' ]*'? (?:is not healthy|.*(?:died|terminated|unexpectedly)).*")
LONGEST = 300


def decisive_line(text: str) -> str:
    """The line, or the part of a line, that tells why the server ended."""
    lines = [line.strip() for line in text.splitlines() if not NOISE.search(line)]
    for telling in TELLING:
        for line in lines:
            if found := telling.search(line):
                return found.group()[:LONGEST].strip(' "')
    return last_line("\n".join(lines))[:LONGEST]


def stub_complaint(text: str) -> str | None:
    """What the server says of a model's process that it has lost, if it says so in `text`."""
    found = COMPLAINT.search(text)
    return found.group()[:LONGEST].strip(' "') if found else None
