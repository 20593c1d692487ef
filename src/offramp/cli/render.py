"""Shows the view of a run: on a terminal, finished lines scroll and running steps stay below; elsewhere, plain lines.

Owns colours and cursor; `view.py` decides what is shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from offramp.cli.output import console
from offramp.cli.view import Line, Mark, RunView, duration, fold
from offramp.core.events import Event

STEPS_SHOWN_MAX = 8
_REFRESHES_PER_SECOND = 10

_MARKS: dict[Mark, tuple[str, str, str]] = {
    "run": ("•", "*", "bold"),
    "start": ("▸", ">", "dim"),
    "done": ("✓", "+", "green"),
    "failed": ("✗", "x", "red"),
    "retry": ("↻", "~", "yellow"),
    "wait": ("…", ".", "magenta"),
    "text": (" ", " ", ""),
    "data": ("·", ".", "dim"),
    "demoted": ("⤵", "v", "bold yellow"),
    "resumed": ("⤷", "^", "cyan"),
    "ended": ("✓", "+", "bold green"),
    "broken": ("✗", "x", "bold red"),
}


class Screen:
    """Shows a run's events as they come; a context manager that restores the terminal.

    Args:
        stream: the output; stderr by default.
        live: whether the stream is a terminal whose last lines may be drawn again; detected by default.
        monotonic: the clock behind the running times.
    """

    def __init__(
        self, stream: TextIO | None = None, *, live: bool | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.view = RunView()
        self._console = console(stream or sys.stderr)
        self._unicode = "utf" in self._console.encoding.lower()
        self._monotonic = monotonic
        self._seen_at = monotonic()
        self._spinner = Spinner("dots" if self._unicode else "line", style="cyan")
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal if live is None else live:
            self._live = Live(
                console=self._console,
                get_renderable=self._below,
                refresh_per_second=_REFRESHES_PER_SECOND,
                transient=True,
                redirect_stdout=True,
                redirect_stderr=True,
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: Event) -> None:
        """Add one event and print its lines."""
        view, lines = fold(self.view, event)
        self._seen_at = self._monotonic()
        self.view = view
        for line in lines:
            self._print(line)

    def note(self, text: str) -> None:
        """Print a remark of the command between the run's lines."""
        self._console.print(Text(f"{'':>10}  {text}", style="dim"))

    def _print(self, line: Line) -> None:
        text = styled(line, unicode=self._unicode)
        self._console.print(text if self._live is not None else Text(text.plain))

    def _below(self) -> RenderableType:
        since = self._monotonic() - self._seen_at
        return below(self.view, since, self._spinner, self._console)


def styled(line: Line, *, unicode: bool) -> Text:
    """A printed line of the view: time, mark, text."""
    fancy, plain, style = _MARKS[line.mark]
    text = Text(f"{line.seconds:>8.2f} s", style="dim")
    text.append(f"  {fancy if unicode else plain} ", style=style)
    text.append(line.text if unicode else line.text.encode("ascii", "replace").decode(), style=style)
    return text


def below(view: RunView, since_s: float, spinner: Spinner, on: Console) -> RenderableType:
    """The running steps: one row each, with the running time and the end of the streamed text.

    `since_s` is how long ago the last event came, so that running times advance between two events.
    """
    if view.ended is not None:
        return Text("")
    table = Table.grid(padding=(0, 1))
    steps = list(view.running.values())
    for step in steps[-STEPS_SHOWN_MAX:]:
        elapsed = Text(duration(max(0.0, view.at - step.started_at + since_s) * 1000), style="dim")
        name = Text(step.name if step.attempt == 1 else f"{step.name} (attempt {step.attempt})")
        room = max(10, on.width - len(name) - len(elapsed) - 8)
        table.add_row(spinner, name, elapsed, Text((step.pending or step.data)[-room:], style="italic", no_wrap=True))
    if not steps:
        what = "waiting for a worker" if view.path == "deep" else "running" if view.run_id else "connecting"
        if view.waits:
            what = f"waiting: {', '.join(view.waits.values())}"
        table.add_row(spinner, Text(what, style="dim"))
    if len(steps) > STEPS_SHOWN_MAX:
        return Group(table, Text(f"  and {len(steps) - STEPS_SHOWN_MAX} more", style="dim"))
    return table
