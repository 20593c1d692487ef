"""`offramp doctor` on a Temporal engine: the URL, the server, the namespace, the pollers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from offramp.cli.findings import Finding
from offramp.errors import SettingsError
from offramp.ports.extras import install
from offramp.settings import Settings

ANSWER_S = 5.0


def check_temporal(settings: Settings) -> Iterator[Finding]:
    """The engine, if it is Temporal."""
    if not settings.engine.startswith("temporal:"):
        return
    try:
        from offramp.engines.temporal.address import Address
        from offramp.engines.temporal.connection import survey
    except ImportError as error:
        yield Finding("broken", "temporal", f"{error.name} is not installed", install("temporal"))
        return
    try:
        address = Address.parse(settings.engine)
        report = asyncio.run(survey(address, settings.temporal_api_key, ANSWER_S))
    except SettingsError as error:
        yield Finding("broken", "temporal", str(error), "see docs/reference/temporal.md")
        return
    except (OSError, RuntimeError, TimeoutError) as error:
        fix = "start it, or correct --engine; until then runs are accepted and wait"
        yield Finding("broken", "temporal", f"{settings.engine.partition('?')[0]} does not answer: {error}", fix)
        return
    yield Finding("ok", "temporal", f"server {report.version} at {address.target}, namespace {address.namespace}")
    if report.pollers:
        yield Finding("ok", "task queue", f"{address.task_queue}: polled by {', '.join(report.pollers)}")
    else:
        yield Finding(
            "note",
            "task queue",
            f"{address.task_queue}: no worker has polled it within five minutes",
            "nothing if no worker should run now; else look for workers with another task_queue=",
        )
    if not report.attributes:
        yield Finding(
            "note",
            "search attributes",
            "runs cannot be found by session, class and tenant in Temporal",
            "temporal operator search-attribute create --type Keyword --name OfframpSession --name OfframpClass "
            "--name OfframpTenant",
        )
    if not address.tls and not settings.temporal_api_key and not _is_near(address.target):
        yield Finding(
            "risk",
            "temporal",
            f"{address.target} is reached without TLS: inputs and results can be read in transit",
            "add ?tls=true to --engine",
        )


def _is_near(target: str) -> bool:
    from offramp.core.addresses import is_loopback

    return is_loopback(target.rpartition(":")[0].strip("[]"))
