"""What the edge hands over: one request for one run, parsed but not yet judged."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from offramp.core.run import RunRecord, Webhook


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a run.

    Args:
        pipeline: its name.
        input: the pipeline's arguments as an encoded JSON object.
        session_id: the conversation the run belongs to.
        sla: the class asked for; the pipeline's own otherwise.
        metadata: kept and shown with the run.
        budget: seconds; the class's otherwise.
        wait: seconds the client is willing to wait (`Prefer: wait=N`); lowers the budget.
        respond_async: the client wants `202` at once (`Prefer: respond-async`).
        idempotency_key: attaches to the run that was created with it, if there is one.
        trace: `traceparent`, `tracestate` and `baggage` as they came.
        tenant: whose run it is; empty without keys.
        webhook: where to announce events.
        mount: the prefix under which the gateway is reached, for the links in events.
    """

    pipeline: str
    input: bytes = b"{}"
    session_id: str | None = None
    sla: str | None = None
    metadata: dict[str, str] = {}
    budget: float | None = None
    wait: float | None = None
    respond_async: bool = False
    idempotency_key: str | None = None
    trace: dict[str, str] = {}
    tenant: str = ""
    webhook: Webhook | None = None
    mount: str = ""


class Accepted(NamedTuple):
    """A run that exists; `attached` when it existed before, under the same idempotency key."""

    record: RunRecord
    attached: bool
