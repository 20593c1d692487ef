"""`offramp serve` is killed before and after each write of webhook delivery.

After the restart every message arrives at least once under its id, in order per run, and none is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from datetime import UTC, datetime

import pytest

from tests.chaos.announced import receipts
from tests.chaos.attack import attack
from tests.chaos.client import Asked
from tests.chaos.receiver import receiving
from tests.chaos.serving import GUARD_S, PATIENT

POINTS = {
    "webhook-due": ("gateway", "worker"),
    "webhook-claim": ("gateway",),
    "webhook-delivered": ("gateway",),
    "webhook-retry": ("gateway",),
    "webhook-given-up": ("gateway",),
    "webhook-done": ("gateway",),
}
ALWAYS = ("webhook-claim", "webhook-delivered")
"""What every run of the tests goes through; the rest is for `make chaos`."""
STEPS = ["step.completed", "run.completed"]


def load(url):
    """Runs on both paths, and a receiver of each kind."""
    return lambda: [
        Asked("sequence", {"steps": 3}, webhook={"url": f"{url}/ok", "events": STEPS}),
        Asked("sequence", {"steps": 3}, "deep", webhook={"url": f"{url}/ok", "events": STEPS}),
        Asked("fan", {"branches": 2}, sla="brief", webhook={"url": f"{url}/flaky", "events": STEPS[1:]}),
        Asked("sequence", {"steps": 2}, "deep", webhook={"url": f"{url}/gone", "events": STEPS}),
    ]


async def crashed(folder, cases):
    with receiving(folder) as url:
        async with attack(folder, load(url), **PATIENT) as under:
            for role, point in cases:
                for when in ("before", "after"):
                    await under.crash_at(role, point, when)
            await under.recover(GUARD_S)
    found = under.violations()
    assert not found, "\n".join(found)
    assert len(receipts(folder)) == len(under.seen)


@pytest.mark.timeout(300)
async def test_a_crash_while_messages_are_sent_loses_none(tmp_path):
    await crashed(tmp_path, [("gateway", point) for point in ALWAYS])


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", [point for point in POINTS if point != "webhook-given-up"])
async def test_a_crash_at_any_write_of_a_webhook_loses_no_message(tmp_path, point):
    await crashed(tmp_path, [(role, point) for role in POINTS[point]])


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_a_crash_when_a_message_is_given_up_goes_on_with_the_next(tmp_path):
    with receiving(tmp_path) as url:
        asked = Asked("sequence", {"steps": 1}, "deep", webhook={"url": f"{url}/never", "events": STEPS})
        async with attack(tmp_path, lambda: [asked], **PATIENT) as under:
            await asyncio.to_thread(under.serving.start)
            await asyncio.to_thread(under.serving.wait_until_up)
            [(_, following)] = under.come()
            await following
            file = under.serving.data / "offramp.db"
            assert await under.until(lambda: attempts(file) == 1)
            assert await asyncio.to_thread(under.serving.terminate) == 0
            make_old(file)
            under.load = list
            for when in ("before", "after"):
                await under.crash_at("gateway", "webhook-given-up", when)
            await under.recover(GUARD_S)
    [[*first, last]] = receipts(tmp_path).values()
    assert [receipt.type for receipt in first] == ["step.completed"] * 3  # before it got old, and at each crash
    assert last.type == "run.completed"


def attempts(file):
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute("SELECT sum(attempts) FROM webhooks").fetchone()[0]


def make_old(file):
    """As if everything had happened years ago, and the receiver had failed ever since."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        year = datetime.now(UTC).year
        statement = "UPDATE events SET data = CAST(replace(CAST(data AS TEXT), ?, ?) AS BLOB)"
        connection.execute(statement, (f'"at":"{year}-', f'"at":"{year - 2}-'))
        connection.execute("UPDATE webhooks SET due_at = 0, failing_since = failing_since - 3 * 86400")
        connection.commit()
