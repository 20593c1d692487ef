"""`offramp serve` is killed before and after the commit of each kind of write, under a load that makes all of them.

Afterwards everything that was acknowledged ends by itself, and the invariants are checked from outside.
"""

from __future__ import annotations

import httpx
import pytest

from offramp.stores.sqlite.crash_points import POINTS, VARIABLE
from tests.chaos.attack import attack
from tests.chaos.client import Asked
from tests.chaos.serving import GUARD_S, PATIENT, RECOVERY_S, Serving
from tests.chaos.test_webhook_points import POINTS as WEBHOOK_POINTS

# Grouped to start fewer processes: one service goes through the points of its line one after the other.
GATEWAY = [
    ("submit", "event", "step"),
    ("sync", "adopt", "demoted"),
    ("deliver", "release", "park"),
    ("claim", "finish", "cancel"),
    ("signal", "register", "retire", "purge"),
]
WORKER = [("claim", "event", "step", "survive"), ("sync", "park", "finish"), ("release", "register")]
ALWAYS = [("gateway", ("adopt", "demoted")), ("worker", ("claim", "step", "finish"))]
"""What every run of the tests goes through; the rest is for `make chaos`."""


def load() -> list[Asked]:
    """A run of each kind that makes a write of its own."""
    return [
        Asked("fan", {"branches": 3, "seconds": 0.02}),
        Asked("sequence", {"steps": 4, "seconds": 0.15}, sla="brief"),
        Asked("sequence", {"steps": 4, "seconds": 0.1}, "deep", leaves_after=3),
        Asked("pays", {"steps": 2, "seconds": 0.05}, "deep"),
        Asked("approval", {}, "deep"),
        Asked("approval", {"seconds": 0.2}, sla="brief"),
        Asked("endless", {}, "deep", cancel_after=5),
        Asked("endless", {}, "deep", cancel_after=1),
    ]


def named(cases):
    return [pytest.param(role, points, id=f"{role}-{'-'.join(points)}") for role, points in cases]


async def crashed(folder, role, points, within_s, **settings):
    async with attack(folder, load, **settings) as under:
        for point in points:
            for when in ("before", "after"):
                await under.crash_at(role, point, when)
        await under.recover(within_s)
    found = under.violations()
    assert not found, "\n".join(found)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("role", "points"), named(ALWAYS))
async def test_a_crash_at_a_write_loses_and_repeats_nothing(tmp_path, role, points):
    await crashed(tmp_path, role, points, GUARD_S, **PATIENT)


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("role", "points"), named([("gateway", points) for points in GATEWAY] + [("worker", points) for points in WORKER])
)
async def test_a_crash_at_any_write_is_recovered_soon(tmp_path, role, points):
    await crashed(tmp_path, role, points, RECOVERY_S)


def test_every_point_is_a_place_to_crash():
    assert {point for points in (*GATEWAY, *WORKER) for point in points} | set(WEBHOOK_POINTS) == set(POINTS)


def test_a_point_that_is_not_there_is_refused_by_name(tmp_path):
    serving = Serving(tmp_path)
    try:
        serving.start(**{VARIABLE: "gateway/adobt.after"})
        assert serving.wait() == 2
        told = serving.log.read_text()
        assert "adobt" in told
        assert "'adopt'" in told
        with pytest.raises(httpx.TransportError):
            httpx.get(serving.url)
    finally:
        serving.close()
