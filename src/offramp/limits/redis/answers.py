"""What the script answers, as the messages of `ports/limits.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from offramp.core.limits.messages import Level, Reason, Refusal, Refused, WaitingClass, Waits, WindowLevel, circle
from offramp.core.limits.notation import say
from offramp.core.limits.spec import ResourceSpec
from offramp.core.order import longest_wait_s
from offramp.core.sla import DEFAULT_CLASS, SLA


def waits_of(given: Sequence[Any]) -> Waits:
    """How long to wait, and what for."""
    reason, ahead, expected_s = given
    return Waits(reason, ahead, None if expected_s is False else expected_s)


def refused_of(spec: ResourceSpec, classes: Mapping[str, SLA], given: Sequence[Any]) -> Refused:
    """Why not."""
    why, *rest = given
    if why == "too-small":
        return Refused(
            "too-small", f"{spec.name}: the call needs {rest[0]:,} tokens, the limit is {say(min(spec.tokens))}"
        )
    if why == "deadlock":
        return Refused("deadlock", circle(spec.name))
    because, limit, count, expected_s, reason, sla, rate = rest
    about = "" if expected_s is False else f", about {expected_s:.0f} s{_at(spec, reason)}"
    says = {
        "limit": f"queue_limit is {limit}",
        "total": f"{limit:,} may wait in all",
        "queues": "this call does not wait",
    }[because]
    wait = f"{count} {'call waits' if count == 1 else 'calls wait'}{about}"
    retry_after_s = longest(spec, classes, sla, rate) if because == "limit" else None
    if retry_after_s is None and expected_s is not False:
        retry_after_s = expected_s
    return Refused("busy", f"{spec.name}: {wait}; {says}", retry_after_s)


def _at(spec: ResourceSpec, reason: Reason) -> str:
    """The limit that a wait is for."""
    rates = {"rate": spec.rates, "tokens": spec.tokens}.get(reason)
    if rates:
        slowest = say(min(rates, key=lambda rate: rate.limit / rate.seconds))
        return f" at {slowest}" + (" tokens" if reason == "tokens" else "")
    return f" at {spec.concurrency} at once" if reason == "concurrency" else ""


def level_of(spec: ResourceSpec, classes: Mapping[str, SLA], given: Sequence[Any]) -> Level:
    """A resource as it is now, without its breaker."""
    name, in_use, concurrency, windows, waiting, scale, blocked_s, refusal, calls, tokens, rate = given
    calls = dict(calls or {})
    kinds = [("calls", each) for each in spec.rates] + [("tokens", each) for each in spec.tokens]
    return Level(
        name=name,
        in_use=in_use,
        concurrency=None if concurrency is False else concurrency,
        windows=tuple(
            WindowLevel(say(each), of, scaled, used)  # type: ignore[arg-type]
            for (of, each), (scaled, used) in zip(kinds, windows, strict=True)
        ),
        waiting={
            sla: WaitingClass(count, max(oldest_s, 0.0), longest(spec, classes, sla, rate))
            for sla, (count, oldest_s) in dict(waiting or {}).items()
        },
        scale=scale,
        blocked_s=None if blocked_s is False else blocked_s,
        last_refusal=None if refusal is False else Refusal(*refusal),
        throttled=calls.get("throttled", 0) + calls.get("exhausted", 0),
        calls=calls,
        tokens=tokens,
    )


def longest(spec: ResourceSpec, classes: Mapping[str, SLA], sla: str, rate: float | bool) -> float | None:  # noqa: FBT001
    """The longest that a call of a class can wait; None if that is unknown."""
    declared = classes.get(sla, DEFAULT_CLASS)
    return None if rate is False else longest_wait_s(replace(declared, share=spec.share), float(rate))
