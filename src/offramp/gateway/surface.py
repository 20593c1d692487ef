"""A surface is one protocol that the gateway speaks: its routes, and how it renders an error.

The gateway admits, authenticates, meters and traces every request alike. A surface's endpoints read requests, call the
service through `starting` and `streams`, and encode answers and events. They must not touch a store or another surface.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from offramp.core.keys import Scope
from offramp.gateway.access import EVERY_SCOPE, Guard, Rule
from offramp.gateway.call import Call
from offramp.gateway.problems import Problem, document
from offramp.gateway.reply import Answer, Reply

Endpoint = Callable[[Call], Awaitable[Answer]]
SOCKET = "WEBSOCKET"
"""The method of a route that takes WebSockets."""
STARTING: frozenset[Scope] = frozenset({"run"})
"""A key with one of these may start a run."""
OPERATING: frozenset[Scope] = frozenset({"run", "operate"})
"""A key with one of these may cancel, signal and retry any run of its tenant."""
INSPECTING: frozenset[Scope] = frozenset({"inspect"})
"""A key with one of these may read what went into a run and its steps, and tracebacks."""


class Route(NamedTuple):
    """One endpoint.

    With `needs_service=False` it answers even while nothing is started. `guard` says which requests are admitted; with
    `takes_ticket`, also those with a ticket for the run in the path. A key needs one of `scopes`: by default any for
    what only reads, and one that may start runs for the rest.
    With `waits=False` it does not wait for a start that is under way, but answers that the gateway is not ready.
    """

    method: str
    template: str
    endpoint: Endpoint
    needs_service: bool = True
    guard: Guard = "key"
    scopes: frozenset[Scope] | None = None
    takes_ticket: bool = False
    waits: bool = True

    @property
    def rule(self) -> Rule:
        """Which requests it admits."""
        reads = self.method in {"GET", SOCKET}
        return Rule(self.guard, self.scopes or (EVERY_SCOPE if reads else STARTING))


class CrossOrigin(NamedTuple):
    """What pages of the origins in `cors_origins` may use of a surface.

    Attributes:
        headers: the request headers that they may send.
        exposed: the headers of answers that they may read, beside those that every page may.
    """

    headers: tuple[str, ...]
    exposed: tuple[str, ...]


@dataclass(frozen=True)
class Surface:
    """One protocol.

    Attributes:
        routes: its endpoints.
        below: prefixes of the paths that belong to it, whether or not a route matches: errors there have its form, and
            requests have a span.
        render: makes the answer to a request that failed. It gets what the caller may learn, never the exception. If
            the answer needs the request (as the id of a JSON-RPC call), the endpoint renders `problems.explain(error)`.
        cross_origin: what pages of other origins may use of it; None if they may not use it.
    """

    routes: tuple[Route, ...]
    below: tuple[str, ...] = ()
    render: Callable[[Problem], Reply] = document
    cross_origin: CrossOrigin | None = None

    def covers(self, path: str) -> int:
        """The length of the longest of its prefixes that `path` begins with; 0 for none."""
        return max((len(prefix) for prefix in self.below if path.startswith(prefix)), default=0)
