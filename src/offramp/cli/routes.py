"""`offramp routes`: what the router has learned and how well it decides, or what another budget would have done."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from offramp.cli import routes_shown
from offramp.cli.completion import complete_target
from offramp.cli.options import URL_DEFAULT, ApiKey, AsJson, Data, Engine, Store
from offramp.cli.output import OK, CommandError, say, with_fields, write_json
from offramp.cli.target import load_app
from offramp.core.sla import EARLY_DEMOTION_DEFAULT
from offramp.errors import InputError

if TYPE_CHECKING:
    from offramp.app import App
    from offramp.core.replayed import Recorded

OF_A_STORE = ("data", "engine", "store")


def routes(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="MODULE:APP",
            help="Your App: only its pipelines, and read from where its service stores them, unless --url is given.",
            autocompletion=complete_target,
        ),
    ] = None,
    *,
    data: Data = None,
    engine: Engine = None,
    store: Store = None,
    replay: Annotated[
        str | None,
        typer.Option(
            "--replay",
            metavar="FILE.jsonl",
            help="Try a budget on recorded runs, one a line; - for stdin.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="SECONDS", min=0, help="The budget to try.", show_default=False),
    ] = None,
    early_demotion: Annotated[
        float, typer.Option("--early-demotion", metavar="SHARE", min=0, max=1, help="The early demotion to try.")
    ] = EARLY_DEMOTION_DEFAULT,
    as_json: AsJson = False,
    url: Annotated[
        str, typer.Option("--url", envvar="OFFRAMP_URL", help="The gateway's address, with its prefix.")
    ] = URL_DEFAULT,
    api_key: ApiKey = None,
) -> int:
    """Show what the router believes of each pipeline and class, and how often it was right.

    With --replay: what a budget would have done to recorded runs, for a router that learns from them in order. A line
    is a run document or a page of them, such as 'offramp list --json' prints, or {"pipeline": "ask", "took_s": 7.2}.
    """
    given = {name for name in ("url", *OF_A_STORE) if _is_typed(context, name)}
    if "url" in given and len(given) > 1:
        raise CommandError("--url asks a gateway; --data, --engine and --store read what is stored: choose one")
    if replay is None and budget is not None:
        raise CommandError("--budget is tried on recorded runs: add --replay FILE.jsonl")
    app = None if target is None else load_app(target)
    if replay is not None:
        if budget is None or not 0 < budget < math.inf:
            raise CommandError("--replay tries a budget: add --budget SECONDS, above 0")
        return _replay(replay, budget, early_demotion, app, as_json=as_json)
    if app is not None and "url" not in given:
        rows = _stored(app, {"data": data, "engine": engine, "store": store})
    elif given - {"url"}:
        raise CommandError("what is stored is read with the App: add MODULE:APP, or ask a gateway with --url")
    else:
        rows = _asked(url, api_key)
    rows = _of(app, rows)
    if as_json:
        write_json({"routes": rows})
    else:
        _print(routes_shown.believed(rows), "no runs yet")
    return OK


def _is_typed(context: typer.Context, name: str) -> bool:
    """Whether an option stands in the command line: the environment alone does not contradict it."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _asked(url: str, api_key: str | None) -> list[dict[str, Any]]:
    from offramp.cli.client import Gateway

    with Gateway(url, api_key) as gateway:
        rows: list[dict[str, Any]] = gateway.request("GET", "/v1/routes")["routes"]
    return rows


def _of(app: App | None, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the App's pipelines; all without one."""
    return [row for row in rows if app is None or row["pipeline"] in app.pipelines]


def _stored(app: App, given: dict[str, str | None]) -> list[dict[str, Any]]:
    from offramp.cli.engines import load_settings
    from offramp.stores.sqlite.database import FILE_NAME
    from offramp.wiring import build, data_folder

    settings = load_settings(**given)
    folder = data_folder(settings)
    if not settings.store and not (folder / FILE_NAME).is_file():
        raise CommandError(f"there is no database in {folder}: give the service's folder with --data")
    service = build(app, settings, role="worker")

    async def read() -> list[dict[str, Any]]:
        try:
            return await service.routes()
        finally:
            await service.close()

    return asyncio.run(read())


def _replay(name: str, budget_s: float, early_demotion: float, app: App | None, *, as_json: bool) -> int:
    from offramp.core.replayed import replay

    runs = list(_recorded(name))
    known = [run for run in runs if run is not None]
    rows = _of(app, replay(known, budget_s, early_demotion))
    skipped = len(runs) - len(known)
    if as_json:
        write_json({"replay": rows, "skipped": skipped})
    else:
        _print(routes_shown.replayed(rows, skipped), f"{name} has no completed run")
    return OK


def _recorded(name: str) -> Iterator[Recorded | None]:
    """The runs of a file; None for one that says nothing.

    Raises:
        CommandError: the file cannot be read, or a line is no run.
    """
    from offramp.core.replayed import recorded

    shown = "stdin" if name == "-" else name
    for number, line in enumerate(_lines(name), 1):
        if not line.strip():
            continue
        try:
            decoded = msgspec.json.decode(line)
            page = decoded.get("runs") if isinstance(decoded, dict) else None
            yield from map(recorded, page if isinstance(page, list) else [decoded])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CommandError(f"{shown}, line {number}, is not JSON: {error}") from error
        except InputError as error:
            raise CommandError(f"{shown}, line {number}: {with_fields(error, error.errors)}") from error


def _lines(name: str) -> Iterator[bytes]:
    if name == "-":
        yield from sys.stdin.buffer
        return
    try:
        with Path(name).open("rb") as file:
            yield from file
    except OSError as error:
        raise CommandError(f"--replay {name}: {error.strerror or error}") from error


def _print(lines: Iterable[str], nothing: str) -> None:
    shown = list(lines)
    if not shown:
        say(nothing)
    for line in shown:
        print(line)
