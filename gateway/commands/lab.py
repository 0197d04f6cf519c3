"""`catflap lab`: the instruments. The package `lab` is looked for only when asked for, so that a production install can
leave it out."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

app = typer.Typer(help="Instruments: benchmarks and proofs.", no_args_is_help=True)
bench = typer.Typer(help="Benchmarks: interleaved runs that print ratios.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.callback()
def benchmarks() -> None:
    """Benchmarks: interleaved runs that print ratios."""


@bench.command("gateway")
def bench_gateway(
    rounds: Annotated[int, typer.Option(min=1, help="How often each peer is measured.")] = 3,
    seconds: Annotated[float, typer.Option(min=2, help="Length of the main load on one peer.")] = 8,
    only: Annotated[list[str] | None, typer.Option(help="Measure only this peer; may be repeated.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 when out of budget.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON to this file as well.")] = None,
) -> None:
    """Catflap against its floors: throughput, latency, CPU, memory, start."""
    gateway = _instrument("lab.bench.gateway")
    with _told():
        result = gateway.run(rounds=rounds, seconds=seconds, peers=only or (), say=_say)
    if out:
        out.write_text(result.json() + "\n")
    typer.echo(result.json() if as_json else result.markdown())
    if check and not result.within_budget:
        raise typer.Exit(1)


@bench.command("transports")
def bench_transports(
    rounds: Annotated[int, typer.Option(min=1, help="How often each road is measured.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """HTTP and gRPC to a real Triton: CPU a chunk, time to first token, cancellation, memory."""
    transports = _instrument("lab.bench.transports")
    with _told():
        result = transports.run(rounds=rounds, say=_say)
    typer.echo(result.json() if as_json else result.markdown())


@bench.command("quota")
def bench_quota(
    rounds: Annotated[int, typer.Option(min=1, help="How often each plan is measured beside each number of keys.")] = 5,
    requests: Annotated[int, typer.Option(min=2, help="Admissions, and settlements, of one measurement.")] = 2000,
    keys: Annotated[list[int] | None, typer.Option(help="Keys that Redis knows; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON to this file as well.")] = None,
) -> None:
    """Admission and settlement: time, round trips and Redis's memory, with 1, 4 and 16 limits, beside many keys."""
    quota = _instrument("lab.bench.quota")
    with _told():
        result = quota.run(
            rounds=rounds,
            requests=requests,
            keys=keys or (1_000, 1_000_000),
            say=_say,
        )
    if out:
        out.write_text(result.json() + "\n")
    typer.echo(result.json() if as_json else result.markdown())


@bench.command("policies")
def bench_policies(
    rounds: Annotated[int, typer.Option(min=1, help="How often both gateways are measured.")] = 7,
    requests: Annotated[int, typer.Option(min=1, help="Of each gateway in each round.")] = 100,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 when out of budget.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """An ordinary request's time with 100 policies loaded against none, side by side."""
    policies = _instrument("lab.bench.policies")
    with _told():
        result = policies.run(rounds=rounds, requests=requests, say=_say)
    typer.echo(result.json() if as_json else result.markdown())
    if check and not result.within_budget:
        raise typer.Exit(1)


@app.command("exactness")
def exactness(
    redis: Annotated[list[str] | None, typer.Option(help="6.2, 7.0 or cluster; may be repeated. Default: all.")] = None,
    seconds: Annotated[float, typer.Option(min=10, help="How long clients ask; a second minute shows after 61.")] = 130,
    clients: Annotated[int, typer.Option(min=4, help="Clients of each limit on a rate or a budget.")] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, each request included, instead of a table.")
    ] = False,
) -> None:
    """Every kind of limit at every level, ten times over-asked through four gateways, judged from the clients' log."""
    run = _instrument("lab.exactness.run")
    cases = _instrument("lab.exactness.cases")
    report = _instrument("lab.exactness.report")
    kinds = redis or list(_instrument("lab.house.redis").KINDS)
    with _told():
        result = run.run(kinds, cases.Load(seconds=seconds, clients=clients), say=_say)
    typer.echo(result.json() if as_json else report.markdown(result))
    if result.problems:
        raise typer.Exit(1)


@app.command("books")
def books(
    requests: Annotated[int, typer.Option(min=100, help="How many.")] = 10_000,
    deaths: Annotated[int, typer.Option(min=1, help="About so many gateways are killed under them.")] = 40,
    redis: Annotated[str, typer.Option(help="6.2, 7.0 or cluster, of which one master is killed each time.")] = "7.0",
    seed: Annotated[int, typer.Option(help="Of the mix.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, each request included.")] = False,
) -> None:
    """Mixed requests while gateways, Redis, database, ledger and reclaimer are killed; then the ledger is audited."""
    run = _instrument("lab.books.run")
    report = _instrument("lab.books.report")
    with _told():
        found = run.run(requests=requests, deaths=deaths, redis=redis, seed=seed, say=_say)
    typer.echo(found.json() if as_json else report.markdown(found))
    if found.problems:
        raise typer.Exit(1)


@app.command("faults")
def faults(
    seconds: Annotated[float, typer.Option(min=1, help="How long Redis and the database are away.")] = 5,
    ledger_seconds: Annotated[float, typer.Option(min=1, help="How long the ledger is away.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Redis killed, paused, flushed, database and ledger stopped under a load: what clients see, what is lost."""
    run = _instrument("lab.faults.run")
    report = _instrument("lab.faults.report")
    with _told():
        result = run.run(seconds=seconds, ledger_seconds=ledger_seconds, say=_say)
    typer.echo(result.json() if as_json else report.markdown(result))
    if any(finding.lost for finding in result.findings):
        raise typer.Exit(1)


@app.command("distinguish")
def distinguish(
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of requests; at least one of every kind is asked.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of words and order.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Every kind once, and 400 pairs in all.")] = False,
    prefill_ms: Annotated[float, typer.Option(min=0, help="The model's time for a prompt token not cached.")] = 0.04,
    token_ms: Annotated[float, typer.Option(min=0, help="Its time for a token of the answer.")] = 2,
    cache: Annotated[bool, typer.Option(help="Whether the model has a prefix cache.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """An attacker with a clean and a contained key tries to tell them apart by anything but the words."""
    run = _instrument("lab.distinguish.run")
    report = _instrument("lab.distinguish.report")
    rates = _instrument("lab.distinguish.upstream").Rates(prefill=prefill_ms, token=token_ms, cache=cache)
    with _told():
        result = run.run(pairs=min(pairs, 400) if quick else pairs, seed=seed, rates=rates, say=_say)
    typer.echo(result.json() if as_json else report.markdown(result))
    if result.problems:
        raise typer.Exit(1)


def _say(line: str) -> None:
    """Progress goes to standard error."""
    typer.echo(line, err=True)


@contextmanager
def _told() -> Iterator[None]:
    """What stops an instrument is said in its one sentence, with exit 1."""
    errors = _instrument("lab.bench.errors")
    try:
        yield
    except errors.BenchError as problem:
        typer.echo(str(problem), err=True)
        raise typer.Exit(1) from problem


def _instrument(name: str) -> ModuleType:
    """A module of `lab`; one sentence and exit 1 when it, or something only it needs, is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as problem:
        typer.echo(f"The instruments are not installed here: the module {problem.name} is missing.", err=True)
        raise typer.Exit(1) from problem
