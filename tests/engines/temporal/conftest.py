"""A service of several processes on Temporal, in this process: a gateway and workers over one folder."""

from __future__ import annotations

import contextlib
import gc
import uuid

import pytest

from offramp.ports.seams import NO_SEAMS
from tests import temporal
from tests.support import eventually, member

WHY_NOT = temporal.missing()


def pytest_collection_modifyitems(items):
    for item in items:
        if WHY_NOT and "engines/temporal" in item.path.as_posix():
            item.add_marker(pytest.mark.skip(reason=WHY_NOT))


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_of_other_tests():
    """A client of an SDK that is collected while a workflow runs wants to close its connections there, and cannot."""
    gc.collect()


@pytest.fixture
def url():
    """An engine URL with a task queue of its own."""
    return temporal.server().url(uuid.uuid4().hex)


@pytest.fixture
def service(tmp_path, url):
    """Opens a gateway and a worker, with seams; gives the gateway's runtime, and the worker's service as `worker`."""
    from offramp.paths.local import LocalRuntime

    @contextlib.asynccontextmanager
    async def opened(app, *, seams=NO_SEAMS, **settings):
        made = {"engine": url, "lease": 2.0, "drain_timeout": 5.0} | settings
        async with (
            member(app, tmp_path, "worker", owner="w1", seams=seams, **made) as worker,
            member(app, tmp_path, "gateway", owner="g1", **made) as gateway,
        ):
            runtime = LocalRuntime(gateway)
            runtime.worker = worker
            # A gateway that is not connected yet keeps a run until its steps in flight have ended.
            await eventually(lambda: gateway.engine.connection.known)
            yield runtime

    return opened


@pytest.fixture
def history(url):
    """The events of a run's workflow."""
    from temporalio.client import Client

    async def read(run_id):
        client = await Client.connect(temporal.server().target)
        return [event async for event in client.get_workflow_handle(run_id).fetch_history_events()]

    return read
