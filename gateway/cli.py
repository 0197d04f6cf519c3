"""The command `catflap`: nothing but the list of its subcommands; each lives in gateway/commands/.

A subcommand's module is imported when it is asked for: `catflap up` starts three more of them, and none should pay for
what the others need.
"""

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from gateway import __version__

COMMANDS = {
    "up": "gateway.commands.up:up",
    "serve": "gateway.commands.serve:serve",
    "admin": "gateway.commands.admin:admin",
    "work": "gateway.commands.work:work",
    "migrate": "gateway.commands.work:migrate",
    "key": "gateway.commands.key:app",
    "principal": "gateway.commands.principal:app",
    "policy": "gateway.commands.policy:app",
    "evidence": "gateway.commands.evidence:app",
    "canary": "gateway.commands.canary:app",
    "usage": "gateway.commands.usage:bill",
    "events": "gateway.commands.events:app",
    "fleet": "gateway.commands.fleet:app",
    "lab": "gateway.commands.lab:app",
}
"""Subcommand -> module and the function or group of commands in it."""


class Subcommands(TyperGroup):
    """A group whose members are imported one by one."""

    def list_commands(self, ctx: Any) -> list[str]:
        """click: in the order of the table."""
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """click: the subcommand, or None."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, attribute = COMMANDS[cmd_name].split(":")
        found = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.command()(found)
            found = alone
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(cls=Subcommands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def catflap() -> None:
    """The LLM API gateway for people who run their own GPUs behind NVIDIA Triton."""


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Exit 0: done; 1: a check or a step failed, said in one sentence; 2: wrong usage."""
    sys.exit(app())
