"""What another process has learned of a pipeline, and shares through the store."""

from __future__ import annotations

from offramp.core.belief import Belief, Past
from offramp.core.features import features
from offramp.core.harm import Harm
from offramp.ports.learning import BeliefCell


def pasts(kind, seconds, times):
    """Runs of one kind, whose only step took so long."""
    return [Past(features({"kind": kind}, tenant=""), took_s, (("think", took_s),)) for took_s in [seconds] * times]


async def teach(service, pipeline, sla, ended, *, allowed=0.05):
    """Let a service know of these ended runs, none of which was demoted."""
    belief, harm, now = Belief(), Harm(allowed), service.process.clock.time()
    budget_s = service.process.classes[sla].budget
    for past in ended:
        harm.settle("stayed", now, made=past.took_s <= budget_s)
        belief.observe(past, now)
    cells = [
        BeliefCell(pipeline, name, block, cell, weights)
        for name, part in ((sla, belief), (f"{sla}#harm", harm))
        for block, counts in part.take().items()
        for cell, weights in counts.items()
    ]
    await service.process.store.learn(cells, [])
    await service.live.learning.sync()
