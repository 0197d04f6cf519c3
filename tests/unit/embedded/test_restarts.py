"""What is said of a program that fails, and how long it is waited."""

from gateway.embedded.restarts import BACKOFF_MOST_S, HEALTHY_S, LOOP_FAILURES, LOOP_WINDOW_S, Restarts

LOG = "/var/x.log"


def test_an_end_is_told_with_its_wait_each_time() -> None:
    restarts = Restarts("Redis", LOG)
    assert restarts.ended(0, "ended by SIGKILL", 99) == (0.5, ["Redis: ended by SIGKILL; starting it again in 0.5 s"])
    assert restarts.ended(9, "ended by SIGKILL", 8) == (1, ["Redis: ended by SIGKILL; starting it again in 1 s"])


def test_one_reason_is_said_once_until_it_works_also_when_its_numbers_differ() -> None:
    restarts = Restarts("Redis", LOG)
    restarts.ended(0, "ended", 99)
    assert restarts.did_not_start(1, "no room (pid 12, at 0x7f)")[1] == [
        "Redis: still down, tried again until it works: no room (pid 12, at 0x7f)"
    ]
    assert restarts.did_not_start(2, "no room (pid 13, at 0x8e)")[1] == []
    assert len(restarts.did_not_start(3, "another reason")[1]) == 1
    assert restarts.works(4.04) == "Redis: works again after 4.0 s"
    restarts.ended(5, "ended", 1)
    assert "another reason" in restarts.did_not_start(400, "another reason")[1][0]


def test_five_failures_in_five_minutes_are_said_once_and_the_longest_wait_is_kept() -> None:
    restarts = Restarts("Redis", LOG)
    restarts.ended(0, "ended", 99)
    told = [restarts.did_not_start(now, "no room") for now in range(1, 8)]
    loops = [(wait, lines) for wait, lines in told if any("has failed 5 times within 5 minutes" in li for li in lines)]
    assert len(loops) == 1
    assert LOG in loops[0][1][0]
    assert [wait for wait, _ in told[LOOP_FAILURES - 2 :]] == [BACKOFF_MOST_S] * 4


def test_failures_far_apart_are_no_loop() -> None:
    restarts = Restarts("Redis", LOG)
    for turn in range(10):
        _, lines = restarts.ended(turn * LOOP_WINDOW_S / 3, "ended", 1)
        assert len(lines) == 1


def test_a_healthy_minute_ends_a_loop() -> None:
    restarts = Restarts("Redis", LOG)
    for now in range(10):
        restarts.ended(now, "ended", 1)
    assert restarts.ended(99, "ended", HEALTHY_S) == (0.5, ["Redis: ended; starting it again in 0.5 s"])
