"""Starts a run for a request and waits for it or streams it: the same for every surface.

Owns what every submission takes from its request, and what it means that a client leaves. Surfaces own bodies and
answers.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing

from offramp.core.events import TERMINAL
from offramp.core.run import links
from offramp.errors import StoreTimeout
from offramp.gateway.call import Call, ClientGone
from offramp.gateway.negotiation import idempotency_key, trace_context
from offramp.gateway.reply import Headers
from offramp.gateway.streams import DEMOTED, Encoder, EventStream, unless_gone
from offramp.paths.submission import Accepted, Submission

LOOKS_PER_TIMEOUT = 4
"""How often in a `write_timeout` a request that waits for a run's end checks whether that cannot be written."""


def submission(call: Call, pipeline: str) -> Submission:
    """A submission with what any request brings: tenant, mount, Idempotency-Key, trace context. The body adds the rest.

    Raises:
        RequestError: the Idempotency-Key is malformed.
    """
    headers = call.connection.headers
    trace = {name: headers.getlist(name) for name in ("traceparent", "tracestate", "baggage")}
    return Submission(
        pipeline=pipeline,
        idempotency_key=idempotency_key(headers.getlist("idempotency-key")),
        trace=trace_context(trace),
        tenant=call.tenant,
        quota=call.quota,
        mount=call.prefix,
    )


async def submit(call: Call, asked: Submission, wait_s: float = math.inf) -> Accepted:
    """Start the run, or attach to the one with the same Idempotency-Key.

    The request waits for a place on the fast path for at most `wait_s`.

    Raises:
        ClientGone: the client left while its request waited for a place; nothing was started.
    """
    accepted = await call.service.submit(asked, waits=lambda place: unless_gone(place, call.receive), wait_s=wait_s)
    if call.trace is not None:
        call.trace.accepted(accepted.record, attached=accepted.attached)
    return accepted


async def submit_streamed(
    call: Call, asked: Submission, after: int, encoder: Encoder, headers: Headers | None = None
) -> EventStream:
    """Start the run and stream its events; a client that attaches to a run continues after event `after`.

    Raises:
        TenantLimit: the tenant has no room for a stream; no run is started.
    """
    slot = call.open_stream()
    try:
        accepted = await submit(call, asked)
        # The first event carries the run's id, not a header: until that event, other processes do not know the run.
        return EventStream(
            call,
            accepted.record.id,
            after if accepted.attached else 0,
            encoder,
            started_run=not accepted.attached,
            headers=headers,
            slot=slot,
        )
    except BaseException:
        slot.release()
        raise


async def finishes_fast(call: Call, accepted: Accepted, until: float | None = None) -> bool:
    """Wait until the run is finished (True) or on the deep path (False), or the client's wait ends (False).

    The service keeps the budget: the end of the wait changes nothing for the run. `until` is the time of the loop.

    Raises:
        ClientGone: the client left; the run's `on_disconnect` applies if this request started it.
        StoreTimeout: the run ended or was demoted, but the store does not take that in time; or it does not take the
            run itself by the end of the wait.
    """
    record = accepted.record
    if record.finished or record.path != "fast":
        return bool(record.finished)
    try:
        return await unless_gone(_finishes_until(call, record.id, until), call.receive)
    except ClientGone:
        if not accepted.attached:
            call.service.disconnected(record.id)
        raise


async def _finishes_until(call: Call, run_id: str, until: float | None) -> bool:
    try:
        async with asyncio.timeout_at(until) as limit:
            return await _finishes(call, run_id)
    except TimeoutError:
        if not limit.expired():
            raise
    await call.service.secure(run_id)
    return (await call.service.get(run_id, call.tenant)).finished


async def _finishes(call: Call, run_id: str) -> bool:
    """True at the terminal event, False at the demotion, or when this process stops."""
    timeout_s = call.service.settings.write_timeout
    look_every_s = timeout_s / LOOKS_PER_TIMEOUT
    async with aclosing(call.service.follow(run_id, 0, look_every_s)) as batches:
        async for frames in batches:
            if not frames and call.service.unwritten_s(run_id) + look_every_s > timeout_s:
                raise StoreTimeout(
                    f"{run_id} was accepted, but the store does not take its outcome within {timeout_s:g} s "
                    f"(OFFRAMP_WRITE_TIMEOUT): ask for {links(run_id, call.prefix)['self']} later"
                )
            for frame in frames:
                kind = frame.type
                if kind == DEMOTED or kind in TERMINAL:
                    return kind != DEMOTED
    return False
