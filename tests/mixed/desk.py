"""The reference desk as it is, with every execution of a step written down, and its answers held until they are let go.

A line of the file `executions` is `{key, pid, at, ended}`; `at` is monotonic, so those of all processes compare. With
the file `hold` in the same folder, `write` waits, as for a slow model, until that is gone.
"""

import asyncio
import functools
import inspect
import json
import os
import time
from dataclasses import replace
from pathlib import Path

from examples.reference_desk import app as desk
from offramp import current_run

HOME = Path(os.environ["DESK_HOME"])
app = desk.app


def note(pid, *, ended):
    line = {"key": current_run().idempotency_key, "pid": pid, "at": time.monotonic(), "ended": ended}
    file = os.open(HOME / "executions", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")  # one write, which O_APPEND keeps whole
    finally:
        os.close(file)


def counted(step):
    """Have a step's executions written down. What the App serves is otherwise as it was declared."""
    function, in_child = step.fn, step.spec.policy.lane == "process"

    @functools.wraps(function)
    def plain(*args, **kwargs):
        pid = os.getppid() if in_child else os.getpid()
        note(pid, ended=False)
        result = function(*args, **kwargs)
        note(pid, ended=True)
        return result

    @functools.wraps(function)
    async def awaited(*args, **kwargs):
        note(os.getpid(), ended=False)
        while (HOME / "hold").exists():  # noqa: ASYNC110 - nothing tells what another process does
            await asyncio.sleep(0.01)
        result = await function(*args, **kwargs)
        note(os.getpid(), ended=True)
        return result

    made = awaited if inspect.iscoroutinefunction(function) else plain
    made.__module__ = __name__  # where the process lane looks for it
    step.spec = replace(step.spec, function=made)
    return made


search, write, find_sources, measure, report = map(
    counted, (desk.search, desk.write, desk.find_sources, desk.measure, desk.report)
)
