"""`offramp show`, `cancel` and `signal`: read and control a run of a gateway."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from offramp.cli.inputs import read_value
from offramp.cli.listing import STYLES
from offramp.cli.options import URL_DEFAULT, ApiKey, AsJson, IdempotencyKey, RunId, Url
from offramp.cli.output import NOT_AWAITED, OK, CommandError, console, one_line, printable, say, write_json
from offramp.cli.view import duration, error_text, waited_for
from offramp.cli.watch import Watch, on_screen
from offramp.core.run import OUTCOMES
from offramp.errors import Forbidden, RunGone

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from offramp.cli.client import Gateway
    from offramp.core.waterfall import Waterfall

RESULT_SHOWN_MAX = 2_000
NAMES_SHOWN_MAX = 10


def show(
    run_id: RunId,
    *,
    steps: Annotated[bool, typer.Option("--steps", help="Also what went in and out of each step.")] = False,
    step: Annotated[
        str | None,
        typer.Option("--step", metavar="KEY", help="Only this step, by key or name, whole.", show_default=False),
    ] = None,
    watch: Watch = False,
    as_json: AsJson = False,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = None,
) -> int:
    """Show a run: its steps over time, failures, waits and result.

    --steps and --step need an API key with the scope 'inspect', and so does the traceback of a failed run. With
    --watch, a terminal shows the run anew every 2 s until it has ended.
    """
    from offramp.cli.client import Gateway

    if watch and (as_json or step is not None or not sys.stdout.isatty()):
        raise CommandError(f"--watch draws a whole run on a terminal; elsewhere: offramp follow {run_id}")
    with Gateway(url, api_key) as gateway:
        if step is not None:
            return _show_step(gateway, run_id, step, as_json=as_json)
        include = ["input", "steps", "traceback"] if steps else []
        if as_json:
            write_json(gateway.get(run_id, include=include).data)
            return OK
        out = console(sys.stdout)
        if watch:
            _watch(gateway, run_id, include, out)
        _, lines = _looked(gateway, run_id, include, out)
    for line in lines:
        out.print(line)
    return OK


def _watch(gateway: Gateway, run_id: str, include: list[str], out: Console) -> None:
    """Draw the run until it has ended; the last lines, of what goes on, are always on the screen."""
    from rich.text import Text

    gateway.note = lambda _: None  # the screen says it

    def look() -> tuple[Text, bool]:
        document, lines = _looked(gateway, run_id, include, out)
        head, room = len(facts(document)), out.height - 1
        if len(lines) > room:
            lines = [*lines[:head], Text("…", style="dim"), *lines[head - room + 1 :]][:room]
        return Text("\n").join(lines), document["status"] in OUTCOMES

    on_screen(out, look)


def _looked(gateway: Gateway, run_id: str, include: list[str], out: Console) -> tuple[dict[str, Any], list[Text]]:
    """The run's document, and the lines that show the run on this console."""
    document = _inspected(gateway, run_id, include)
    waterfall = _waterfall(gateway, document)
    if waterfall is not None and waterfall.status in OUTCOMES - {document["status"]}:
        document = _inspected(gateway, run_id, include)  # the run ended between the two answers
    return document, list(_lines(document, waterfall, out))


def _inspected(gateway: Gateway, run_id: str, include: list[str]) -> dict[str, Any]:
    """The document with what is asked for, and with the traceback if the key may see it."""
    if include:
        return gateway.get(run_id, include=include).data
    try:
        return gateway.get(run_id, include=["traceback"]).data
    except Forbidden:
        return gateway.get(run_id).data


def _show_step(gateway: Gateway, run_id: str, given: str, *, as_json: bool) -> int:
    from offramp.cli.steps import key_of, whole

    key = key_of(gateway.get(run_id).data.get("steps") or [], given)
    step = gateway.request("GET", f"/v1/runs/{quote(run_id, safe='')}/steps/{quote(key, safe='')}")
    if as_json:
        write_json(step)
        return OK
    out = console(sys.stdout)
    for line in whole(step):
        out.print(line)
    return OK


def _lines(document: dict[str, Any], waterfall: Waterfall | None, out: Console) -> Iterator[Text]:
    from rich.text import Text

    from offramp.cli.steps import listed

    for name, value in facts(document):
        yield Text.assemble((f"{name:<10}", "dim"), (value, STYLES.get(value, "")))
    if waterfall is not None:
        from offramp.cli.waterfall import draw

        yield Text()
        yield from draw(waterfall, out)
    yield from listed(document)
    traceback = (document.get("error") or {}).get("traceback")
    if traceback:
        yield from (Text(), Text(printable(traceback)))
    if document.get("result") is not None:
        yield from (Text(), Text(_shortened(document)))


