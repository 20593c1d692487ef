"""Pipelines whose journals are kept; `python -m tests.execution.recorded` records those that are missing.

A journal that was recorded once has to be replayed by every later version, so these pipelines are never changed: add
one for a new kind of wait, record it, and keep the old ones. A file is only written where there is none.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import defaultdict
from pathlib import Path

import msgspec

import offramp
from offramp import SLA, App, Retry, current_run, emit, testing
from offramp.errors import SignalTimeout
from offramp.paths.local import LocalRuntime
from offramp.paths.replay import Case
from tests.support import eventually, frames_of, member, reach

JOURNALS = Path(__file__).with_name("journals")
app = App("recorded", classes=[SLA("now", budget=0.2), SLA("deep", budget=0)])


class Recorded(msgspec.Struct):
    """What is kept of a run: all that a replay is given, and the order of what its body saw."""

    seen: list[str]
    case: Case


_seen: defaultdict[str, list[list[str]]] = defaultdict(list)
_executed: defaultdict[str, list[str]] = defaultdict(list)
_numbers = itertools.count(1)
_met: defaultdict[tuple[str, str], dict[int, asyncio.Future[None]]] = defaultdict(dict)


def saw(*what):
    """Note what the body has got now, in the execution that is under way."""
    _seen[current_run().id][-1].append(" ".join(map(str, what)))


def begin():
    """The body is called, once more if it was before."""
    _seen[current_run().id].append([])


def seen(run_id):
    """What the last execution of a run's body saw, in order."""
    return _seen[run_id][-1] if _seen[run_id] else []


def execute():
    """Note that a step executes."""
    run = current_run()
    _executed[run.id].append(run.idempotency_key.removeprefix(f"{run.id}:"))


def executed(run_id):
    """The keys of the steps that have executed for a run in this process, in order."""
    return _executed[run_id]


def forget():
    """Begin anew: what is noted is noted by run, and a journal's run has one id in every replay."""
    _seen.clear()
    _executed.clear()


@app.step
async def ask(question: str, pause: float = 0.0) -> str:
    execute()
    await asyncio.sleep(pause)
    return question.upper()


@app.step
async def meet(name: str, at: str, place: int, of: int, pause: float = 0.0) -> str:
    """Ends in the same turn of the loop as the others that meet there, in the order of their places."""
    execute()
    await asyncio.sleep(pause)
    there = _met[current_run().id, at]
    there[place] = asyncio.get_running_loop().create_future()
    if len(there) == of:
        for number in range(of):
            there[number].set_result(None)
    await there[place]
    return name.upper()


@app.step
async def number() -> int:
    """Equal calls have different results: which branch has which is in the order of the calls alone."""
    execute()
    return next(_numbers)


@app.step
def look_up(question: str) -> list[str]:
    execute()
    return [question, question]


@app.step(retry=Retry(attempts=3, base=0.01))
async def shaky(fails: int) -> int:
    execute()
    if current_run().attempt <= fails:
        raise ValueError(fails)
    return fails


@app.step
async def breaks(how: str) -> str:
    execute()
    if how == "group":
        raise ExceptionGroup("several", [FileNotFoundError(2, "No such file or directory", "/nowhere"), KeyError("k")])
    raise LookupError(how)


async def through(hops, call, *arguments):
    """The result of a call, by way of so many tasks."""
    if hops:
        return (await asyncio.gather(through(hops - 1, call, *arguments)))[0]
    return await call(*arguments)


async def branch(name, hops, *met):
    """Two calls with draws and an equal call between them; the first result comes by way of so many tasks.

    Where it meets one that comes without, it is seen before that one only if it gets the turns for it.
    """
    first = await through(hops, meet, name, *met)
    saw(first, offramp.uuid4())
    mine = await number()
    saw(first, mine)
    return f"{await ask(f'{name} again')} {mine} {offramp.random()}"


def branches(at="once", pause=0.0):
    """Four that meet, those that have a long way before those that have none."""
    ways = (("b", 0, at, 1), ("a", 3, at, 0), ("d", 0, at, 3), ("c", 2, at, 2))
    return [branch(f"{name} {at}", hops, at, place, len(ways), pause) for name, hops, at, place in ways]


