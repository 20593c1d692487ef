"""Fakes of steps: `testing.runtime(app, fakes=)`, and what is refused."""

from __future__ import annotations

import threading
from unittest import mock

import pytest

from offramp import App, Retry, testing
from offramp.errors import DeclarationError

app = App("fakes")
CALLS: list[str] = []


@app.step(retry=Retry(attempts=3, base=0.01))
async def search(query: str, *, source: str = "web") -> list[str]:
    CALLS.append("search")
    return [f"{source} on {query}"]


@app.step(lane="process")
def count(notes: list[str]) -> int:
    raise AssertionError("the real step ran")


@app.pipeline
async def answer(query: str) -> str:
    notes = await search(query)
    notes.append("more")  # what one run changes, no other may see
    return f"{notes} {await count(notes)}"


@app.pipeline(budget=0)
async def deep(query: str) -> str:
    return await answer(query)


@app.step
async def outer(query: str) -> int:
    return await count([query])  # part of this step


@app.pipeline
async def nested(query: str) -> int:
    return await outer(query)


async def made(fakes, pipeline="answer", **settings):
    async with testing.runtime(app, fakes=fakes, **settings) as runtime:
        handle = await runtime.start(pipeline, query="why")
        return await testing.result_of(handle), await handle.document()


async def test_a_fake_is_a_value_or_a_function_and_ends_with_the_runtime():
    CALLS.clear()
    result, document = await made({"search": ["a note"], "count": len})
    assert result == "['a note', 'more'] 2"
    assert [step["name"] for step in document["steps"]] == ["search", "count"]
    assert CALLS == []
    assert await search("why") == ["web on why"], "the real one is back"


async def test_every_kind_of_function_is_called_with_the_arguments_of_the_step():
    threads = []

    async def awaited(query: str, *, source: str) -> list[str]:
        return [query, source]

    def plain(notes: list[str]) -> int:
        threads.append(threading.current_thread())
        return len(notes)

    assert (await made({"search": awaited, "count": plain}))[0] == "['why', 'web', 'more'] 3"
    assert threads != [threading.main_thread()]
    asked, counted = mock.AsyncMock(return_value=[]), mock.Mock(return_value=7)
    assert (await made({"search": asked, "count": counted}))[0] == "['more'] 7"
    asked.assert_awaited_once_with("why", source="web")
    counted.assert_called_once_with(["more"])


async def test_each_run_gets_its_own_copy_of_a_value():
    notes = ["a note"]
    async with testing.runtime(app, fakes={"search": notes, "count": 1}) as runtime:
        for _ in range(2):
            handle = await runtime.start("answer", query="why")
            assert await testing.result_of(handle) == "['a note', 'more'] 1"
    assert notes == ["a note"]


@pytest.mark.parametrize("error", [ConnectionError("down"), ConnectionError])
async def test_an_exception_is_raised_by_each_attempt(error):
    async with testing.runtime(app, fakes={"search": error}) as runtime:
        handle = await runtime.start("answer", query="why")
        with pytest.raises(ConnectionError):
            await testing.result_of(handle)
        (step,) = (await handle.document())["steps"]
    assert (step["status"], step["attempts"]) == ("failed", 3)


async def test_a_step_in_a_step_and_outside_of_a_run_is_faked_too():
    assert (await made({"count": 5}, "nested"))[0] == 5
    async with testing.runtime(app, fakes={"count": 5}):
        assert await count(["x"]) == 5


async def test_deep_runs_and_replays_meet_the_fakes():
    result, document = await made({"search": ["a note"], "count": 1}, "deep")
    assert (result, document["path"]) == ("['a note', 'more'] 1", "deep")
    async with testing.runtime(app, fakes={"search": ["a note"], "count": 1}):
        assert await testing.replays(app, "answer", query="why") == "['a note', 'more'] 1"


@pytest.mark.parametrize(
    ("fakes", "message"),
    [
        ({"reserch": []}, "app 'fakes' has no step 'reserch'; did you mean 'search'?"),
        ({"search": "a note"}, "the result of step 'search' does not fit its annotation"),
        ({"search": object()}, "the result of step 'search'"),
        ({"search": lambda: ["x"]}, r"step 'search' passes \(query, source\), and its fake takes \(\)"),
        ({"count": lambda notes, more: 1}, r"passes \(notes\), and its fake takes \(notes, more\)"),
    ],
)
async def test_a_fake_that_cannot_work_is_refused(fakes, message):
    with pytest.raises(DeclarationError, match=message):
        await made(fakes)
    assert await search("why") == ["web on why"]


async def test_two_open_runtimes_cannot_fake_the_same_step():
    async with testing.runtime(app, fakes={"count": 1}):
        with pytest.raises(DeclarationError, match="step 'count' has a fake already"):
            await made({"search": [], "count": 2})
        assert await search("why") == ["web on why"], "nothing of the refused runtime stays"
        assert (await made({"search": []}))[0] == "['more'] 1"


def test_the_function_of_a_step_or_a_pipeline_cannot_be_replaced(monkeypatch):
    with pytest.raises(AttributeError, match=r"step 'search': fn cannot be replaced.*fakes=\{'search': function_or"):
        monkeypatch.setattr(search, "fn", lambda query: [])
    with (
        pytest.raises(AttributeError, match="pipeline 'answer': fn cannot be replaced"),
        mock.patch.object(answer, "fn"),
    ):
        pass
