"""`offramp doctor` on limits: what resources declare, and clients of SDKs whose requests go past them.

It looks at the objects of the modules that hold steps, and makes the clients of `per_loop`. It sends no request.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from offramp.cli.findings import Finding
from offramp.cli.output import counted
from offramp.core.limits.notation import say
from offramp.core.limits.spec import ResourceSpec
from offramp.execution.per_loop import PerLoop

if TYPE_CHECKING:
    from offramp.app import App

BOTO_ATTEMPTS = 5
"""Of botocore's default retry mode, `legacy`."""


class _Client(NamedTuple):
    """A client of an SDK.

    Attributes:
        place: the module and the variable.
        kind: its class.
        retries: how often it repeats a request.
        resource: the resource whose permits its requests take; None if they take none.
        cure: what to change for that.
    """

    place: str
    kind: str
    retries: int
    resource: str | None
    cure: str


def check_limits(app: App) -> Iterator[Finding]:
    """All findings on resources and on clients of SDKs."""
    for name, resource in app.resources.items():
        users = [step.spec.name for step in app.steps.values() if name in step.spec.policy.uses]
        used = f"used by {', '.join(users)}" if users else "no step waits for it before it begins (uses=)"
        yield Finding("ok", f"resource {name}", f"{'; '.join(_limits(resource.spec))}; {used}")
    attempts = max((step.spec.policy.retry.attempts for step in app.steps.values()), default=1)
    for client in _clients(app):
        yield from _check_client(client, limited=bool(app.resources), attempts=attempts)


def _limits(spec: ResourceSpec) -> Iterator[str]:
    if spec.concurrency is not None:
        yield f"{counted(spec.concurrency, 'call')} at once"
    yield from (say(rate) for rate in spec.rates)
    yield from (f"{say(rate)} tokens" for rate in spec.tokens)
    if spec.breaker is not None:
        yield f"a breaker that opens at {spec.breaker.error_rate:.0%} failures"


def _check_client(client: _Client, *, limited: bool, attempts: int) -> Iterator[Finding]:
    repeats = f"; it repeats a failed one up to {counted(client.retries, 'time')}" if client.retries else ""
    if client.resource is not None:
        yield Finding("ok", client.place, f"each request of this {client.kind} takes a permit of {client.resource}")
    elif limited:
        says = f"the requests of this {client.kind} take no permit{repeats}"
        yield Finding("risk", client.place, says, client.cure)
    elif client.retries and attempts > 1:
        yield Finding(
            "note",
            client.place,
            f"this {client.kind} repeats a failed request up to {counted(client.retries, 'time')} within each attempt: "
            f"with Retry(attempts={attempts}) one call may become {attempts * (client.retries + 1)} requests",
            "let one of them retry: max_retries=0 for the client, or no retry= for the step",
        )


def _clients(app: App) -> Iterator[_Client]:
    """The clients of SDKs among the objects of modules that hold steps, each once."""
    seen: set[int] = set()
    for name in sorted({step.spec.function.__module__ for step in app.steps.values()}):
        for variable, value in sorted(vars(sys.modules[name]).items()) if name in sys.modules else ():
            if id(value) not in seen:
                seen.add(id(value))
                with suppress(Exception):  # an object of the user's own, or a client that lacks its key here
                    yield from _client(f"{name}.{variable}", value)


def _client(place: str, value: Any) -> list[_Client]:
    """What an object is, if it is a client; those of `per_loop` are made for a look."""
    if isinstance(value, PerLoop):
        value = value.factory()
    kind = type(value).__name__
    if type(value).__module__ == "botocore.client":
        attempts = _boto_attempts(value.meta.config.retries)
        cure = (
            'call it within <resource>.permit(), and give it Config(retries={"total_max_attempts": 1}): its own '
            "retries take no permit"
        )
        return [_Client(place, f"{kind} client of botocore", attempts - 1, None, cure)] if attempts > 1 else []
    # Every SDK of the OpenAI family has its client of httpx there.
    transport = getattr(getattr(value, "_client", None), "_transport", None)
    if transport is None or not isinstance(getattr(value, "max_retries", None), int):
        return []
    made = "async_http_client" if kind.startswith("Async") else "http_client"
    cure = f"make it with http_client=<resource>.{made}()"
    return [_Client(place, kind, value.max_retries, getattr(transport, "resource", None), cure)]


def _boto_attempts(retries: Mapping[str, Any] | None) -> int:
    """How often botocore sends one request (`botocore.config.Config`)."""
    given = retries or {}
    if "total_max_attempts" in given:
        return int(given["total_max_attempts"])
    return int(given["max_attempts"]) + 1 if "max_attempts" in given else BOTO_ATTEMPTS
