"""The numbers of `catflap lab faults`, from a clients' log that is written by hand."""

import random

from lab.faults.report import markdown
from lab.faults.run import Finding, Result, finding, short
from lab.house.client import Seen

WISH = short(1, random.Random(1))


def found(*seen: Seen) -> Finding:
    return finding("a flood", [(WISH, one) for one in seen], 10.0, 12.0, ["r1: no row"])


def test_answers_are_counted_by_second_and_the_longest_is_told_apart_from_the_calm_before() -> None:
    calm = Seen(sent=9.0, last=9.3, status=200)
    one = found(calm, Seen(sent=10.1, last=10.2, status=503), Seen(sent=11.5, last=12.5, status=200))
    assert one.seconds == [{"503": 1}, {"200": 1}]
    assert (round(one.longest_s, 3), round(one.longest_before_s, 3), one.told) == (1.0, 0.3, 2)
    assert one.statuses == {"503": 1, "200": 1}


def test_a_request_under_way_when_it_began_counts_in_its_first_second() -> None:
    assert found(Seen(sent=9.9, last=10.4, status=0)).seconds == [{"0": 1}]


def test_how_long_refusals_went_on_is_measured_from_the_faults_end() -> None:
    assert found(Seen(sent=13.5, last=13.6, status=503), Seen(sent=14.0, last=14.1, status=200)).back_s == 1.5
    assert found(Seen(sent=11.0, last=11.1, status=503)).back_s == 0.0


def test_the_table_has_a_line_for_each_fault_and_names_what_was_lost() -> None:
    text = markdown(Result(findings=[found(Seen(sent=10.1, last=10.2, status=503))]))
    assert "| a flood | 2.0 s | 503 x 1 | 100 ms | 0 ms | none | 0 | 1 |" in text
    assert "- a flood: 503 x 1" in text
    assert "- lost: r1: no row" in text
