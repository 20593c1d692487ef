"""`offramp retry`: continue at a gateway a run that has ended, as a new run."""

from __future__ import annotations

from typing import Annotated

import typer

from offramp.cli.options import URL_DEFAULT, ApiKey, IdempotencyKey, RunId, Url
from offramp.cli.output import CommandError, say
from offramp.cli.submit import report, watch


def retry(
    run_id: RunId,
    *,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="STEP", help="Execute again from this step on.", show_default=False),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Execute all of it again.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Watch the new run to its end; print only its result on stdout.")
    ] = False,
    idempotency_key: IdempotencyKey = None,
    only_id: Annotated[bool, typer.Option("--id", help="Print the new run's id instead of its document.")] = False,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = None,
) -> int:
    """Retry a run that failed, was cancelled or expired.

    A new run continues with what is recorded of it: finished steps are not executed again, and received signals are
    kept. With --from or --fresh, a completed run can be retried, too.
    """
    from offramp.cli.client import Gateway

    if fresh and start is not None:
        raise CommandError("give either --from or --fresh: a fresh run executes every step again")
    with Gateway(url, api_key) as gateway:
        document = gateway.retry(run_id, from_=start, fresh=fresh, idempotency_key=idempotency_key)
        if follow:
            say(f"{document.id} retries {run_id}")
            return watch(gateway, gateway.follow(document))
        return report(document, only_id=only_id)
