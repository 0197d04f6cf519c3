"""`catflap fleet`: the fleet file against the live servers."""

import asyncio
import json as json_module
from typing import Annotated

import typer
from aiohttp import ClientError
from tritonclient.utils import InferenceServerException

from gateway.fleet.file import Endpoint, Fleet, FleetError, Model, TensorModel, fleet_schema, read_fleet
from gateway.fleet.health import PROBE_TIMEOUT_S, Health, connect, misfits
from gateway.fleet.models import load_models, load_tensor_models
from gateway.settings import Settings

app = typer.Typer(help="The GPUs: which models are served where.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="One line of JSON.")]


@app.command()
def check(json: Json = False) -> None:
    """Hold the fleet file against the live servers; exit 1 if something does not fit."""
    found = _survey()
    if json:
        typer.echo(json_module.dumps(found))
    else:
        for line in found:
            typer.echo(f"{line['model']} at {line['endpoint']}: {line['state']}")
    if any(line["state"] != "ready" for line in found):
        raise typer.Exit(1)


@app.command()
def status(json: Json = False) -> None:
    """Show each model at each endpoint, and what is wrong with it, if anything."""
    found = _survey()
    typer.echo(json_module.dumps(found) if json else _table(found))


@app.command()
def schema() -> None:
    """Print the JSON Schema of fleet files."""
    typer.echo(json_module.dumps(fleet_schema(), indent=2))


def _survey() -> list[dict[str, str]]:
    settings = Settings()
    try:
        fleet = read_fleet(settings.fleet)
        load_models(fleet)
        load_tensor_models(fleet, Health(fleet))
    except FleetError as problem:
        typer.echo(f"catflap: {problem}", err=True)
        raise typer.Exit(1) from problem
    return asyncio.run(_ask(fleet))


async def _ask(fleet: Fleet) -> list[dict[str, str]]:
    endpoints = {endpoint.name: endpoint for endpoint in fleet.endpoints}
    pairs = [(endpoints[name], model) for model in fleet.served for name in model.endpoints]
    states = await asyncio.gather(*(_state(endpoint, model) for endpoint, model in pairs))
    return [
        {"model": model.name, "endpoint": endpoint.name, "region": endpoint.region, "state": state}
        for (endpoint, model), state in zip(pairs, states, strict=True)
    ]


async def _state(endpoint: Endpoint, model: Model | TensorModel) -> str:
    client = connect(endpoint)
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            if not await client.is_model_ready(model.triton.name, model.triton.version):
                return "not ready"
            return " ".join(await misfits(client, model)) or "ready"
    except (ClientError, OSError, TimeoutError) as problem:
        return f"not reachable ({type(problem).__name__})"
    except InferenceServerException:
        return "its metadata cannot be read"
    finally:
        await client.close()


def _table(rows: list[dict[str, str]]) -> str:
    names = ("model", "endpoint", "region", "state")
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    lines = [{name: name.upper() for name in names}, *rows]
    return "\n".join("  ".join(line[name].ljust(widths[name]) for name in names).rstrip() for line in lines)
