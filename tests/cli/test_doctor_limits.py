"""`offramp doctor` on limits: clients of real SDKs, with and without the transport that takes permits."""

from __future__ import annotations

import sys
import types

import anthropic
import botocore.config
import botocore.session
import openai
import pytest

from offramp import App, Breaker, Retry, per_loop
from offramp.cli.check_limits import check_limits
from tests.cli.harness import offramp


@pytest.fixture
def module():
    """A module of a user's, which holds the steps of its app."""
    made = sys.modules["limited_desk"] = types.ModuleType("limited_desk")
    yield made
    del sys.modules["limited_desk"]


def app_in(module, *, resource=True, retry=None):
    app = App("desk")
    module.openai_limits = (
        app.resource("openai", concurrency=20, rate=("500/min", "10/s"), tokens="200k/min", breaker=Breaker())
        if resource
        else None
    )

    async def write(question: str) -> str:
        return question

    write.__module__ = module.__name__
    app.step(uses=module.openai_limits, retry=retry, timeout=5)(write)
    return app


def findings(app, place):
    return [(finding.level, finding.says, finding.fix) for finding in check_limits(app) if place in finding.about]


def boto(attempts=None):
    config = None if attempts is None else botocore.config.Config(retries=attempts)
    return botocore.session.get_session().create_client(
        "bedrock-runtime", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b", config=config
    )


def test_a_resource_is_shown_with_its_limits_and_the_steps_that_wait_for_it(module):
    (shown,) = findings(app_in(module), "resource openai")
    assert shown == (
        "ok",
        "20 calls at once; 10/s; 500/min; 200k/min tokens; a breaker that opens at 50% failures; used by write",
        "",
    )


SDKS = {
    "openai": (openai.OpenAI, openai.AsyncOpenAI),
    "anthropic": (anthropic.Anthropic, anthropic.AsyncAnthropic),
}


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_client_whose_requests_take_no_permit_is_a_risk(module, sdk, is_async, wrapped):
    app, made = app_in(module), SDKS[sdk][is_async]
    module.client = per_loop(lambda: made(api_key="x")) if wrapped else made(api_key="x")
    ((level, says, fix),) = findings(app, "limited_desk.client")
    assert level == "risk"
    assert says == f"the requests of this {made.__name__} take no permit; it repeats a failed one up to 2 times"
    assert fix == f"make it with http_client=<resource>.{'async_' * is_async}http_client()"


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_client_with_the_transport_of_a_resource_is_fine(module, sdk, is_async):
    app, made = app_in(module), SDKS[sdk][is_async]
    resource = module.openai_limits
    module.client = made(api_key="x", http_client=resource.async_http_client() if is_async else resource.http_client())
    assert findings(app, "limited_desk.client") == [
        ("ok", f"each request of this {made.__name__} takes a permit of openai", "")
    ]


@pytest.mark.parametrize(
    ("attempts", "retries"), [(None, 4), ({"max_attempts": 2}, 2), ({"total_max_attempts": 3, "mode": "standard"}, 2)]
)
def test_retries_of_botocore_pass_every_transport(module, attempts, retries):
    app = app_in(module)
    module.client = boto(attempts)
    ((level, says, fix),) = findings(app, "limited_desk.client")
    assert level == "risk"
    assert f"up to {retries} times" in says
    assert "total_max_attempts" in fix
    module.client = boto({"total_max_attempts": 1})
    assert findings(app, "limited_desk.client") == []


def test_without_a_resource_retries_that_multiply_are_noted(module):
    app = app_in(module, resource=False, retry=Retry(attempts=3))
    module.client = openai.OpenAI(api_key="x")
    ((level, says, _),) = findings(app, "limited_desk.client")
    assert level == "note"
    assert "with Retry(attempts=3) one call may become 9 requests" in says
    module.client = openai.OpenAI(api_key="x", max_retries=0)
    assert findings(app, "limited_desk.client") == []


def test_a_client_that_cannot_be_made_here_stops_nothing(module, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    app = app_in(module)
    module.client = per_loop(openai.AsyncOpenAI)
    module.other = openai.OpenAI(api_key="x")
    assert findings(app, "limited_desk.client") == []
    assert [level for level, *_ in findings(app, "limited_desk.other")] == ["risk"]


DESK = """
from openai import AsyncOpenAI

from offramp import App

app = App("desk")
limits = app.resource("openai", rate="500/min")
client = AsyncOpenAI(api_key="sk-not-to-be-shown")
other = AsyncOpenAI(api_key="sk-not-to-be-shown", http_client=limits.async_http_client())


@app.step(uses=limits, timeout=5)
async def write(question: str) -> str:
    return question


@app.pipeline
async def answer(question: str) -> str:
    return await write(question)
"""


def test_strict_fails_on_a_client_that_goes_past_the_limits(tmp_path):
    (tmp_path / "desk.py").write_text(DESK)
    done = offramp("doctor", "desk.py", "--strict", "--port", "0", cwd=tmp_path)
    assert done.returncode == 1
    assert "RISK   desk.client: the requests of this AsyncOpenAI take no permit" in done.stdout
    assert "sk-not-to-be-shown" not in done.stdout
    assert "ok     desk.other: each request of this AsyncOpenAI takes a permit of openai" in done.stdout
