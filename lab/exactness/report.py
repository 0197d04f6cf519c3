"""The table of a run. Pure."""

from collections.abc import Sequence

from lab.exactness.run import Finding, Result

TITLES = (
    "Redis", "limit", "at", "subjects", "limit each", "asked, x", "admitted", "refused", "unknown", "fullest",
    "above", "wrongly refused", "used",
)  # fmt: skip


def markdown(result: Result) -> str:
    """A line for each kind of limit at each level, the worst of its subjects; then the planted faults, then the end."""
    lines = [_line(TITLES), _line(["---"] * 3 + ["---:"] * (len(TITLES) - 3))]
    lines += [_row(findings) for findings in _grouped(result.honest)]
    found = [one for one in result.planted if one.verdict.over]
    lines += ["", f"Planted faults (one gateway allows a fifth more): {len(found)} of {len(result.planted)} found."]
    lines += result.problems or ["Every limit was exact: never above, never refused without cause, at least 97% used."]
    return "\n".join(lines)


def _grouped(findings: Sequence[Finding]) -> list[list[Finding]]:
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for one in findings:
        groups.setdefault((one.redis, one.kind, one.level), []).append(one)
    return list(groups.values())


def _row(findings: Sequence[Finding]) -> str:
    first, verdicts = findings[0], [one.verdict for one in findings]
    return _line(
        [
            first.redis,
            first.kind,
            first.level,
            str(len(findings)),
            f"{verdicts[0].cap:,}",
            f"{min(one.asked for one in verdicts):.1f}",
            str(sum(one.admitted for one in verdicts)),
            str(sum(one.refused for one in verdicts)),
            str(sum(one.unknown for one in verdicts)),
            f"{max(one.fullest / one.cap for one in verdicts):.1%}",
            str(sum(one.over for one in verdicts)),
            str(sum(one.wrong for one in verdicts)),
            f"{min(one.used for one in verdicts):.1%}",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
