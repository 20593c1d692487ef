"""A process that holds permits of a data directory, for tests that kill it: `python -m tests.limits.peer DATA COUNT`.

It asks for COUNT permits of `openai`, and says `granted` for each. At `fork` on its stdin it forks a child that does
nothing, and says its id; at any other line it gives a permit back.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path

from offramp.core.limits.spec import ResourceSpec
from offramp.execution.clock import SystemClock
from offramp.limits.client import SocketLimits
from offramp.ports.limits import Ask, Done, Granted

SPEC = ResourceSpec("openai", concurrency=3)


def say(word):
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(data, count):
    clock = SystemClock()
    limits = SocketLimits(Path(data), [SPEC], {}, clock, clock.time())
    ids = [f"{os.getpid()}:{number}" for number in range(int(count))]

    def notify(answer):
        if isinstance(answer, Granted):
            say("granted")

    for name in ids:
        limits.ask(Ask(id=name, resource="openai"), notify)
    limits.start()
    names = itertools.cycle(ids)
    for line in sys.stdin:
        if line == "fork\n":
            child = os.fork()
            if not child:
                signal.pause()
            say(child)
        else:
            limits.done(next(names), Done())
            say("done")
    limits.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
