"""Who computes what in the next step."""

import numpy as np
import pytest
from tinyllm.blocks import BlockPool
from tinyllm.parameters import Parameters
from tinyllm.requests import Request, new_request
from tinyllm.scheduler import Scheduler

from tests.unit.triton_models.engine_parts import Reply


class Desk:
    """A scheduler, and the arrivals and steps around it."""

    def __init__(self, blocks: int, places: int = 8, step: int = 100) -> None:
        self.scheduler = Scheduler(BlockPool(blocks, 4), places, step)
        self.random = np.random.default_rng(1)
        self.arrivals = 0

    def arrive(self, prompt: int) -> Request:
        tokens: list[int] = self.random.integers(0, 250, prompt).tolist()
        request = new_request(tokens, 99, Parameters(), Reply(), self.arrivals)
        self.arrivals += 1
        self.scheduler.add(request)
        return request

    def step(self) -> list[tuple[int, int]]:
        """One step: (order, tokens) of what was computed; those that could write have one token more."""
        plan = self.scheduler.plan()
        for work in plan:
            samples = work.samples
            self.scheduler.done(work)
            if samples:
                work.sequence.tokens.append(7)
        return [(work.sequence.order, work.tokens) for work in plan]


def test_single_tokens_come_first_and_prompts_share_what_is_left() -> None:
    desk = Desk(blocks=100, step=20)
    desk.arrive(10)
    assert desk.step() == [(0, 10)]
    desk.arrive(30)
    desk.arrive(5)
    assert [desk.step() for _ in range(3)] == [[(0, 1), (1, 19)], [(0, 1), (1, 11), (2, 5)], [(0, 1), (1, 1), (2, 1)]]


def test_nobody_is_let_in_whose_prompt_does_not_fit() -> None:
    desk = Desk(blocks=5)
    desk.arrive(10)
    desk.arrive(10)
    assert desk.step() == [(0, 10)]
    assert len(desk.scheduler.waiting) == 1


def test_the_one_who_came_last_yields_and_comes_back_first() -> None:
    desk = Desk(blocks=4)
    desk.arrive(7)
    desk.arrive(7)
    desk.arrive(7)
    assert desk.step() == [(0, 7), (1, 7)]
    assert desk.step() == [(0, 1), (1, 1)]
    assert desk.step() == [(0, 1)]  # both want a third block, and there is none
    assert [sequence.order for sequence in desk.scheduler.waiting] == [1, 2]
    assert desk.scheduler.preempted == 1
    first = desk.scheduler.running[0]
    desk.scheduler.finish(first)
    # Its tokens stayed; of its two full blocks the second was taken by the other, and the first is still known.
    assert desk.step()[0] == (1, 5)


def test_a_request_that_is_removed_leaves_its_blocks() -> None:
    desk = Desk(blocks=10)
    running, waiting = desk.arrive(30), desk.arrive(30)
    desk.step()
    desk.scheduler.remove(running)
    desk.scheduler.remove(waiting)
    assert (desk.scheduler.usage, desk.scheduler.plan()) == (0.0, [])


def test_places_are_not_exceeded() -> None:
    desk = Desk(blocks=100, places=2)
    for _ in range(3):
        desk.arrive(4)
    assert len(desk.step()) == 2


def test_a_step_that_could_not_hold_a_token_for_everyone_is_refused() -> None:
    with pytest.raises(ValueError, match="max_step_tokens"):
        Desk(blocks=10, places=8, step=8)


def test_chunks_get_shorter_further_back_in_a_prompt() -> None:
    desk = Desk(blocks=600, step=256)
    desk.arrive(2000)
    chunks: list[int] = []
    while sum(chunks) < 2000:
        [(_, tokens)] = desk.step()
        chunks.append(tokens)
    assert chunks[0] == 256
    assert chunks[:-1] == sorted(chunks[:-1], reverse=True)
    assert max(tokens * (400 + sum(chunks[:n])) for n, tokens in enumerate(chunks)) <= 256 * 400