@app.pipeline
async def in_sequence(question: str) -> list[str]:
    begin()
    found = []
    for text in (question, "more"):
        answer = await ask(text)
        saw(answer)
        emit(answer)
        found += await look_up(answer)
    saw(found)
    return found


@app.pipeline
async def gathered() -> list[str]:
    begin()
    return list(await asyncio.gather(*branches()))


@app.pipeline
async def grouped() -> list[str]:
    begin()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in branches()]
            group.create_task(_breaks_after(0.05))
            group.create_task(ask("never seen", 30))
    except* LookupError as errors:
        saw(errors.exceptions)
    return [task.result() for task in tasks if not task.cancelled()] + [await ask("afterwards")]


async def _breaks_after(pause):
    await ask("before it breaks", pause)
    return await breaks("late")


@app.pipeline
async def as_completed() -> list[str]:
    begin()
    found = []
    met = [meet("b", "first", 1, 2), through(3, meet, "a", "first", 0, 2)]
    async for each in offramp.as_completed(met):
        found.append(await each)
        saw(found[-1], offramp.uuid4())
        await ask(f"next after {found[-1]}")
    met = [through(1, meet, "e", "then", 2, 3), meet("d", "then", 1, 3), through(3, meet, "c", "then", 0, 3)]
    for coroutine in offramp.as_completed(met):
        found.append(await coroutine)
        saw(found[-1], offramp.uuid4())
    return found


@app.pipeline
async def raced() -> list[str]:
    begin()
    found, pending = [], {asyncio.create_task(each) for each in branches()}
    pending.add(asyncio.create_task(ask("too slow", 30)))
    while len(pending) > 1:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        found += sorted(task.result() for task in done)
        saw(found[-1], await number())
    for task in pending:
        task.cancel()
    await asyncio.wait(pending)
    return [*found, await ask("afterwards")]


@app.pipeline
async def timed() -> list[str]:
    begin()
    loop, rang = asyncio.get_running_loop(), asyncio.Event()
    loop.call_later(0.15, rang.set)
    nap = asyncio.create_task(asyncio.sleep(0.1, "slept"))
    deadline = loop.time() + 0.05
    for pause in (0.0, 30.0, 30.0):  # in time, late, late at once
        try:
            async with asyncio.timeout_at(deadline):
                saw(await ask(f"for {pause}", pause))
        except TimeoutError:
            saw("late", await number())
    saw(await asyncio.wait_for(ask("quick"), 20))
    try:
        await asyncio.wait_for(offramp.signal("never"), 0.02)
    except TimeoutError:
        saw("none came")
    both = await asyncio.gather(asyncio.sleep(0.01, "one"), asyncio.sleep(0.01, "two"), ask("three", 0.01))
    saw(both, await nap)
    await rang.wait()
    saw("rang")
    return [*both, str(await number())]


@app.pipeline
async def slept() -> list[str]:
    begin()

    async def nap(seconds):
        await offramp.sleep(seconds)
        saw(f"slept {seconds}", offramp.uuid4())
        return await ask(f"after {seconds}")

    return list(await asyncio.gather(nap(0.05), *branches(pause=0.02), through(3, nap, 0.0), nap(0.02)))


@app.pipeline
async def signalled() -> list[str]:
    begin()

    async def waits(name, hops):
        value = await through(hops, offramp.signal, name)
        saw(name, value, await number())
        return await ask(str(value))

    found = await asyncio.gather(waits("approved", 0), waits("approved", 3), waits("paid", 2))
    given_up = asyncio.create_task(offramp.signal("approved"))
    try:
        await offramp.signal("never", timeout=0.02)
    except SignalTimeout as error:
        saw(error)
    given_up.cancel()
    await asyncio.wait([given_up])
    saw(await offramp.signal("approved"))
    return [*found, await ask("afterwards")]


@app.pipeline(deadline=3600.0)
async def drawn() -> list[str]:
    begin()

    async def draws(name, hops, place):
        answer = await through(hops, meet, name, "once", place, 3)
        run = current_run()
        values = [offramp.now(), offramp.uuid4(), offramp.random(), run.remaining(), run.path]
        saw(answer, *values)
        await ask(f"{name} {run.remaining()}")
        return " ".join(map(str, values))

    return list(await asyncio.gather(draws("b", 0, 1), draws("a", 3, 0), draws("c", 1, 2)))


