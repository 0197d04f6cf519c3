"""What the commands share: settings, and failures said in one sentence."""

from typing import NoReturn

import typer
from pydantic import ValidationError

from gateway.settings import Settings

FAILED = 1
BAD_USAGE = 2


def fail(sentence: str, code: int = FAILED) -> NoReturn:
    """One sentence on standard error, and out."""
    warn(sentence)
    raise typer.Exit(code)


def warn(sentence: str) -> None:
    """One sentence on standard error."""
    typer.echo(sentence, err=True)


def read_settings() -> Settings:
    """The settings from the environment; where one is unusable it is named, its value (a secret, perhaps) is not."""
    try:
        return Settings()
    except ValidationError as error:
        faults = sorted(
            {
                f"CATFLAP_{str(fault['loc'][0]).upper()} ({fault['msg'].removeprefix('Value error, ')})"
                for fault in error.errors()
            }
        )
        fail(f"These settings cannot be used: {', '.join(faults)}.", BAD_USAGE)
