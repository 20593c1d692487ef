"""`offramp submit` and `offramp follow`: start a run at a gateway, and watch one.

A watched run's outcome is the exit code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from offramp.cli.inputs import read_input, read_metadata
from offramp.cli.options import URL_DEFAULT, ApiKey, Budget, IdempotencyKey, Input, RunId, ServedPipeline, Session, Url
from offramp.cli.output import INTERRUPTED, OK, REFUSED, RUN_ENDED_BADLY, CommandError, say, write_json
from offramp.core.run import OUTCOMES

if TYPE_CHECKING:
    from offramp.cli.client import Gateway
    from offramp.client import Options, RunDocument
    from offramp.core.events import Event


def submit(  # noqa: PLR0913 - one parameter for each option
    pipeline: ServedPipeline,
    *,
    input: Input = "{}",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Watch the run to its end; print only its result on stdout.")
    ] = False,
    respond_async: Annotated[bool, typer.Option("--async", help="Start on the deep path, without waiting.")] = False,
    wait: Annotated[
        int | None,
        typer.Option("--wait", metavar="SECONDS", min=0, help="Wait at most this long.", show_default="the budget"),
    ] = None,
    session: Session = None,
    sla: Annotated[str | None, typer.Option("--class", help="The SLA class.", show_default="the pipeline's")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", "-m", metavar="KEY=VALUE", help="Stored with the run; repeatable.")
    ] = None,
    idempotency_key: IdempotencyKey = None,
    budget: Budget = None,
    only_id: Annotated[bool, typer.Option("--id", help="Print the run's id instead of its document.")] = False,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = None,
) -> int:
    """Start a run at a gateway.

    Waits for the run's budget and prints the run document, finished or not. With --follow, shows the run live and
    prints its result.
    """
    from offramp.cli.client import Gateway

    arguments = msgspec.Raw(read_input(input))
    options: Options = {
        "session_id": session,
        "class_": sla,
        "metadata": read_metadata(metadata or []) or None,
        "budget": budget,
        "idempotency_key": idempotency_key,
    }
    with Gateway(url, api_key) as gateway:
        if follow and not respond_async and wait is None:
            return watch(gateway, gateway.stream(pipeline, arguments, **options))
        waits = wait if respond_async or wait is not None else math.inf
        document = gateway.submit(pipeline, arguments, wait=waits, **options)
        if follow:
            say(f"{document.id} accepted")
            return watch(gateway, gateway.follow(document))
        return report(document, only_id=only_id)


def follow(
    run_id: RunId,
    *,
    after: Annotated[int, typer.Option("--after", min=0, help="Skip events up to this number.")] = 0,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = None,
) -> int:
    """Watch a run to its end.

    Shows its events from the start, or after one, and prints its result. A dropped connection is resumed where it
    broke.
    """
    from offramp.cli.client import Gateway

    with Gateway(url, api_key) as gateway:
        return watch(gateway, gateway.follow(run_id, after))


def watch(gateway: Gateway, stream: Iterator[Event]) -> int:
    """Show a run's events; the result on stdout and the exit code of its outcome."""
    from offramp.cli.render import Screen

    with Screen() as screen:
        gateway.note = screen.note
        try:
            for event in stream:
                screen.show(event)
        except KeyboardInterrupt:
            run = screen.view.run_id
            screen.note(f"the run continues; watch it again with: offramp follow {run}" if run else "interrupted")
            return INTERRUPTED
    ended = screen.view.ended
    if ended is None:
        raise CommandError(f"no more events of {screen.view.run_id or 'the run'} after {screen.view.seq}", REFUSED)
    if ended.type != "run.completed":
        return RUN_ENDED_BADLY
    write_json(ended.data["result"] if "result" in ended.data else gateway.result(ended.run_id))
    return OK


def report(document: RunDocument, *, only_id: bool) -> int:
    """Print a run's document, or its id; the exit code of its outcome, if it has one."""
    run, status = document.id, document.status
    if status not in OUTCOMES:
        say(f"{run} is {status}; watch it with: offramp follow {run}")
    if only_id:
        print(run)
    else:
        write_json(document.data)
    return RUN_ENDED_BADLY if status in OUTCOMES and status != "completed" else OK
