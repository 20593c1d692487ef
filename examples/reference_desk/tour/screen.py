"""The output: colour, rendered Markdown and a progress bar on a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

_PLAIN_PROGRESS_EVERY = 10


class Screen:
    """Writes to standard output."""

    def __init__(self) -> None:
        """Detect whether the output is a terminal."""
        self._console = Console(highlight=False)

    def scene(self, title: str, request: str) -> None:
        """Open a scene: its title and its request."""
        self._console.print(f"\n[bold]{escape(title)}[/bold]")
        self._console.print(f"[dim]{escape(request)}[/dim]")

    def say(self, text: str, *, style: str = "") -> None:
        """Print a line."""
        self._console.print(escape(text), style=style, soft_wrap=True)

    def good(self, text: str) -> None:
        """Print a success."""
        self.say(text, style="green")

    def bad(self, text: str) -> None:
        """Print a failure."""
        self.say(text, style="bold red")

    def passage(self, markdown: str) -> None:
        """Print a piece of an answer as it arrives."""
        if self._console.is_terminal:
            self._console.print(Markdown(markdown, code_theme="ansi_dark"))
        else:
            self.say(markdown.rstrip("\n") + "\n")

    @contextmanager
    def progress(self, label: str) -> Iterator["Bar"]:
        """Show progress for the duration of the block."""
        if not self._console.is_terminal:
            yield Bar(self, label, None)
            return
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            yield Bar(self, label, progress)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table."""
        table = Table()
        for name in header:
            table.add_column(name, no_wrap=True)
        for row in rows:
            table.add_row(*map(escape, row))
        self._console.print()
        self._console.print(table)


class Bar:
    """The progress of one run."""

    def __init__(self, screen: Screen, label: str, progress: Progress | None) -> None:
        """Draw on `progress` if there is one, else print a line occasionally."""
        self._screen = screen
        self._label = label
        self._progress = progress
        self._task = progress.add_task(label, total=None) if progress else None

    def show(self, delta: dict[str, Any]) -> None:
        """Show `{"done": n, "of": m, "functions": k}`."""
        done, of, functions = delta["done"], delta["of"], delta["functions"]
        if self._progress is not None and self._task is not None:
            label = f"{self._label}, {functions:,} functions"
            self._progress.update(self._task, completed=done, total=of, description=label)
        elif done == 1 or done % _PLAIN_PROGRESS_EVERY == 0 or done == of:
            self._screen.say(f"  {self._label}: {done} of {of} batches, {functions:,} functions")
