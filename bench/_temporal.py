"""The Temporal contenders: a dev server, a plain workflow of five activities, and Offramp's engine on the same.

All in one process beside the server, without Temporal's sandbox; `short` makes the steps local activities.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from bench._load import STEP_RESULT, STEPS_PER_RUN, OneRun
from bench._offramp import WORKER_RUNS, run_to_result
from bench._servers import free_port
from offramp import App

TARGET = "BENCH_TEMPORAL"
"""The server's address for a contender: `host:port`."""
READY_S_MAX = 30.0
STEP_S_MAX = timedelta(seconds=60)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """A dev server with its database in a folder, in its fastest configuration; yields its address."""
    binary = Path(sys.executable).with_name("temporal")
    port = free_port()
    command = [str(binary), "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)]
    command += ["--db-filename", str(folder / "temporal.db")]
    command += ["--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=normal"]
    with (folder / "temporal.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        ends = time.monotonic() + READY_S_MAX
        check = [str(binary), "operator", "cluster", "health", "--address", f"127.0.0.1:{port}"]
        while subprocess.run(check, capture_output=True, check=False).returncode:
            if time.monotonic() > ends:
                raise RuntimeError("the Temporal server was not ready in time")
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@activity.defn
async def step(number: int) -> str:
    del number
    return STEP_RESULT


@workflow.defn
class Five:
    @workflow.run
    async def run(self) -> str:
        result = ""
        for number in range(STEPS_PER_RUN):
            result = await workflow.execute_activity(step, number, start_to_close_timeout=STEP_S_MAX)
        return result


@workflow.defn
class FiveLocal:
    @workflow.run
    async def run(self) -> str:
        result = ""
        for number in range(STEPS_PER_RUN):
            result = await workflow.execute_local_activity(step, number, start_to_close_timeout=STEP_S_MAX)
        return result


@asynccontextmanager
async def plain(*, local: bool) -> AsyncIterator[OneRun]:
    """The same, hand-written on Temporal's SDK alone."""
    client = await Client.connect(os.environ[TARGET])
    queue = uuid.uuid4().hex
    worker = Worker(
        client,
        task_queue=queue,
        workflows=[Five, FiveLocal],
        activities=[step],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    chosen = FiveLocal if local else Five

    async def one_run() -> float:
        handle = await client.start_workflow(chosen.__name__, id=uuid.uuid4().hex, task_queue=queue)
        acked = time.perf_counter()
        if await handle.result() != STEP_RESULT:
            raise AssertionError("the workflow returned another result")
        return acked

    async with worker:
        yield one_run


@asynccontextmanager
async def offramp(folder: Path, *, short: bool) -> AsyncIterator[OneRun]:
    """The pipeline of the Offramp contender."""
    app = App("bench")

    @app.step(short=short)
    async def step(number: int) -> str:
        del number
        return STEP_RESULT

    @app.pipeline
    async def five() -> str:
        result = ""
        for number in range(STEPS_PER_RUN):
            result = await step(number)
        return result

    engine = f"temporal://{os.environ[TARGET]}/default?task_queue={uuid.uuid4().hex}"
    async with app.local(data=str(folder), engine=engine, worker_runs=WORKER_RUNS) as runtime:

        async def one_run() -> float:
            return await run_to_result(runtime)

        yield one_run
