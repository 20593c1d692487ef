"""`offramp list`: the runs of a gateway as a table, once or again and again, or as JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offramp.cli.options import URL_DEFAULT, ApiKey, AsJson, Session, Url
from offramp.cli.output import OK, CommandError, console, say, write_json
from offramp.cli.watch import Watch, as_lines, on_screen
from offramp.core.run import TRANSITIONS

if TYPE_CHECKING:
    from rich.text import Text

    from offramp.cli.client import Gateway

STYLES = {"completed": "green", "failed": "red", "expired": "red", "cancelled": "yellow", "running": "cyan"}


def list_runs(  # noqa: PLR0913 - one parameter for each option
    *,
    session: Session = None,
    status: Annotated[
        str | None, typer.Option("--status", help=f"One of {', '.join(TRANSITIONS)}.", show_default=False)
    ] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", help="Of this pipeline.", show_default=False)] = None,
    sla: Annotated[str | None, typer.Option("--class", help="Of this class.", show_default=False)] = None,
    path: Annotated[str | None, typer.Option("--path", help="On this path: fast or deep.", show_default=False)] = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only runs that wait for a signal or a time.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Accepted from this time on.", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Accepted before this time.", show_default=False)
    ] = None,
    search: Annotated[
        str | None,
        typer.Option("--search", "-q", metavar="TEXT", help="In id, session or metadata.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")] = 20,
    after: Annotated[
        str | None, typer.Option("--after", metavar="RUN", help="Older than this run.", show_default=False)
    ] = None,
    watch: Watch = False,
    as_json: AsJson = False,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = None,
) -> int:
    """List runs, newest first, with their errors and waits.

    With --watch, a terminal shows the list anew every 2 s; elsewhere, and with --json, each new or changed run is one
    line.
    """
    from offramp.cli.client import Gateway

    if status is not None and status not in TRANSITIONS:
        raise CommandError(f"--status is one of {', '.join(TRANSITIONS)}, got {status!r}")
    wanted: dict[str, Any] = {"session_id": session, "status": status, "pipeline": pipeline, "class": sla, "path": path}
    wanted |= {"waiting": "true" if waiting else None, "since": since, "until": until, "q": search}
    with Gateway(url, api_key) as gateway:
        page = gateway.list(limit=limit, after=after, **wanted).data
        if watch:
            return _watch(gateway, {**wanted, "limit": limit, "after": after}, as_json=as_json)
    if as_json:
        write_json(page)
        return OK
    runs = page["runs"]
    if not runs:
        say("no such runs" if after or any(wanted.values()) else "no runs")
        return OK
    out = console(sys.stdout)
    out.print(_table(runs, out.width))
    if page["has_more"]:
        say(f"more: --after {page['after']}")
    return OK


def _table(runs: list[dict[str, Any]], width: int) -> Text:
    from rich.text import Text

    from offramp.cli.run_table import table

    head, *lines = table(runs, time.time(), width)
    drawn = [Text(head, style="dim")]
    for run, line in zip(runs, lines, strict=True):
        text = Text(line)
        text.highlight_words([run["status"]], STYLES.get(run["status"], ""))
        drawn.append(text)
    return Text("\n").join(drawn)


def _watch(gateway: Gateway, wanted: Mapping[str, Any], *, as_json: bool) -> int:
    from rich.console import Console
    from rich.text import Text

    gateway.note = lambda _: None  # the next look tries again anyway

    if sys.stdout.isatty() and not as_json:
        screen = Console(highlight=False, markup=False, emoji=False)

        def drawn() -> tuple[Text, bool]:
            runs = gateway.list(**wanted).data["runs"][: max(1, screen.height - 1)]
            return (_table(runs, screen.width) if runs else Text("no such runs")), False

        on_screen(screen, drawn)
        return OK
    seen: dict[str, Any] = {}

    def new() -> None:
        from offramp.cli.run_table import COLUMNS, row

        ages = {at for at, column in enumerate(COLUMNS) if column.name == "age"}
        runs = gateway.list(**wanted).data["runs"]
        for run in reversed(runs):
            cells = [cell for at, cell in enumerate(row(run, 0.0)) if at not in ages]
            if seen.get(run["id"]) != cells:
                _print_change(run, cells, as_json=as_json)
            seen[run["id"]] = cells
        for gone in seen.keys() - {run["id"] for run in runs}:
            del seen[gone]

    as_lines(new)
    return OK


def _print_change(run: dict[str, Any], cells: list[str], *, as_json: bool) -> None:
    if as_json:
        write_json(run)
    else:
        print(time.strftime("%H:%M:%S"), *(cell for cell in cells if cell), sep="  ", flush=True)
