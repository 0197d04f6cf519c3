"""`python -m lab.books.mortal POINT AFTER CALM`: `catflap serve` that kills itself with SIGKILL at the worst moment.

POINT: `admitted`, the reservation is made and nothing else; `told`, the last bytes of an answer have just been handed
to the client's socket; `settled`, the settlement has just been posted and nothing of the answer's end is written yet.
It dies at the AFTER-th time that it comes there, or the first after that, while there is no file CALM.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway import cli
from gateway.dataplane.exchange import Exchange
from gateway.quota.keeper import Quota

POINTS = ("admitted", "settled", "told")


class Fate:
    """Counts how often the point was reached."""

    def __init__(self, after: int, calm: Path) -> None:
        self._left = after
        self._calm = calm

    def step(self) -> None:
        self._left -= 1
        if self._left <= 0 and not self._calm.exists():
            os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str, fate: Fate) -> None:
    """Put the fate behind the calls that make up the point."""
    if point == "admitted":
        _behind(Quota, "admit", fate)
    elif point == "settled":
        _behind_plain(Quota, "settle", fate)
    else:
        _behind(Exchange, "end_stream", fate)
        _behind(Exchange, "answer", fate)


def _behind(kind: type, name: str, fate: Fate) -> None:
    original: Callable[..., Any] = getattr(kind, name)

    async def mortal(*args: Any, **options: Any) -> Any:
        result = await original(*args, **options)
        fate.step()
        return result

    setattr(kind, name, mortal)


def _behind_plain(kind: type, name: str, fate: Fate) -> None:
    original: Callable[..., Any] = getattr(kind, name)

    def mortal(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        fate.step()
        return result

    setattr(kind, name, mortal)


def main() -> None:
    point, after, calm = sys.argv[1:]
    arm(point, Fate(int(after), Path(calm)))
    sys.argv = ["catflap", "serve"]
    cli.main()


if __name__ == "__main__":
    main()
