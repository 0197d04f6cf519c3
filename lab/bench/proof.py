"""The proof that everything was on while Catflap was measured: outside counts, held against each other. Pure."""

from lab.bench.catflap import Counts
from lab.bench.measure import Measurement

SCRIPTS_A_REQUEST = 2
"""Admit and settle."""
SCRIPTS_BESIDE = 200
"""Allowed over a whole run for what is no request: first loads of the scripts, leases, reclaim, readiness."""
CUT_OFF = 3 * 32 + 1
"""Requests that wrk leaves unanswered at the ends of its loads: one on each connection."""


def shortcomings(measured: Measurement) -> list[str]:
    """Sentences that say which part was not on; none for a floor, which promises nothing."""
    counts = measured.counts
    if counts is None:
        return []
    found = []
    if not measured.answered <= counts.events <= measured.answered + CUT_OFF:
        found.append(f"{counts.events} events were recorded for {measured.answered} answered requests.")
    if counts.ledger_rows != counts.events:
        found.append(f"The ledger holds {counts.ledger_rows} of {counts.events} events.")
    if counts.access_lines != counts.events:
        found.append(f"The access log has {counts.access_lines} lines for {counts.events} events.")
    if not 0 <= counts.scripts - SCRIPTS_A_REQUEST * counts.events <= SCRIPTS_BESIDE:
        found.append(f"Redis ran {counts.scripts} scripts for {counts.events} requests.")
    return found


def summary(measured: Measurement) -> str:
    """One line for the reader of a table; empty for a floor."""
    counts = measured.counts
    if counts is None:
        return ""
    return (
        f"{measured.answered} answers, {counts.scripts} scripts in Redis ({_each(counts)} a request), "
        f"{counts.events} events, {counts.ledger_rows} ledger rows, {counts.access_lines} access-log lines, "
        f"{counts.other_lines} other lines"
    )


def _each(counts: Counts) -> str:
    return f"{counts.scripts / counts.events:.3f}" if counts.events else "-"
