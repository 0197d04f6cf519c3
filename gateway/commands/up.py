"""`catflap up`: everything on this machine, until Ctrl-C."""

import asyncio
import signal
from typing import Annotated

import msgspec
import typer

from gateway.commands.console import fail, read_settings, warn
from gateway.embedded.problem import StartError
from gateway.embedded.stack import Running, running
from gateway.settings import Settings

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def up(
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON once everything is ready.")] = False,
) -> None:
    """Start everything on this machine: Redis, the database, Triton, both planes and the background readers."""
    settings = read_settings()
    try:
        asyncio.run(_up(settings, as_json))
    except StartError as problem:
        fail(str(problem))


async def _up(settings: Settings, as_json: bool) -> None:
    """Returns when a signal has ended it; a second signal ends it without waiting for anything to drain."""
    task = asyncio.create_task(_run(settings, as_json))
    for number in STOPPING:
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def _run(settings: Settings, as_json: bool) -> None:
    async with running(settings, warn) as stack:
        if as_json:
            typer.echo(msgspec.json.encode(stack).decode())
        else:
            warn(_welcome(stack))
        await asyncio.Event().wait()


def _welcome(stack: Running) -> str:
    body = f'{{"model":"{stack.model}","messages":[{{"role":"user","content":"Tell me about cats"}}]}}'
    return f"""
Catflap is ready (Ctrl-C stops it).

  API    {stack.url}/v1
  admin  {stack.admin_url}
  model  {stack.model}
  key    {stack.key}

  curl {stack.url}/v1/chat/completions -H 'authorization: Bearer {stack.key}' \\
    -H 'content-type: application/json' -d '{body}'
"""