def _waterfall(gateway: Gateway, document: dict[str, Any]) -> Waterfall | None:
    """The run's events as rows over time; None when its retention has removed them."""
    from offramp.core.waterfall import layout

    started = document.get("started_at")
    try:
        return layout(gateway.events(document["id"]), time.time(), _epoch(started) if started else None)
    except RunGone:
        return None


def cancel(run_id: RunId, url: Url = URL_DEFAULT, api_key: ApiKey = None) -> int:
    """Cancel a run.

    It ends as 'cancelled' once its running steps have stopped.
    """
    from offramp.cli.client import Gateway

    with Gateway(url, api_key) as gateway:
        document = gateway.cancel(run_id).data
    status = document["status"]
    say(f"{document['id']} is {status}" if status in OUTCOMES else f"{document['id']} is being cancelled")
    return OK


def signal(
    run_id: RunId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the pipeline waits for.")],
    *,
    data: Annotated[
        str, typer.Option("--data", "-d", metavar="JSON", help="The signal's value: JSON, @FILE, or - for stdin.")
    ] = "null",
    idempotency_key: IdempotencyKey = None,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = None,
) -> int:
    """Send a signal to a run.

    The run need not wait for it yet: the gateway stores a signal until 'offramp.signal(NAME)' takes it. If the run
    waits for signals of other names only, the exit code is 4: is the name right?
    """
    from offramp.cli.client import Gateway

    value = msgspec.Raw(read_value(data))
    with Gateway(url, api_key) as gateway:
        document = gateway.signal(run_id, name, value, idempotency_key=idempotency_key)
    return _sent(document.data, name)


def _sent(document: dict[str, Any], name: str) -> int:
    """Say whether the run waits for the signal; a gateway before this answer did not say it."""
    run_id, others = document["id"], signals_awaited(document)
    if document.get("awaited", True):
        say(f"{run_id} was sent {name!r}")
        return OK
    if not others or name in others:
        say(f"{run_id} was sent {name!r}: it keeps the signal, as it does not wait for one now")
        return OK
    listed = ", ".join(map(repr, others[:NAMES_SHOWN_MAX])) + (", …" if len(others) > NAMES_SHOWN_MAX else "")
    say(f"{run_id} was sent {name!r} and keeps it, but does not wait for it: it waits for {listed}")
    return NOT_AWAITED


def signals_awaited(document: dict[str, Any]) -> list[str]:
    """The names of the signals that a run waits for."""
    return list(dict.fromkeys(wait["name"] for wait in document.get("waiting_for") or () if wait["kind"] == "signal"))


def facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    """A run document's head as names and values, in reading order, without unknown values."""
    found = [("run", str(document["id"])), ("pipeline", str(document.get("pipeline"))), ("status", document["status"])]
    reasons = (document.get("route") or {}).get("reasons") or []
    found.append(("path", one_line(f"{document.get('path')}" + (f" ({', '.join(reasons)})" if reasons else ""))))
    found.append(("class", str(document.get("class"))))
    if document.get("session_id"):
        found.append(("session", one_line(document["session_id"])))
    found += [("metadata", one_line(f"{key}={value}")) for key, value in (document.get("metadata") or {}).items()]
    found.append(("created", str(document.get("created_at"))))
    if document.get("started_at"):
        waited = _between_ms(document["created_at"], document["started_at"])
        found.append(("started", document["started_at"] + (f" (waited {duration(waited)})" if waited >= 1 else "")))
    if document.get("finished_at"):
        took = _between_ms(document["created_at"], document["finished_at"])
        found.append(("finished", f"{document['finished_at']} (took {duration(took)})"))
    demotion = document.get("demotion")
    if demotion:
        after, budget = (duration(demotion.get(name) or 0) for name in ("elapsed_ms", "budget_ms"))
        found.append(("demoted", f"after {after} ({demotion['reason']}, budget {budget})"))
        found += [("", one_line(reason)) for reason in demotion.get("reasons") or ()]
    found += [("waits for", one_line(waited_for(wait))) for wait in document.get("waiting_for") or ()]
    if document.get("error"):
        found.append(("error", error_text(document["error"])))
    if document.get("retry_of"):
        found.append(("retry of", str(document["retry_of"])))
    found += [("retried", f"as {retry}") for retry in document.get("retried_as") or ()]
    if document.get("trace_id"):
        found.append(("trace", str(document["trace_id"])))
    return found


def _between_ms(start: str, end: str) -> float:
    try:
        return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() * 1000)
    except ValueError:
        return 0.0


def _epoch(at: str) -> float | None:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return None


def _shortened(document: dict[str, Any]) -> str:
    text = printable(msgspec.json.format(msgspec.json.encode(document["result"]), indent=2).decode())
    if len(text) <= RESULT_SHOWN_MAX:
        return text
    return text[:RESULT_SHOWN_MAX] + f"\n… {len(text) - RESULT_SHOWN_MAX} more characters; all of it with --json"
