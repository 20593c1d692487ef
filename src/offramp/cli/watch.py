"""Repeats a view of a gateway until the person has seen enough: on the screen of a terminal, else as lines."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.cli.output import say
from offramp.errors import OfframpError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Watch = Annotated[bool, typer.Option("--watch", help="Refresh every 2 s until Ctrl-C.")]
EVERY_S = 2.0
"""Seconds between two looks."""


def on_screen(screen: Console, look: Callable[[], tuple[Text, bool]]) -> None:
    """Draw what `look` returns on the whole screen, until it says that it is over, or Ctrl-C.

    A gateway that is unavailable for a while does not end it: the screen says so.
    """
    from rich.live import Live
    from rich.text import Text

    with contextlib.suppress(KeyboardInterrupt), Live(Text(), console=screen, screen=True, auto_refresh=False) as live:
        shown, is_over = Text(), False
        while not is_over:
            try:
                shown, is_over = look()
                live.update(shown, refresh=True)
            except OfframpError as error:
                live.update(Text(f"{error}\n\n", style="red") + shown, refresh=True)
            if not is_over:
                time.sleep(EVERY_S)


def as_lines(look: Callable[[], object]) -> None:
    """Call `look`, which prints what is new, until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        problem = ""
        while True:
            try:
                look()
                problem = ""
            except OfframpError as error:
                if str(error) != problem:
                    say(str(error))
                problem = str(error)
            time.sleep(EVERY_S)
