"""The command `catflap`: nothing but the list of its subcommands; each lives in gateway/commands/."""

import sys

import typer

from gateway import __version__
from gateway.commands import fleet, key, lab, serve, up, work

app = typer.Typer(
    name="catflap",
    help="The LLM API gateway for people who run their own GPUs behind NVIDIA Triton.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(up.up)
app.command()(serve.serve)
app.command()(serve.admin)
app.command()(work.work)
app.command()(work.migrate)
app.add_typer(key.app, name="key")
app.add_typer(fleet.app, name="fleet")
app.add_typer(lab.app, name="lab")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Exit 0: done; 1: a check or a step failed, said in one sentence; 2: wrong usage."""
    sys.exit(app())
