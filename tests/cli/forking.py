"""A program whose steps fork in every way; served by the tests, and imported by its own lane processes."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time

from offramp import SLA, App, current_run, emit, now

app = App("forking", classes=[SLA("fast", budget=30.0), SLA("deep", budget=0)])
fork = multiprocessing.get_context("fork")
ENDS = (lambda: sys.exit(5), lambda: os._exit(6), lambda: 1 / 0, lambda: None)


def both(step):
    """A pipeline of one step on each path."""
    for sla in ("fast", "deep"):

        async def body() -> list:
            return await step()

        app.pipeline(name=f"{step.spec.name}-{sla}", sla=sla)(body)
    return step


def square(n):
    return n * n


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@both
@app.step
def pool() -> list[int]:
    with fork.Pool(2) as pool:
        return pool.map(square, range(5))


@both
@app.step
async def pool_on_the_loop() -> list[int]:
    with fork.Pool(2) as pool:
        return pool.map(square, range(5))


@both
@app.step(lane="process")
def pool_in_the_lane() -> list[int]:
    with fork.Pool(2) as pool:
        return pool.map(square, range(5))


def each_end() -> list[int]:
    """The exit codes of children that end in each of the ways."""
    codes = []
    for end in ENDS:
        if (pid := os.fork()) == 0:
            end()
            return []
        codes.append(ended(pid))
    return codes


@both
@app.step
def forked() -> list[int]:
    return each_end()


@both
@app.step
async def forked_on_the_loop() -> list[int]:
    codes = []
    for end in ENDS:
        if (pid := os.fork()) == 0:
            end()
            return []
        codes.append(ended(pid))
    if (pid := os.fork()) == 0:
        await asyncio.sleep(0)  # gives control back to the copy of the loop
        return []
    return [*codes, ended(pid)]


@both
@app.step(lane="process")
def forked_in_the_lane() -> list[int]:
    return each_end()


def naps(begun):
    begun.put(None)
    time.sleep(60)


@both
@app.step
def signalled() -> list[int]:
    codes = []
    for _ in range(4):
        process = fork.Process(target=time.sleep, args=(60,))
        process.start()
        process.terminate()
        process.join(20)
        codes.append(process.exitcode)
    begun = fork.SimpleQueue()
    process = fork.Process(target=naps, args=(begun,))
    process.start()
    begun.get()  # an interrupt while it starts may be lost, as in any program
    os.kill(process.pid, signal.SIGINT)
    process.join(20)
    codes.append(process.exitcode)
    return [*codes, subprocess.run(["true"], preexec_fn=os.getpgrp, check=True).returncode]


def tell(value):
    try:
        emit("from a child")
    except LookupError as error:
        value.put(str(error))
    value.put(now().year > 2000)
    value.put(current_run().id)


@both
@app.step
def telling() -> list[str]:
    value = fork.SimpleQueue()
    process = fork.Process(target=tell, args=(value,))
    process.start()
    process.join()
    return [str(value.get()) for _ in range(3)]


@both
@app.step
def leaving_one_behind() -> list[int]:
    """The child outlives its process."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return [pid, os.getpid()]


@app.step
async def waited() -> int:
    await asyncio.sleep(60)
    return 1


@app.pipeline(sla="deep")
async def waits() -> int:
    return await waited()
