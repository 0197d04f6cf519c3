"""The benchmark's smoke form for CI: counts, not time, of the real gateway with a real Redis before the mock Triton.

Time drifts by a third between two runs on a shared machine; a count does not drift at all. So what must never slip in
(a second round trip, a second log line, a leaked task, a connection a request) is asserted here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest

from lab.bench import traffic, triton_answers
from lab.bench.catflap import Catflap, Counts
from lab.bench.client import Client
from lab.bench.measure import mock_counters
from lab.bench.processes import mock_triton, redis_server

CONNECTIONS, WHOLE, STREAMS = 8, 200, 20
CHUNKS = 50
SCRIPTS_A_REQUEST = 2
"""Admit and settle."""
SCRIPTS_BESIDE = 0
"""What the gateway may run beside them during the load: a lease is renewed after 10 s, no request takes as long."""
WAIT_S, LOOK_S = 15.0, 0.1


@dataclass(frozen=True)
class Served:
    """What one load left behind."""

    counts: Counts
    entries: int
    upstream: dict[str, int]
    tasks_before: float
    tasks_after: float
    in_flight: float
    reservations: int
    texts: dict[str, int]
    """Generated text -> how many answers had it."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One gateway, one load for all tests of this module; no ledger, so that the streams keep every entry."""
    folder = tmp_path_factory.mktemp("smoke")
    with mock_triton(folder, CHUNKS) as (_mock, port), redis_server(folder) as (_redis, url):
        gateway = Catflap(folder, url, port)
        gateway.prepare()
        with gateway.serving() as process:
            asyncio.run(gateway.await_ready(process))
            yield asyncio.run(serve(gateway, port))


async def serve(gateway: Catflap, mock_port: int) -> Served:
    await ask(gateway, stream=False, requests=1)  # what is made once, the scripts' first load included, is made now
    await ask(gateway, stream=True, requests=1)
    await settled(gateway, 2)
    tasks_before = await gateway.gauge("catflap_asyncio_tasks")
    before, mock_before = gateway.counts(), await mock_counters(mock_port)

    texts: dict[str, int] = {}
    for stream, requests in ((False, WHOLE), (True, STREAMS)):
        shares = [requests // CONNECTIONS + (n < requests % CONNECTIONS) for n in range(CONNECTIONS)]
        for answers in await asyncio.gather(*(ask(gateway, stream=stream, requests=share) for share in shares)):
            for text in answers:
                texts[text] = texts.get(text, 0) + 1

    await settled(gateway, 2 + WHOLE + STREAMS)
    after, mock_after = gateway.counts(), await mock_counters(mock_port)
    return Served(
        counts=difference(after, before),
        entries=gateway.entries() - 2,
        upstream={name: mock_after[name] - mock_before[name] for name in mock_after},
        tasks_before=tasks_before,
        tasks_after=await value_becomes(lambda: gateway.gauge("catflap_asyncio_tasks"), tasks_before),
        in_flight=await value_becomes(lambda: gateway.gauge("catflap_in_flight_requests"), 0),
        reservations=gateway.reservations(),
        texts=texts,
    )


async def ask(gateway: Catflap, *, stream: bool, requests: int) -> list[str]:
    """The texts of so many answers, one after another over one connection."""
    texts = []
    async with Client(gateway.port, gateway.key) as client:
        for _ in range(requests):
            answer = await client.post(traffic.PATH, traffic.chat(stream=stream))
            assert answer.status == 200, answer.body
            texts.append(traffic.text_of(answer.body))
    return texts


async def settled(gateway: Catflap, requests: int) -> None:
    """Settling and logging go on behind the answer: wait until both have caught up."""

    async def behind() -> float:
        now = gateway.counts()
        return requests - min(now.events, now.access_lines)

    assert await value_becomes(behind, 0) == 0


async def value_becomes(read: Callable[[], Awaitable[float]], wanted: float) -> float:
    """The value of `read` once it is `wanted`; its last one after WAIT_S."""
    for _ in range(int(WAIT_S / LOOK_S)):
        if await read() == wanted:
            return wanted
        await asyncio.sleep(LOOK_S)
    return await read()


def difference(after: Counts, before: Counts) -> Counts:
    return Counts(**{name: getattr(after, name) - getattr(before, name) for name in Counts.__struct_fields__})


def test_every_answer_is_the_mocks(served: Served) -> None:
    stream = "".join(f" word{n}" for n in range(CHUNKS))
    assert served.texts == {triton_answers.AT_ONCE_TEXT: WHOLE, stream: STREAMS}


def test_a_request_costs_two_scripts_in_redis(served: Served) -> None:
    beside = served.counts.scripts - SCRIPTS_A_REQUEST * (WHOLE + STREAMS)
    assert 0 <= beside <= SCRIPTS_BESIDE


def test_a_request_leaves_one_event(served: Served) -> None:
    assert served.counts.events == served.entries == WHOLE + STREAMS


def test_a_request_leaves_one_line_in_the_log_and_no_other(served: Served) -> None:
    assert served.counts.access_lines == WHOLE + STREAMS
    assert served.counts.other_lines == 0


def test_the_upstream_sees_each_request_once_and_no_cancellation(served: Served) -> None:
    assert served.upstream["requests"] == WHOLE + STREAMS
    assert served.upstream["streams"] == STREAMS
    assert served.upstream["cancelled"] == 0


def test_upstream_connections_are_kept_and_no_more_than_clients(served: Served) -> None:
    assert served.upstream["generating_connections"] <= CONNECTIONS


def test_nothing_is_left_running_or_reserved(served: Served) -> None:
    assert served.tasks_after == served.tasks_before
    assert served.in_flight == 0
    assert served.reservations == 0


@pytest.fixture(scope="module")
def booked(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    """A gateway with the ledger beside it: its counts."""
    folder = tmp_path_factory.mktemp("booked")
    with mock_triton(folder, CHUNKS) as (_mock, port), redis_server(folder) as (_redis, url):
        gateway = Catflap(folder, url, port)
        gateway.prepare()
        with gateway.serving() as process, gateway.keeping_books():
            asyncio.run(gateway.await_ready(process))
            asyncio.run(ask(gateway, stream=False, requests=STREAMS))
            return gateway.settled_counts(STREAMS)


def test_the_ledger_takes_every_event_while_the_gateway_serves(booked: Counts) -> None:
    assert booked.ledger_rows == booked.events == booked.access_lines == STREAMS
