"""The table of a run. Pure."""

from lab.faults.run import Finding, Result


def markdown(result: Result) -> str:
    """A line for each fault, and below it what clients saw second by second."""
    lines = [
        "| fault | lasted | answers from its beginning on | longest request | before it | last refusal after its end "
        "| answered with 200 in all | lost |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_row(one) for one in result.findings]
    lines += ["", "Second by second (status x answers, by when the request was sent):", ""]
    lines += [f"- {one.fault}: " + "; ".join(_second(second) for second in one.seconds) for one in result.findings]
    lines += [f"- lost: {problem}" for one in result.findings for problem in one.lost[:20]]
    return "\n".join(lines)


def _row(one: Finding) -> str:
    cells = [
        one.fault,
        f"{one.lasted_s:.1f} s",
        _second(one.statuses),
        f"{one.longest_s * 1000:.0f} ms",
        f"{one.longest_before_s * 1000:.0f} ms",
        f"{one.back_s:.1f} s" if one.back_s else "none",
        str(one.told),
        str(len(one.lost)),
    ]
    return f"| {' | '.join(cells)} |"


def _second(answers: dict[str, int]) -> str:
    return ", ".join(f"{status} x {number}" for status, number in sorted(answers.items())) or "none"
