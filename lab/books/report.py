"""The table of a run. Pure."""

from collections import Counter

from lab.books.run import Books


def markdown(books: Books) -> str:
    """How requests ended, what was in flight under a killed gateway, and whether the books balance."""
    lines = ["| the client saw | requests | prompt tokens charged | output charged | output generated |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    settled = [one for one in books.judged if not one.in_flight]
    for how, number in Counter(one.how for one in settled).most_common():
        those = [one for one in settled if one.how == how]
        sums = [sum(getattr(one, field) for one in those) for field in ("prompt", "charged", "generated")]
        lines.append(f"| {how} | {number} | " + " | ".join(map(str, sums)) + " |")
    under_way = books.in_flight
    charged, generated = sum(one.charged for one in under_way), sum(one.generated for one in under_way)
    lines += [
        "",
        "Deaths (gateways after an admission, after a settlement, after the last bytes of an answer; others): "
        + ", ".join(f"{what} {number}" for what, number in books.deaths.items())
        + ".",
        f"In flight in killed gateways: {len(under_way)} requests; output charged {charged}, "
        f"generated (the bound) {generated}.",
        f"{len(books.judged)} requests in {books.seconds:.0f} s. "
        + ("The books balance, to the token." if not books.problems else "The books do not balance:"),
        *(f"- {problem}" for problem in books.problems[:20]),
    ]
    return "\n".join(lines)
