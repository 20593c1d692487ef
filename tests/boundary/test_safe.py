"""Every row of the table "Which changes are safe": the old code records a run, the new code goes on with it."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import inspect

import msgspec
import pydantic
import pytest

import offramp
from offramp import App, Retry
from offramp.execution import replay
from offramp.paths.local import LocalRuntime
from tests.boundary.tables import rows
from tests.paths.waiting import deep, parked
from tests.support import frames_of, member

EXECUTED = "executed again"


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    monkeypatch.setattr(replay, "DIVERGENCE_GRACE_S", 0.05)


def release(*steps, body):
    """An app with these steps and a pipeline that waits for a signal between two parts of a body."""
    app = App("desk")
    declared = {}
    for step, options in steps:
        made = app.step(**options)(step)
        declared[made.spec.name] = made

    @app.pipeline
    async def pipe() -> list[str]:
        return [str(value) for value in await body(declared, offramp.signal)]

    return app


async def goes_on(folder, old, new):
    """The record of a run that the old code executed up to its signal and the new code goes on with."""
    async with member(old, folder, "local", owner="old") as service:
        run = (await service.submit(deep("pipe"))).record.id
        await parked(service, run)
    async with member(new, folder, "local", owner="new") as service:
        await LocalRuntime(service).service.signal(run, "go", b"1")
        await frames_of(service, run)
        return await service.get(run)


async def safe(folder, old, new, expected):
    record = await goes_on(folder, old, new)
    assert (record.status, record.error) == ("completed", None)
    assert msgspec.json.decode(record.result) == expected


async def unsafe(folder, old, new, code, *words):
    record = await goes_on(folder, old, new)
    assert (record.status, record.error.code) == ("failed", code), record.error
    for text in words:
        assert text in record.error.message


def version(function, *calls, name="ask", after=(), **options):
    """A release whose body makes these calls of one step, waits, and makes those after it."""

    async def body(steps, signal):
        made = [await call(steps[name]) for call in calls]
        await signal("go")
        return [*made, *[await call(steps[name]) for call in after]]

    return release((function, {"name": name, **options}), body=body)


async def optional_parameter(folder):
    async def old(q: str, k: int = 1) -> str:
        return f"{q} {k}"

    async def new(q: str, language: str = "en", k: int = 1, *, limit: int = 3) -> str:
        return f"{EXECUTED}: {q} {k} {language} {limit}"

    calls = [lambda ask: ask("a"), lambda ask: ask("b", k=2), lambda ask: ask("a")]
    after = [lambda ask: ask("a", language="de")]
    await safe(
        folder,
        version(old, *calls),
        version(new, *calls, after=after),
        ["a 1", "b 2", "a 1", f"{EXECUTED}: a 1 de 3"],
    )


def types_of(extended):
    """One dataclass, Struct and model each, nested in one another; the extended ones have a field more."""
    more = [("lang", str, "en")] if extended else []
    options = [("options", list[int], dataclasses.field(default_factory=list))] if extended else []
    point = dataclasses.make_dataclass("Point", [("x", int), *more])
    note = msgspec.defstruct("Note", [("text", str), ("points", list[point]), *more])
    fields = {name: (kind, default) for name, kind, default in more}
    item = pydantic.create_model("Item", id=(int, ...), kinds=(set[str], {"a"}), **fields)
    items = {"extra": (list[int], pydantic.Field(default_factory=list))} if extended else {}
    query = pydantic.create_model("Query", items=(list[item], ...), named=(dict[str, item], {}), **items)
    box = dataclasses.make_dataclass("Box", [("notes", dict[str, list[note]]), *options])
    return point, note, item, query, box


async def optional_field(folder):
    def made(extended):
        point, note, item, query, box = types_of(extended)

        async def ask(query, box, points) -> str:
            return EXECUTED if extended else "recorded"

        ask.__annotations__ |= {"query": query, "box": box, "points": list[point | None]}
        calls = [
            lambda ask: ask(
                query(items=[item(id=1, kinds={"c", "b", "a"})], named={"a": item(id=2)}),
                box({"n": [note("t", [point(1)])]}),
                [point(2), None],
            )
        ]
        after = [lambda ask: ask(query(items=[item(id=1, lang="de")]), box({}), [])] if extended else []
        return version(ask, *calls, after=after)

    await safe(folder, made(extended=False), made(extended=True), ["recorded", EXECUTED])


async def default_left_out(folder):
    async def old(q: str, k: int = 1) -> str:
        return f"{q} {k}"

    async def new(q: str, k: int = 2) -> str:
        return f"{EXECUTED}: {q} {k}"

    # The second call says what has become the default: it finds its own entry, not that of the first.
    calls = [lambda ask: ask("a"), lambda ask: ask("a", 2), lambda ask: ask("a", 3)]
    await safe(
        folder,
        version(old, *calls),
        version(new, *calls, after=[lambda ask: ask("b")]),
        ["a 1", "a 2", "a 3", f"{EXECUTED}: b 2"],
    )


async def default_said(folder):
    async def old(q: str, k: int = 1) -> str:
        return f"{q} {k}"

    async def new(q: str, k: int = 2) -> str:
        return EXECUTED

    old_release = version(old, lambda ask: ask("a", 1))
    await unsafe(folder, old_release, version(new, lambda ask: ask("a", 1)), "divergence", "ask")


async def reordered(folder):
    async def old(a: str, b: str = "x") -> str:
        return f"{a} {b}"

    async def new(*, b: str = "x", a: str) -> str:
        return EXECUTED

    calls = [lambda ask: ask(a="1", b="2"), lambda ask: ask(a="3")]
    await safe(folder, version(old, *calls), version(new, *calls), ["1 2", "3 x"])


async def swapped(folder):
    async def old(a: str, b: str) -> str:
        return f"{a} {b}"

    async def new(b: str, a: str) -> str:
        return EXECUTED

    call = [lambda ask: ask("1", "2")]
    await unsafe(folder, version(old, *call), version(new, *call), "divergence", "ask")


async def parameter_renamed(folder):
    async def old(q: str) -> str:
        return q

    async def new(query: str) -> str:
        return EXECUTED

    call = [lambda ask: ask("a")]
    await unsafe(folder, version(old, *call), version(new, *call), "divergence", "ask")


async def parameter_required(folder):
    async def old(q: str) -> str:
        return q

    async def new(q: str, k: int) -> str:
        return EXECUTED

    await unsafe(folder, version(old, lambda ask: ask("a")), version(new, lambda ask: ask("a", 1)), "divergence")


async def step_renamed(folder):
    async def ask(q: str) -> str:
        return q

    call = [lambda ask: ask("a")]
    await unsafe(folder, version(ask, *call), version(ask, *call, name="query"), "divergence", "ask")


async def function_renamed(folder):
    async def ask(q: str) -> str:
        return q

    async def query(q: str) -> str:
        return EXECUTED

    call = [lambda ask: ask("a")]
    await safe(folder, version(ask, *call), version(query, *call, name="ask"), ["a"])


async def result_extended(folder):
    old_type = dataclasses.make_dataclass("Answer", [("text", str)])
    new_type = dataclasses.make_dataclass("Answer", [("text", str), ("score", float, 0.5)])

    async def old():
        return old_type("a")

    async def new():
        raise AssertionError(EXECUTED)

    old.__annotations__, new.__annotations__ = {"return": old_type}, {"return": new_type}
    call = [lambda ask: ask()]
    await safe(folder, version(old, *call), version(new, *call), ["Answer(text='a', score=0.5)"])


async def result_widened(folder):
    async def old() -> int:
        return 1

    async def new() -> int | str | None:
        return EXECUTED

    call = [lambda ask: ask()]
    await safe(folder, version(old, *call), version(new, *call), ["1"])


async def result_changed(folder):
    async def old() -> str:
        return "tomorrow"

    async def new() -> dt.datetime:
        raise AssertionError(EXECUTED)

    call = [lambda ask: ask()]
    await unsafe(folder, version(old, *call), version(new, *call), "encoding", "result of step 'ask'", "annotation")


async def added_behind(folder):
    async def ask(q: str) -> str:
        return q

    async def more(q: str) -> str:
        return f"more {q}"

    async def body(steps, signal):
        first = await steps["ask"]("a")
        await signal("go")
        return [first, await steps["more"]("b")] if "more" in steps else [first]

    old = release((ask, {}), body=body)
    await safe(folder, old, release((ask, {}), (more, {}), body=body), ["a", "more b"])


async def added_before(folder):
    async def ask(q: str) -> str:
        return q

    async def body(steps, signal):
        if "more" in steps:
            await steps["more"]("b")
        first = await steps["ask"]("a")
        await signal("go")
        return [first]

    async def more(q: str) -> str:
        return EXECUTED

    old = release((ask, {}), body=body)
    await unsafe(folder, old, release((ask, {}), (more, {}), body=body), "divergence", "more", "ask")


async def options(folder):
    async def old(q: str) -> str:
        return q

    def new(q: str) -> str:
        return EXECUTED

    call = [lambda ask: ask("a")]
    new_release = version(
        new, *call, after=[lambda ask: ask("b")], lane="thread", timeout=9.0, retry=Retry(attempts=3), kind="tool"
    )
    await safe(folder, version(old, *call, timeout=5.0), new_release, ["a", EXECUTED])


async def sync_to_async(folder):
    def old(q: str) -> str:
        return q

    async def new(q: str) -> str:
        return EXECUTED

    call = [lambda ask: ask("a")]
    await safe(folder / "there", version(old, *call), version(new, *call), ["a"])
    await safe(folder / "back", version(new, *call), version(old, *call), [EXECUTED])


CASES = {
    "a parameter with a default is added to a step, at any place": optional_parameter,
    "a field with a default is added to a type of an argument, at any depth": optional_field,
    "a default changes, and calls omit it or already pass the new one": default_left_out,
    "a default changes, and a call passes the old one": default_said,
    "parameters are reordered, and passed by name": reordered,
    "parameters are reordered, and passed by place": swapped,
    "a parameter is renamed": parameter_renamed,
    "a parameter without a default is added, or one is removed": parameter_required,
    "a step is renamed": step_renamed,
    "a function is renamed, and `name=` keeps the step's name": function_renamed,
    "a field with a default is added to a result": result_extended,
    "a result's type accepts more than before": result_widened,
    "a result's type does not accept the recorded value": result_changed,
    "a step is added after the recorded ones": added_behind,
    "a recorded step gets a new one before it, is removed or moved": added_before,
    "`lane`, `timeout`, `retry`, `kind` change": options,
    "a step becomes `async`, or plain": sync_to_async,
}


def test_the_table_has_a_case_for_each_row():
    assert list(rows("Which changes are safe while runs are under way")) == list(CASES)
    assert all(inspect.iscoroutinefunction(case) for case in CASES.values())


@pytest.mark.parametrize("row", CASES)
async def test_row(row, tmp_path):
    async with asyncio.timeout(30):
        await CASES[row](tmp_path)
