"""A provider that fails for a minute, or becomes ten times slower, beside a spare one: in virtual time."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench._hybrid import quantile
from bench._limits_gates import Coordinator
from bench._limits_load import steady
from bench._limits_sim import Ended, Gate, Open, Simulation, Target
from bench._limits_sim import Terms as Going
from bench._provider_model import Provider, Terms
from offramp.core.limits.spec import Breaker, ResourceSpec
from offramp.core.retry import Retry

FIRST, SPARE = "first", "spare"
PER_S = 20.0
LASTS_S = 300.0
BEGINS_S, ENDS_S = 60.0, 120.0
SLOW_TIMES = 10.0
FIRST_TOKEN_S = 1.5
"""An attempt whose first token is later goes on with the spare; nearly all of a healthy provider's come within 1 s."""
BREAKER = Breaker(error_rate=0.5, slow_after=FIRST_TOKEN_S, min_calls=10, open_for=10.0)


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """A minute in which the first provider is ill; durations in seconds, of runs handed in during it.

    Attributes:
        what: what is wrong, and what runs do about it.
        runs: handed in during that minute.
        lost: of all runs.
        p95_s: from acceptance to end, of runs that were not lost.
        times_before: the same, in times that of runs handed in before.
        into: the share of calls that were made to the ill provider.
    """

    what: str
    runs: int
    lost: int
    p95_s: float
    times_before: float
    into: float


def outage(*, slow: bool, limited: bool, spare: bool = True, seed: int = 1) -> Outage:
    """One such minute.

    Args:
        slow: the provider is slow rather than failing.
        limited: with breakers and a first-token timeout, rather than with retries alone.
        spare: whether there is a second provider.
        seed: of every draw.
    """
    first = Provider(Terms(seed=seed, outages=() if slow else ((BEGINS_S, ENDS_S),)))
    targets = [Target(FIRST, first)]
    if spare:
        targets.append(Target(SPARE, Provider(Terms(seed=seed + 1))))
    specs = [ResourceSpec(each.resource, breaker=BREAKER) for each in targets]
    gate: Gate = Coordinator(specs, {}) if limited else Open()
    going = Going(
        retry=Retry(attempts=4),
        sdk_retries=0,
        first_token_s=FIRST_TOKEN_S if limited and spare else None,
        slow_after_s=FIRST_TOKEN_S if limited else None,
    )
    world = Simulation(targets, gate, going, seed)
    if slow:
        well = first.terms
        world.at(BEGINS_S, lambda: setattr(first, "terms", msgspec.structs.replace(well, slow=SLOW_TIMES)))
        world.at(ENDS_S, lambda: setattr(first, "terms", well))
    counted: list[int] = []
    for at in (BEGINS_S, ENDS_S):
        world.at(at, lambda: counted.append(first.stats().calls))
    ended = world.serve(steady(PER_S, LASTS_S, seed).interactive)
    what = f"{'10 x slower' if slow else 'outage'}, {'breaker' if limited else 'retries'}{', spare' if spare else ''}"
    return _measured(what, ended, counted[1] - counted[0])


def _measured(what: str, ended: Sequence[Ended], into: int) -> Outage:
    during = [each for each in ended if BEGINS_S <= each.run.at < ENDS_S]
    before_s = quantile([each.took_s for each in ended if each.run.at < BEGINS_S and not each.lost], 0.95)
    p95_s = quantile([each.took_s for each in during if not each.lost], 0.95)
    return Outage(
        what=what,
        runs=len(during),
        lost=sum(each.lost for each in ended),
        p95_s=p95_s,
        times_before=p95_s / before_s,
        into=into / sum(each.calls for each in during),
    )
