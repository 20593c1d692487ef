"""What `offramp doctor` looks at where Temporal drives deep runs: the URL, the server, the namespace, who polls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from offramp.cli.findings import Finding
from offramp.errors import SettingsError
from offramp.settings import Settings

ANSWER_S = 5.0


def check_temporal(settings: Settings) -> Iterator[Finding]:
    """The engine, where it is Temporal's."""
    if not settings.engine.startswith("temporal:"):
        return
    try:
        from offramp.engines.temporal.address import Address
        from offramp.engines.temporal.connection import survey
    except ImportError as error:
        yield Finding("broken", "temporal", f"{error.name} is not installed", "pip install 'offramp[temporal]'")
        return
    try:
        address = Address.parse(settings.engine)
        found = asyncio.run(survey(address, settings.temporal_api_key, ANSWER_S))
    except SettingsError as error:
        yield Finding("broken", "temporal", str(error), "see docs/temporal.md")
        return
    except (OSError, RuntimeError, TimeoutError) as error:
        fix = "start it, or correct --engine; runs are accepted meanwhile and wait"
        yield Finding("broken", "temporal", f"{settings.engine.partition('?')[0]} does not answer: {error}", fix)
        return
    yield Finding("ok", "temporal", f"server {found.version} at {address.target}, namespace {address.namespace}")
    if found.pollers:
        yield Finding("ok", "task queue", f"{address.task_queue}: polled by {', '.join(found.pollers)}")
    else:
        yield Finding(
            "note",
            "task queue",
            f"{address.task_queue}: nobody has polled it within five minutes",
            "nothing, if no worker is to run now; else look for workers with another task_queue=",
        )
    if not found.attributes:
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
            f"{address.target} is reached without TLS: inputs and results can be read on the way",
            "add ?tls=true to --engine",
        )


def _is_near(target: str) -> bool:
    from offramp.core.addresses import is_loopback

    return is_loopback(target.rpartition(":")[0].strip("[]"))
