"""What a process does before it takes work: hooks, clients of `per_loop`, process lanes."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest

from offramp import App, current_run, per_loop, testing
from offramp.errors import DeclarationError, OutsideRun, StartFailed
from tests.execution import started


def serving(app, **settings):
    return app.local(**settings)


async def test_hooks_are_called_in_order_plain_ones_on_a_thread_async_ones_where_runs_execute():
    app, called = App("a"), []

    @app.on_start
    def plain():
        called.append(("plain", threading.current_thread().name))
        with pytest.raises(OutsideRun):
            current_run()

    @app.on_start()
    async def awaited():
        called.append(("awaited", asyncio.get_running_loop()))

    @app.pipeline
    async def loop() -> bool:
        return asyncio.get_running_loop() is called[1][1]

    async with serving(app) as runtime:
        assert [name for name, _ in called] == ["plain", "awaited"]
        assert called[0][1] == "offramp-start-plain"
        assert await (await runtime.start("loop")).result() is True
        assert len(called) == 2


async def test_clients_are_made_before_the_first_run_and_one_that_fails_is_made_later(caplog):
    app, made = App("a"), []
    client = per_loop(lambda: made.append(asyncio.get_running_loop()) or len(made))
    keys = []

    def without_key():
        if not keys:
            raise ValueError("no key")
        return keys[0]

    late = per_loop(without_key)

    @app.pipeline
    async def ask() -> list[int]:
        return [client(), late()]

    async with serving(app) as runtime:
        assert len(made) == 1
        keys.append(7)
        assert await (await runtime.start("ask")).result() == [1, 7]
    assert "without_key) has no object yet: ValueError: no key" in caplog.text


async def test_a_runtime_of_a_test_calls_hooks_and_makes_no_clients():
    app, made = App("a"), []
    client = per_loop(lambda: made.append("client"))
    app.on_start(lambda: made.append("hook"))
    async with testing.runtime(app):
        assert made == ["hook"]
    assert client


@pytest.mark.parametrize("error", [ValueError("no model"), SystemExit("no model"), TimeoutError("no model")])
@pytest.mark.parametrize("awaited", [True, False])
async def test_a_hook_that_fails_is_a_failed_start(error, awaited):
    app = App("a")

    def plain():
        raise error

    async def load():
        plain()

    app.on_start(load if awaited else plain)
    with pytest.raises(StartFailed, match=r"on_start '(load|plain)' failed: .*no model"):
        async with serving(app):
            raise AssertionError("it started")


@pytest.mark.parametrize("blocks", [True, False])
async def test_a_start_that_takes_too_long_is_a_failed_start(blocks):
    app, over = App("a"), threading.Event()

    @app.on_start
    def fine():
        pass

    if blocks:

        @app.on_start
        def load():
            over.wait(30)

    else:

        @app.on_start
        async def load():
            await asyncio.sleep(30)

    began = time.monotonic()
    try:
        with pytest.raises(StartFailed, match=r"not ready after 0\.2 s: on_start 'load' runs; raise start_timeout"):
            async with serving(app, start_timeout=0.2):
                raise AssertionError("it started")
    finally:
        over.set()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("function", "reported"),
    [("load", "a function without arguments, got 'load'"), (lambda model: model, "has arguments"), (App, "got <class")],
)
def test_what_cannot_be_a_hook_is_refused(function, reported):
    with pytest.raises(DeclarationError, match=reported):
        App("a").on_start(function)


class TestProcessLanes:
    @pytest.fixture
    def notes(self, tmp_path, monkeypatch):
        path = tmp_path / "notes"
        monkeypatch.setenv("STARTED_NOTES", str(path))
        return lambda: [line.split() for line in path.read_text().splitlines()]

    async def test_each_child_calls_the_hooks_and_is_ready_before_the_first_run(self, notes):
        async with serving(started.app, processes=2) as runtime:
            by_pid = {}
            for name, pid, _thread in notes():
                by_pid.setdefault(int(pid), []).append(name)
            assert all(names == ["load", "connect"] for names in by_pid.values())
            assert len(by_pid) == 3
            assert await (await runtime.start("pids", n=0)).result() in by_pid.keys() - {os.getpid()}

    async def test_a_hook_that_fails_in_a_child_is_a_failed_start(self, notes, monkeypatch, caplog):
        monkeypatch.setenv("STARTED_FAILS_IN", "lanes")
        with pytest.raises(
            StartFailed, match="a process lane did not start: on_start 'load' failed: KeyError: 'model'"
        ):
            async with serving(started.app, processes=1):
                raise AssertionError("it started")
        assert "started.py" in caplog.text

    async def test_a_hook_that_lanes_cannot_find_is_refused(self):
        app = App("a")
        app.step(lane="process")(started.crunch.fn)
        app.on_start(lambda: None)
        with pytest.raises(DeclarationError, match="move it to module level"):
            async with serving(app):
                raise AssertionError("it started")
