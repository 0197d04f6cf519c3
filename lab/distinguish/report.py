"""The tables of a run. Pure."""

from lab.distinguish.attack import Attack
from lab.distinguish.channels import MASKS
from lab.distinguish.classify import MOST, Judged
from lab.distinguish.run import Result


def markdown(result: Result) -> str:
    """The channels, the classifiers, how far the numbers lie apart, the leaks, and the verdict."""
    parts = [
        _head(result),
        _channels(result),
        *_firsts(result.attack, result.null),
        _classifiers(result),
        _shifts(result),
        _sharpness(result),
        _leaks(result),
        _shared(result),
        "Masked, since it differs between any two answers: "
        + ", ".join(dict.fromkeys(name for name, _, _ in MASKS))
        + ", the order of frames between the choices of a stream.",
        _verdict(result),
    ]
    return "\n\n".join(part for part in parts if part)


def _head(result: Result) -> str:
    proof = result.proof
    touched, read = sum(proof.contained_touched.values()), sum(proof.contained.values())
    return (
        f"{result.attack.pairs} pairs of a clean and a contained key, {result.refusals} kinds of bad request among "
        f"them; {touched} of {read} prompts of the contained key reached the model rewritten, "
        f"{sum(proof.clean_touched.values())} of {sum(proof.clean.values())} of the clean one."
    )


def _channels(result: Result) -> str:
    lines = ["| channel | pairs | differ | differ between two clean keys |", "| --- | ---: | ---: | ---: |"]
    null = {one.name: one for one in result.null.channels}
    lines += [
        f"| {one.name} | {one.compared} | {one.differing} | {null[one.name].differing} |"
        for one in result.attack.channels
    ]
    return "\n".join(lines)


def _firsts(attack: Attack, null: Attack) -> list[str]:
    """Where each channel that differs does so first."""
    found = []
    for keys, one_attack in (("clean, contained", attack), ("clean, clean", null)):
        for one in one_attack.differing:
            assert one.first is not None
            where = f"- {one.name} ({keys}) first in pair {one.first.pair}, {one.first.kind}:"
            lines = [where, f"  - `{one.first.clean}`", f"  - `{one.first.contained}`"]
            found.append("\n".join([*lines, f"  - in {len(one.kinds)} kinds: {', '.join(one.kinds[:12])}"]))
    return found


def _classifiers(result: Result) -> str:
    lines = ["| classifier | keys | pairs held out | right | 95% interval |", "| --- | --- | ---: | ---: | ---: |"]
    for keys, attack in (("clean, contained", result.attack), ("clean, clean", result.null)):
        lines += [_classifier(one, keys) for one in attack.classifiers]
    return "\n".join(lines)


def _classifier(one: Judged, keys: str) -> str:
    low, high = one.interval
    return f"| {one.classifier} | {keys} | {one.pairs} | {one.accuracy:.1%} | {low:.1%} to {high:.1%} |"


def _shifts(result: Result) -> str:
    lines = ["| contained less clean, median | clean, contained | clean, clean |", "| --- | ---: | ---: |"]
    lines += [
        f"| {name} | {_sum(one)} | {_sum(result.null.shifts[name])} |" for name, one in result.attack.shifts.items()
    ]
    for name in result.attack.by_kind:
        null = _sum(result.null.by_kind[name]) if name in result.null.by_kind else ""
        lines.append(f"| first token, {name} | {_sum(result.attack.by_kind[name])} | {null} |")
    return "\n".join(lines)


def _sharpness(result: Result) -> str:
    told = [
        "none that was tried" if one.would_find_ms is None else f"{one.would_find_ms} ms"
        for one in (result.attack, result.null)
    ]
    return (
        f"The smallest delay that would have been told in the noise of these runs: {told[0]} (clean, contained), "
        f"{told[1]} (clean, clean)."
    )


def _sum(shift: tuple[float, float]) -> str:
    return f"{shift[0]:+.3f} ± {shift[1]:.3f}"


def _leaks(result: Result) -> str:
    lines = ["| known leak | to be found in | pairs | found |", "| --- | --- | ---: | --- |"]
    lines += [
        f"| {one.leak} | {one.channel} | {one.pairs} | {'yes' if one.found else 'NO'} |" for one in result.controls
    ]
    return "\n".join(lines)


def _shared(result: Result) -> str:
    told = ", ".join(f"{one.classifier} {one.accuracy:.1%}" for one in result.shared)
    return (
        "Open, and no part of the verdict: the same prompt sent with both keys, one after the other, tells whether "
        f"they share its beginning in the prefix cache ({told} of {result.shared[0].pairs} pairs)."
    )


def _verdict(result: Result) -> str:
    if not result.problems:
        return f"Nothing tells them apart: no channel differs, no classifier is above {MOST:.0%}, every leak was found."
    return "\n".join(["Not as promised:", "", *(f"- {problem}" for problem in result.problems)])
