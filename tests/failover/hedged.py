"""A step that is hedged, whose executions a test lets go on one by one, and a budget that allows what the test says."""

from __future__ import annotations

import asyncio

from offramp import App, emit
from offramp.execution.hedging import Hedging
from tests.support import Signal

AFTER_S = 2.0


class Budget:
    """Late is what comes after `AFTER_S`; so many may be hedged."""

    def __init__(self, left=1):
        self.left = left
        self.calls = 0
        self.asked = []
        self.seen = []
        self.levels = []
        self.given_back = 0

    def called(self, step):
        self.calls += 1

    def saw(self, step, seconds):
        self.seen.append((step, seconds))

    def after_s(self, step):
        return AFTER_S

    def report(self, levels):
        self.levels = levels

    def may(self, resources=()):
        self.asked.append(resources)
        self.left -= 1
        return self.left >= 0

    def give_back(self):
        self.given_back += 1


class Executions:
    """The executions of a step, in the order in which they began: each waits for a word to emit, or how to end."""

    def __init__(self):
        self.words = []
        self.began = [Signal(), Signal(), Signal()]
        self.ended = []

    async def run(self, text):
        number = len(self.words)
        words = asyncio.Queue()
        self.words.append(words)
        self.began[number].set()
        try:
            while True:
                word = await words.get()
                if isinstance(word, Exception):
                    raise word
                if word is None:
                    return f"{number}: {text}"
                emit(f"{number} {word}")
        except asyncio.CancelledError:
            self.ended.append(number)
            raise

    def says(self, number, *words):
        """Let an execution go on, from the loop it is on; None ends it well, an exception with that."""
        for word in words:
            self.words[number].put_nowait(word)


def declared(executions, **options):
    app = App("hedged")

    @app.step(hedge=True, **options)
    async def write(text: str) -> str:
        return await executions.run(text)

    @app.pipeline(budget=60)
    async def fast(text: str) -> str:
        return await write(text)

    @app.pipeline(budget=0)
    async def deep(text: str) -> str:
        return await write(text)

    return app


def hedge(service, budget):
    """Have this budget decide."""
    won = []
    service.process.lanes.hedging = Hedging(budget, won.append)
    return won


async def on_loop(runtime, call=lambda: None, *args):
    """Call on the run loop, after all that it was given before."""
    done = Signal()
    loop = runtime.service.process.loops.loops[0].loop
    loop.call_soon_threadsafe(lambda: (call(*args), done.set()))
    await done.wait()
