"""What the conformance suite cannot see of an outbox: the disk under a claim, and every way to fill a room."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from offramp.core import events
from offramp.core.run import Webhook
from offramp.ports.outbox import Room
from offramp.stores.sqlite.outbox import SQLiteOutbox
from tests.support import NOW, Files, a_record, accepted, drafted

STEPS = Webhook("https://example.com/hooks", ("step.completed", "run.completed"))


class SQLite(Files):
    def __init__(self, folder):
        super().__init__(folder, sync_every=60.0)
        self.outbox = SQLiteOutbox(self.database, self.writer)


async def test_a_claim_brings_what_another_process_wrote_to_the_disk(tmp_path):
    writers, reader = SQLite(tmp_path), SQLite(tmp_path)
    record = a_record(webhook=STEPS)
    commit, log = writers.store.create(record, accepted(record), owner="me", durable=False)
    await commit
    log.append(None, drafted(events.StepCompleted("write", "write#1", 1, 1.0)))
    while not (claimed := await reader.outbox.claim(Room(100, 100, {}), NOW, NOW + 15)):
        pass
    assert claimed[0].latest == 2
    assert reader.writer.connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
    await writers.close()
    await reader.close()


@given(st.lists(st.sampled_from("abcd"), max_size=40), st.integers(0, 10), st.integers(1, 4), st.randoms())
def test_room_is_never_overfilled_and_never_wasted(hosts, total, per_host, generator: random.Random):
    busy = {host: generator.randrange(per_host + 1) for host in "ab"}
    due = [(str(number), host) for number, host in enumerate(hosts)]
    chosen = Room(total, per_host, busy).choose(due)
    counts = {host: busy.get(host, 0) for host in "abcd"}
    for run_id in chosen:
        counts[hosts[int(run_id)]] += 1
    assert len(chosen) <= total
    assert all(count <= per_host for count in counts.values())
    left = [host for run_id, host in due if run_id not in chosen]
    assert len(chosen) == total or all(counts[host] == per_host for host in left)
