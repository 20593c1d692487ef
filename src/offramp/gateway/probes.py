"""A worker's answers to `/healthz` and `/readyz`, the same as a gateway's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.gateway.health import alive_reply, ready_reply
from offramp.gateway.problems import NotReady, problem
from offramp.gateway.reply import Reply
from offramp.telemetry.scrape import Page, Pages

if TYPE_CHECKING:
    from offramp.paths.health import Readiness

TURN_S_MAX = 1.0
"""How long the control loop may take to answer `/healthz`; a probe must wait longer than that."""


def probes(readiness: Readiness) -> Pages:
    """The pages of a process that executes deep runs.

    Neither queries the store or the engine. `/healthz` fails if only a restart helps, `/readyz` if this process accepts
    no runs.
    """
    return {"/healthz": lambda: _page(_alive(readiness)), "/readyz": lambda: _page(_ready(readiness))}


def _alive(readiness: Readiness) -> Reply:
    if readiness.answers(TURN_S_MAX):
        return alive_reply()
    return problem(NotReady(f"the control loop has not answered for {TURN_S_MAX:g} s"))


def _ready(readiness: Readiness) -> Reply:
    takes, reason = readiness.takes_runs()
    return ready_reply() if takes else problem(NotReady(reason))


def _page(reply: Reply) -> Page:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in reply.headers]
    return Page(reply.status, headers, reply.body)
