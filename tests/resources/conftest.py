from __future__ import annotations

import contextlib
import gc
import warnings

import pytest

from offramp import App, Breaker
from offramp.execution.clock import SystemClock
from tests.resources.fakes import FakeLimits
from tests.resources.provider import Provider


@pytest.fixture(scope="module", autouse=True)
def _collected():
    """A client whose loop is closed leaves its socket to the collector, which must not find it in another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def provider():
    made = Provider()
    yield made
    made.close()


@pytest.fixture
def app():
    return App("desk")


@pytest.fixture
def limits():
    return FakeLimits()


@pytest.fixture
def openai(app, limits):
    """A resource of a service that runs in this process."""
    made = app.resource("openai", concurrency=1_000, rate="500/min", breaker=Breaker(slow_after=5))
    with serving(app, limits):
        yield made


@contextlib.contextmanager
def serving(app, limits, clock=None):
    with app.service.begin(limits, clock or SystemClock()):
        yield
