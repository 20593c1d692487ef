"""`offramp top`: the classes with their burn, the live runs and the processes of a gateway, on one screen."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offramp.cli.options import URL_DEFAULT, ApiKey, Url
from offramp.cli.output import OK, REFUSED, CommandError, console
from offramp.cli.top_frame import WINDOW, Line, Snapshot, frame
from offramp.errors import OfframpError

if TYPE_CHECKING:
    from rich.text import Text

    from offramp.client import Client

SIZE_ELSEWHERE = (80, 24)
"""Columns and lines outside a terminal."""
RUNS_READ = 50


def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and exit, for scripts.")] = False,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.5, max=3600, help="Time between two frames.")
    ] = 2.0,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = None,
) -> int:
    """Watch a gateway: classes with their burn, live runs, processes.

    A burn of 1 spends a class's error budget exactly; LEFT is what remains of 30 days. ENDED, BAD and DEMOTED count the
    last hour. Quit with 'q' or Ctrl-C.
    """
    from offramp.client import Client

    with Client(url, api_key or "", patience=0) as gateway:
        try:
            shown = _snapshot(gateway, url)
        except OfframpError as error:
            from offramp.cli.client import refused

            raise CommandError(refused(error), REFUSED) from error
        if once or not sys.stdout.isatty():
            console(sys.stdout).print(_drawn(frame(shown, *shutil.get_terminal_size(SIZE_ELSEWHERE))))
            return OK
        _watch(gateway, shown, every)
    return OK


def _snapshot(gateway: Client, url: str) -> Snapshot:
    """Ask for everything.

    Raises:
        OfframpError: the gateway refused, or was not reached.
    """

    def ask(path: str, **params: Any) -> Any:
        return gateway.request("GET", path, params=params)

    workers = ask("/v1/workers")
    unfinished = [ask("/v1/runs", status=status, limit=RUNS_READ)["runs"] for status in ("running", "queued")]
    return Snapshot(
        url,
        time.time(),
        ask("/v1/slo")["classes"],
        ask("/v1/stats", window=WINDOW)["stats"],
        workers["workers"],
        sorted((run for runs in unfinished for run in runs), key=lambda run: str(run["id"]), reverse=True),
        scaling=workers.get("scaling"),
    )


def _watch(gateway: Client, shown: Snapshot, every: float) -> None:
    """Draw one frame after the other, until the person quits."""
    from rich.console import Console
    from rich.live import Live

    screen = Console(highlight=False, markup=False, emoji=False)

    def drawn() -> Text:
        return _drawn(frame(shown, screen.width, screen.height))

    live = Live(drawn(), console=screen, screen=True, auto_refresh=False)
    with contextlib.suppress(KeyboardInterrupt), _keys(), live:
        while not _quits(every):
            try:
                shown = _snapshot(gateway, shown.url)
            except OfframpError as error:  # a restart of the gateway does not end the watch
                shown = replace(shown, at=time.time(), problem=str(error))
            live.update(drawn(), refresh=True)


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Deliver keys as they are pressed, and show none."""
    try:
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin)
    except (ImportError, OSError, ValueError, termios.error):
        yield  # no terminal to type in: Ctrl-C alone quits
        return
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _quits(within_s: float) -> bool:
    """Wait for the next frame; True if 'q' was pressed meanwhile."""
    import select

    ends = time.monotonic() + within_s
    while (left := ends - time.monotonic()) > 0:
        if not sys.stdin.isatty():
            time.sleep(left)
        elif select.select([sys.stdin], [], [], left)[0] and os.read(sys.stdin.fileno(), 1) in {b"q", b"Q", b""}:
            return True
    return False


def _drawn(lines: list[Line]) -> Text:
    from rich.text import Text

    return Text("\n").join([Text(line.text, style=line.style) for line in lines])