@app.pipeline
async def retried() -> list[str]:
    begin()
    found = await asyncio.gather(shaky(2), *branches(), shaky(3), shaky(1), return_exceptions=True)
    saw(found)
    return [*map(str, found), await ask("afterwards")]


@app.pipeline
async def failing() -> list[str]:
    begin()
    for how in ("group", "alone"):
        try:
            await breaks(how)
        except Exception as error:  # noqa: BLE001 - what it says is asked with
            saw(repr(error), await ask(f"{type(error).__name__} {error}"))
    await asyncio.gather(*branches())
    await breaks("for good")
    return []


@app.pipeline
async def cleaned() -> None:
    begin()
    saw(await ask("before"))
    try:
        await asyncio.gather(ask("held", 30), *branches(), offramp.signal("never"))
    finally:
        saw("cancelled")
        async with offramp.cleanup():
            saw(*await asyncio.gather(*branches("in the cleanup")))


@app.pipeline(deadline=0.3)
async def expired() -> None:
    begin()
    try:
        await asyncio.gather(ask("held", 30), *branches())
    except asyncio.CancelledError:
        saw("expired")
        async with offramp.cleanup():
            saw(await shaky(1))
            await breaks("in the cleanup")
    finally:
        saw("over")


@app.pipeline(sla="now")
async def demoted() -> list[str]:
    begin()
    found = await asyncio.gather(*branches("before"), *branches("after", 0.4), offramp.sleep(0.3))
    saw(current_run().path)
    return [*map(str, found), await ask("deep")]


@app.pipeline(sla="deep")
async def handed_over() -> list[str]:
    begin()
    found = await asyncio.gather(*branches("before"), *branches("after", 0.3), offramp.sleep(0.6))
    saw(found)
    try:
        async with asyncio.timeout(0.1):
            await offramp.sleep(30)
    except TimeoutError:
        saw("late")
    return [*map(str, found), await ask("afterwards")]


GIVEN = {"in_sequence": {"question": "why"}}
PIPELINES = list(app.pipelines)
SIGNALS = (("paid", 30), ("approved", {"by": "ada"}), ("approved", {"by": "bob"}))


async def record(name):
    """Execute a pipeline once, and keep its journal."""
    if name == "handed_over":
        return await _handed_over(name)
    async with testing.runtime(app) as runtime:
        handle = await runtime.start(name, **GIVEN.get(name, {}))
        if name == "signalled":
            for signal, value in SIGNALS:
                await handle.signal(signal, value)
            await eventually(lambda: any("no signal" in text for text in seen(handle.id)))
            await handle.signal("approved", "at last")
        if name == "cleaned":
            await eventually(lambda: len(seen(handle.id)) == 9)
            await handle.cancel()
        _ = [event async for event in handle]
        return await _recorded(runtime.service, handle.id)


async def _handed_over(name):
    """Two workers after each other: the first drains while branches are under way."""
    with tempfile.TemporaryDirectory() as folder:
        async with member(app, folder, "gateway", owner="gateway") as gateway:
            async with member(app, folder, "worker", owner="first"):
                handle = await LocalRuntime(gateway).start(name)
                await reach(handle, "step.completed", "number")
            async with member(app, folder, "worker", owner="second"):
                await frames_of(gateway, handle.id)
            return await _recorded(gateway, handle.id)


async def _recorded(service, run_id):
    order = seen(run_id)
    case = (await service.replay(run_id)).case
    result = await service.whole_result(case.record)
    return Recorded(order, msgspec.structs.replace(case, result=result))


async def main():
    JOURNALS.mkdir(exist_ok=True)
    for name in PIPELINES:
        file = JOURNALS / f"{name}.json"
        if not file.exists():
            made = msgspec.json.encode(await record(name))
            file.write_bytes(msgspec.json.format(made, indent=1) + b"\n")


if __name__ == "__main__":
    asyncio.run(main())
