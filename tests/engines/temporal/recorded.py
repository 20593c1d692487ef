"""Pipelines whose histories are kept; `python -m tests.engines.temporal.recorded` records those that are missing.

A history that was recorded once has to be replayed by every later version, so these pipelines are never changed: add
one, record it, and keep the old ones. A file is only written where there is none.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import offramp
from offramp import SLA, App, Retry, current_run, emit
from offramp.errors import SignalTimeout
from tests.support import member, reach

HISTORIES = Path(__file__).with_name("histories")
FORM = "keyed"
"""Current recordings, whose activities have the keys of their calls as ids; older ones are beside this folder."""
app = App("recorded", classes=[SLA("now", budget=0.3), SLA("deep", budget=0)])


@app.step(timeout=20)
async def ask(question: str, pause: float = 0.0) -> str:
    await asyncio.sleep(pause)
    return question.upper()


@app.step(timeout=20)
def look_up(question: str) -> list[str]:
    return [question, question]


@app.step(short=True)
async def clean(text: str) -> str:
    return text.strip()


@app.step(retry=Retry(attempts=2, base=0.01))
async def shaky(fails: int) -> int:
    if current_run().attempt <= fails:
        raise ValueError(fails)
    return fails


@app.pipeline(sla="deep")
async def parallel(question: str) -> list[str]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(f"{question}{number}", number / 20)) for number in range(3)]
        notes = group.create_task(look_up(question))
    emit({"notes": notes.result()})
    done, _ = await asyncio.wait([asyncio.ensure_future(clean(task.result())) for task in tasks])
    return sorted(task.result() for task in done)


@app.pipeline(sla="deep")
async def failing() -> str:
    first = await shaky(1)
    try:
        await shaky(2)
    except ValueError as error:
        return f"{first} {error}"
    return ""


@app.pipeline(sla="deep")
async def waiting() -> str:
    token, when = offramp.uuid4(), offramp.now()
    await offramp.sleep(0.1)
    approved = await offramp.signal("approved")
    try:
        await offramp.signal("never", timeout=0.1)
    except SignalTimeout:
        emit("nobody")
    return f"{approved} {token} {when} {offramp.random()}"


@app.pipeline(sla="deep")
async def impatient() -> str:
    try:
        async with asyncio.timeout(0.3):
            return await ask("slow", 15)
    except TimeoutError:
        return await ask("quick")


@app.pipeline(sla="now")
async def demoted(question: str) -> str:
    first = await ask(question)
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(ask(first, 0.8))
        notes = group.create_task(look_up(first))
    return await ask(slow.result() + notes.result()[0])


@app.pipeline(sla="deep")
async def cancelled() -> str:
    try:
        return await ask("slow", 15)
    finally:
        await clean("not executed any more")


@app.pipeline(sla="deep")
async def long() -> int:
    return sum([len(await ask(str(number))) for number in range(20)])


class Local(Exception):
    """Of a client that no journal can carry."""

    def __init__(self, text: str) -> None:
        super().__init__(text, object)
        self.response = object()


@app.step(timeout=20)
async def breaks(how: str) -> str:
    if how == "exits":
        raise SystemExit(3)
    if how == "local":
        raise Local(how)
    errors = [FileNotFoundError(2, "No such file or directory", "/nowhere"), ValueError((1, b"x"))]
    if how == "group":
        raise ExceptionGroup("several", errors)
    raise errors[0]


@app.pipeline(sla="deep")
async def erring() -> list[str]:
    said = []
    for how in ("exits", "local", "group", "file"):
        try:
            await breaks(how)
        except Exception as error:  # noqa: BLE001 - what it says is asked with
            said.append(await ask(f"{type(error).__name__} {error} {error.args!r} {error.__cause__!r}"))
    return said


@app.pipeline(sla="now")
async def timed() -> list[str]:
    seen, loop = [], asyncio.get_running_loop()
    deadline = loop.time() + 1.0
    for pause in (0.0, 15.0, 15.0):  # in time, late after the demotion, late at once
        try:
            async with asyncio.timeout_at(deadline):
                seen.append(await ask("quick" if pause == 0.0 else "slow", pause))
        except TimeoutError:
            seen.append("late")
    nap = asyncio.create_task(asyncio.sleep(0.2, "slept"))
    seen.append(await asyncio.wait_for(ask("quick"), 20))
    try:
        await asyncio.wait_for(offramp.signal("never"), 0.1)
    except TimeoutError:
        seen.append("none came")
    return [*seen, await nap]


GIVEN = {"parallel": {"question": "why"}, "demoted": {"question": "why"}}
PIPELINES = list(app.pipelines)


async def record(name, server, folder):
    """Execute a pipeline once, and keep the histories of its workflows."""
    from temporalio.client import Client

    from offramp.paths.local import LocalRuntime

    url = server.url(f"record-{name}")
    async with (
        member(app, folder, "worker", owner="worker", engine=url) as worker,
        member(app, folder, "gateway", owner="gateway", engine=url) as gateway,
    ):
        if name == "long":
            worker.engine.history_events_max = 60
        handle = await LocalRuntime(gateway).start(name, **GIVEN.get(name, {}))
        if name == "waiting":
            await reach(handle, "run.accepted")
            await handle.signal("approved", {"by": "ada"})
        if name == "cancelled":
            await reach(handle, "step.started")
            await handle.cancel()
        _ = [event async for event in handle]
        client = await Client.connect(server.target)
        listed = [made async for made in client.list_workflows(f"WorkflowId = '{handle.id}'")]
        for number, made in enumerate(sorted(listed, key=lambda made: made.start_time), start=1):
            found = client.get_workflow_handle(handle.id, run_id=made.run_id)
            await found.result() if made.status.name == "RUNNING" else None
            history = await found.fetch_history()
            (HISTORIES / FORM / f"{name}-{number}.json").write_text(history.to_json(), encoding="utf-8")


async def main():
    from tests import temporal

    (HISTORIES / FORM).mkdir(parents=True, exist_ok=True)
    for name in PIPELINES:
        if not list((HISTORIES / FORM).glob(f"{name}-*.json")):
            with tempfile.TemporaryDirectory() as folder:
                await record(name, temporal.server(), folder)


if __name__ == "__main__":
    asyncio.run(main())
