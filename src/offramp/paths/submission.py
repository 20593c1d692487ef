"""One request for one run, as the edge submits it: parsed but not yet judged."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from offramp.core.quotas import Quota
from offramp.core.run import RunRecord, Webhook


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a run.

    Args:
        pipeline: its name.
        input: the pipeline's arguments as an encoded JSON object.
        session_id: the conversation the run belongs to.
        sla: the requested class; by default the pipeline's.
        metadata: stored and shown with the run.
        budget: seconds; by default the class's.
        respond_async: the client wants `202` at once (`Prefer: respond-async`).
        idempotency_key: attaches to the run that was created with it, if that exists.
        trace: `traceparent`, `tracestate` and `baggage` as received.
        tenant: the owner of the run; empty without keys.
        quota: of the API key that starts it; None without limits.
        webhook: the receiver of events.
        mount: the prefix of the gateway, for the links in events.
    """

    pipeline: str
    input: bytes = b"{}"
    session_id: str | None = None
    sla: str | None = None
    metadata: dict[str, str] = {}
    budget: float | None = None
    respond_async: bool = False
    idempotency_key: str | None = None
    trace: dict[str, str] = {}
    tenant: str = ""
    quota: Quota | None = None
    webhook: Webhook | None = None
    mount: str = ""


class Retrial(msgspec.Struct, frozen=True, kw_only=True):
    """A request to retry a run.

    Args:
        run_id: the run.
        start: the name or key of the step from which it is executed again; None for the first one without a result.
        fresh: whether all of it is executed again.
        idempotency_key: attaches to the run that was created with it, if that exists.
        trace: `traceparent`, `tracestate` and `baggage` as received.
        tenant: the owner of the run; empty without keys.
        quota: of the API key that starts it; None without limits.
        mount: the prefix of the gateway, for the links in events.
    """

    run_id: str
    start: str | None = None
    fresh: bool = False
    idempotency_key: str | None = None
    trace: dict[str, str] = {}
    tenant: str = ""
    quota: Quota | None = None
    mount: str = ""


class Accepted(NamedTuple):
    """An accepted run; `attached` if it existed before, under the same idempotency key."""

    record: RunRecord
    attached: bool
