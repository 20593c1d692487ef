"""What is reset in a forked child, and what is not: the parts, in this process."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys

import pytest

from offramp import App, emit, testing
from offramp.errors import OutsideRun, StoreError
from offramp.ports import forks
from offramp.ports.commit import Commit
from offramp.stores.sqlite.operations import Sync
from tests.support import Files, result_of

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="there is no fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),  # from 3.12 on
]


def in_child(function):
    """The exit code of a child that a function is called in: what it returns, 99 if it raises."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = function()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Told:
    def __init__(self):
        self.times = 0

    def forked(self):
        self.times += 1


def test_an_owner_is_told_in_the_child_once_and_not_in_the_child_of_a_child():
    owner, gone = Told(), Told()
    forks.on_fork(owner)
    forks.on_fork(gone)
    del gone
    assert in_child(lambda: owner.times) == 1
    assert in_child(lambda: in_child(lambda: owner.times)) == 1
    assert owner.times == 0


def test_one_that_fails_keeps_no_other_from_being_told():
    class Fails:
        def forked(self):
            raise ValueError

    kept = [Fails(), Told(), Fails()]
    for owner in kept:
        forks.on_fork(owner)
    assert in_child(lambda: kept[1].times) == 1


async def test_signals_that_a_process_handles_are_not_handled_in_its_child():
    seen, came = [], asyncio.Event()
    before = signal.getsignal(signal.SIGTERM)
    with forks.signals([signal.SIGTERM], lambda number: (seen.append(number), came.set())):

        def look():
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            return int(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and not blocked and _fd() == -1)

        assert in_child(look) == 1
        assert in_child(lambda: os.kill(os.getpid(), signal.SIGTERM)) == -signal.SIGTERM
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
        os.kill(os.getpid(), signal.SIGTERM)
        await came.wait()
    assert seen == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == before


def _fd():
    return signal.set_wakeup_fd(-1)


async def test_handlers_of_the_program_that_runs_an_app_are_left_as_they_are():
    app = App("mine")

    def mine(_number, _frame):
        """A handler of the program's own."""

    @app.step
    def look() -> int:
        return in_child(lambda: int(signal.getsignal(signal.SIGTERM) is mine))

    @app.pipeline
    async def pipe() -> int:
        return await look()

    before = signal.signal(signal.SIGTERM, mine)
    try:
        async with testing.runtime(app) as runtime:
            assert await result_of(await runtime.start("pipe")) == 1
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_context_that_was_copied_before_the_fork_reaches_the_run_no_more_than_the_childs_own():
    app = App("copies")

    @app.step
    def copy() -> int:
        copied = contextvars.copy_context()

        def look():
            with pytest.raises(OutsideRun, match="forked by step 'copy'"):
                emit("lost")
            copied.run(emit, "lost, too")
            return 7

        return in_child(look)

    @app.pipeline
    async def pipe() -> int:
        return await copy()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert await result_of(handle) == 7
        assert [event.type async for event in handle if event.type == "step.delta"] == []


async def test_what_a_child_writes_is_refused_at_once_and_the_parent_writes_on(tmp_path):
    files = Files(tmp_path)

    def put():
        sync = Sync(None, Commit())
        files.writer.put(sync)
        return int(isinstance(sync.commit.error, StoreError))

    try:
        with files.writer._lock:  # as another thread may have it
            assert in_child(put) == 1
        sync = Sync(None, Commit())
        files.writer.put(sync)
        await sync.commit
    finally:
        await files.close()
