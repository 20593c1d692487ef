"""Runs with more history than one workflow should have: they go on in a new one, with the journal."""

from __future__ import annotations

from collections import Counter

import offramp
from offramp import SLA, App, emit
from tests.support import log_of, of, result_of, types

app = App("long", classes=[SLA("deep", budget=0)])
executed = Counter()


@app.step(timeout=20)
async def count(number: int) -> int:
    executed[number] += 1
    return number


@app.pipeline(sla="deep")
async def counts(steps: int) -> list[str | int]:
    token = offramp.uuid4()
    began = offramp.now()
    total = 0
    for number in range(steps):
        total += await count(number)
        emit(number)
    signalled = await offramp.signal("go")
    return [str(token), began.isoformat(), total, signalled]


async def workflows_of(run_id):
    from temporalio.client import Client

    from tests import temporal

    client = await Client.connect(temporal.server().target)
    first = await client.get_workflow_handle(run_id).describe()
    started = await anext(client.get_workflow_handle(run_id).fetch_history_events())
    return first.run_id, started.workflow_execution_started_event_attributes.continued_execution_run_id


async def test_a_long_run_goes_on_in_a_new_history(service):
    executed.clear()
    async with service(app) as runtime:
        runtime.worker.engine.history_events_max = 60
        handle = await runtime.start("counts", steps=30)
        await handle.signal("go", 7)
        token, began, total, signalled = await result_of(handle)
        seen = await log_of(handle)
    assert (total, signalled) == (sum(range(30)), 7)
    assert len(token) == 36
    assert began
    assert set(executed.values()) == {1}, "a step was executed again in the new history"
    assert [event.data["delta"] for event in of(seen, "step.delta")] == list(range(30)), "a body emitted twice"
    assert len(of(seen, "run.resumed")) >= 2
    assert types(seen)[-1] == "run.completed"
    run_id, continued = await workflows_of(handle.id)
    assert continued
    assert continued != run_id
