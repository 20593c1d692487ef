"""The dbos contender: the same five-step workflow on its SQLite system database, in one process.

The database file is set to WAL mode beforehand, which dbos does not do itself and which makes it several times
faster; synchronous stays FULL, its default, because both others are FULL for durable writes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from bench._load import STEP_RESULT, STEPS_PER_RUN, OneRun


@asynccontextmanager
async def contender(folder: Path) -> AsyncIterator[OneRun]:
    from dbos import DBOS

    database = folder / "dbos.sqlite"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")

    async def plain_step(number: int) -> str:
        del number
        return STEP_RESULT

    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{database}", "log_level": "ERROR"})
    step = DBOS.step()(plain_step)

    async def five() -> str:
        result = ""
        for number in range(STEPS_PER_RUN):
            result = await step(number)
        return result

    workflow = DBOS.workflow()(five)
    DBOS.launch()

    async def one_run() -> float:
        handle = await DBOS.start_workflow_async(workflow)
        acked = time.perf_counter()
        if await handle.get_result() != STEP_RESULT:
            raise AssertionError("the workflow returned another result")
        return acked

    try:
        yield one_run
    finally:
        DBOS.destroy()
