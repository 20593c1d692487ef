"""Exceptions that real SDKs raise at a real provider: what they say, whether they are repeated, how long after."""

from __future__ import annotations

import asyncio
import functools
import json

import anthropic
import botocore.config
import botocore.session
import httpx
import httpx2
import openai
import pytest
import requests

from offramp.core.limits.raised import verdict_of_error
from offramp.core.limits.said import EXHAUSTED_S, Verdict
from offramp.core.retry import Retry, delay_s, retry_after_s
from offramp.document import Problem
from offramp.errors import CircuitOpen, RateLimited, ResourceBusy, StepTimeout, Unreachable
from tests.limits.saying import Says, error, provider, stream
from tests.servers import free_port

NOW = 1_700_000_000.0
ASKED = [{"role": "user", "content": "hello"}]


def by_openai(url, timeout=30.0):
    client = openai.OpenAI(base_url=url, api_key="k", max_retries=0, timeout=timeout)
    return client.chat.completions.create(model="m", messages=ASKED)


def by_openai_async(url, timeout=30.0):
    async def call():
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0, timeout=timeout) as client:
            return await client.chat.completions.create(model="m", messages=ASKED)

    return asyncio.run(call())


def by_openai_stream(url, timeout=30.0):
    client = openai.OpenAI(base_url=url, api_key="k", max_retries=0, timeout=timeout)
    return list(client.chat.completions.create(model="m", messages=ASKED, stream=True))


def by_responses_stream(url, timeout=30.0):
    client = openai.OpenAI(base_url=url, api_key="k", max_retries=0, timeout=timeout)
    return list(client.responses.create(model="m", input="hello", stream=True))


def by_anthropic(url, timeout=30.0):
    client = anthropic.Anthropic(base_url=url, api_key="k", max_retries=0, timeout=timeout)
    return client.messages.create(model="m", max_tokens=9, messages=ASKED)


def by_anthropic_stream(url, timeout=30.0):
    client = anthropic.Anthropic(base_url=url, api_key="k", max_retries=0, timeout=timeout)
    return list(client.messages.create(model="m", max_tokens=9, messages=ASKED, stream=True))


def by_httpx(url, timeout=30.0):
    response = httpx.post(url, timeout=timeout)
    response.raise_for_status()


def by_httpx2(url, timeout=30.0):
    response = httpx2.post(url, timeout=timeout)
    response.raise_for_status()


def by_requests(url, timeout=30.0):
    requests.post(url, timeout=timeout).raise_for_status()


@functools.cache
def session():
    """One reads what services look like once."""
    return botocore.session.Session()


def by_botocore(url, timeout=30.0):
    client = session().create_client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="k",
        aws_secret_access_key="s",
        config=botocore.config.Config(
            retries={"total_max_attempts": 1}, read_timeout=timeout, connect_timeout=timeout, proxies={}
        ),
    )
    return client.converse(modelId="m", messages=[{"role": "user", "content": [{"text": "hello"}]}])


SDKS = [by_openai, by_openai_async, by_anthropic, by_httpx, by_httpx2, by_requests, by_botocore]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def raised(call, *says: Says, **changes) -> Exception:
    with provider(*says) as server:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each SDK has its own
            call(server.url, **changes)
        assert len(server.paths) == 1, "no SDK repeats here"
    return caught.value


def is_repeated(failure: Exception, policy: Retry | None = None) -> bool:
    return delay_s(policy or Retry(), 1, failure, 0.5, retry_after_s(failure, NOW)) is not None


@pytest.mark.parametrize("call", SDKS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_request_that_fails_the_same_way(call, status):
    failure = raised(call, error(status, {"error": {"type": "invalid_request_error", "message": "no"}}))
    verdict = verdict_of_error(failure, NOW)
    assert (verdict.how, verdict.says.split()[0]) == ("ok", str(status))
    assert not is_repeated(failure)
    assert is_repeated(failure, Retry(on=type(failure)))


@pytest.mark.parametrize("call", SDKS)
def test_a_refusal_by_a_limit_with_its_wait(call):
    body = {"error": {"type": "rate_limit_error", "message": "slower"}}
    failure = raised(call, error(429, body, retry_after="3", retry_after_ms="2500"))
    verdict = verdict_of_error(failure, NOW)
    assert (verdict.how, verdict.blocked_s) == ("throttled", 2.5)
    assert verdict.says.startswith("429")
    assert retry_after_s(failure, NOW) == 2.5
    assert is_repeated(failure)
    assert not is_repeated(failure, Retry(retry_after_max=2.0))


@pytest.mark.parametrize("call", [by_openai, by_openai_async, by_httpx, by_httpx2, by_requests])
def test_a_limit_that_is_used_up(call):
    failure = raised(call, error(429, {}, x_ratelimit_remaining="0", x_ratelimit_reset="1m3.5s"))
    assert verdict_of_error(failure, NOW) == Verdict("throttled", "429", 63.5)
    assert retry_after_s(failure, NOW) == 63.5


@pytest.mark.parametrize("call", [by_openai, by_openai_async, by_httpx, by_httpx2, by_requests])
def test_a_bill_that_is_not_paid(call):
    quota = {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}
    failure = raised(call, error(429, {"error": quota}))
    assert verdict_of_error(failure, NOW) == Verdict("exhausted", "429 insufficient_quota", EXHAUSTED_S)
    assert not is_repeated(failure)
    assert not is_repeated(failure, Retry(on=type(failure)))


@pytest.mark.parametrize("call", SDKS)
@pytest.mark.parametrize("status", [500, 503, 529])
def test_a_failure_of_the_provider(call, status):
    failure = raised(call, error(status, {"type": "error", "error": {"type": "overloaded_error"}}, retry_after="4"))
    assert verdict_of_error(failure, NOW) == Verdict("failed", str(status), 4.0)
    assert is_repeated(failure)


@pytest.mark.parametrize("call", SDKS)
def test_a_provider_that_cannot_be_reached(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call(f"http://127.0.0.1:{free_port()}")
    assert verdict_of_error(caught.value, NOW) == Verdict("failed", "connection error")
    assert is_repeated(caught.value)


@pytest.mark.parametrize("call", SDKS)
def test_a_provider_that_says_nothing(call):
    assert verdict_of_error(raised(call, Says(then="silence"), timeout=0.2), NOW) == Verdict("failed", "timeout")


@pytest.mark.parametrize("call", SDKS)
def test_an_answer_that_breaks_off(call):
    failure = raised(call, Says(200, b'{"id": ', {"content-type": "application/json"}, "cut"))
    verdict = verdict_of_error(failure, NOW)
    assert verdict.how == "failed"
    assert verdict.says in ("broken connection", "connection error")
    assert is_repeated(failure)


@pytest.mark.parametrize(
    ("code", "status", "wanted"),
    [
        ("ThrottlingException", 429, Verdict("throttled", "429 ThrottlingException", 4.0)),
        ("ThrottlingException", 400, Verdict("throttled", "400 ThrottlingException", 4.0)),
        ("ServiceUnavailableException", 503, Verdict("failed", "503", 4.0)),
        ("ModelTimeoutException", 408, Verdict("failed", "408", 4.0)),
        ("ValidationException", 400, Verdict("ok", "400 ValidationException")),
        ("AccessDeniedException", 403, Verdict("ok", "403 AccessDeniedException")),
    ],
)
def test_codes_of_aws(code, status, wanted):
    answer = error(status, {"message": "no"}, x_amzn_ErrorType=code, retry_after="4")
    failure = raised(by_botocore, answer)
    assert verdict_of_error(failure, NOW) == wanted
    assert is_repeated(failure) == (wanted.how != "ok")


def data(content: object, name: str | None = None) -> bytes:
    event = f"event: {name}\n" if name else ""
    return f"{event}data: {json.dumps(content)}\n\n".encode()


@pytest.mark.parametrize(
    ("content", "wanted", "again"),
    [
        ({"type": "server_error", "message": "boom"}, Verdict("failed", "server_error"), True),
        ({"type": "overloaded_error", "message": "x"}, Verdict("failed", "overloaded_error"), True),
        ({"type": "rate_limit_error", "message": "x"}, Verdict("throttled", "rate_limit_error"), True),
        ({"code": "insufficient_quota"}, Verdict("exhausted", "insufficient_quota", EXHAUSTED_S), False),
        ({"type": "invalid_request_error"}, Verdict("ok", "invalid_request_error"), False),
    ],
)
@pytest.mark.parametrize("call", [by_openai_stream, by_anthropic_stream])
def test_an_error_inside_a_stream(call, content, wanted, again):
    event = data({"type": "error", "error": content}, "error" if call is by_anthropic_stream else None)
    failure = raised(call, stream(data({"choices": []}), event))
    assert verdict_of_error(failure, NOW) == wanted
    assert is_repeated(failure) is again


@pytest.mark.parametrize("call", [by_openai_stream, by_anthropic_stream, by_responses_stream])
def test_a_stream_that_breaks_off(call):
    failure = raised(call, stream(data({"choices": []}), then="cut"))
    verdict = verdict_of_error(failure, NOW)
    assert verdict.how == "failed"
    assert is_repeated(failure)


def wrapped_by_openai(inner: Exception) -> Exception:
    """What the SDK makes of an exception of its transport."""

    class Refuses(httpx2.BaseTransport):
        def handle_request(self, request):
            raise inner

    client = openai.OpenAI(
        base_url="http://x", api_key="k", max_retries=0, http_client=httpx2.Client(transport=Refuses())
    )
    with pytest.raises(Exception) as caught:  # noqa: PT011
        client.chat.completions.create(model="m", messages=ASKED)
    return caught.value


def test_a_refusal_of_ours_that_an_sdk_has_wrapped_is_nothing_of_the_provider():
    stopped = wrapped_by_openai(CircuitOpen("openai: calls have stopped", 8.0))
    assert verdict_of_error(stopped, NOW).how == "cancelled"
    assert retry_after_s(stopped, NOW) == 8.0
    assert verdict_of_error(wrapped_by_openai(httpx2.PoolTimeout("full")), NOW).how == "unused"
    assert verdict_of_error(wrapped_by_openai(httpx2.ConnectError("no")), NOW) == Verdict("failed", "connection error")


def caused(failure: BaseException, cause: BaseException) -> BaseException:
    failure.__cause__ = cause
    return failure


@pytest.mark.parametrize(
    "failure",
    [
        asyncio.CancelledError(),
        GeneratorExit(),
        KeyboardInterrupt(),
        ValueError("the user's"),
        ResourceBusy("", 3.0),
        StepTimeout("the step's"),
        BaseExceptionGroup("", [asyncio.CancelledError(), ValueError()]),
        caused(ValueError(), KeyError()),
    ],
)
def test_what_says_nothing_of_the_provider(failure):
    assert verdict_of_error(failure, NOW) == Verdict("cancelled")


def test_groups_causes_and_other_gateways():
    group = ExceptionGroup("", [ValueError(), ConnectionResetError(), caused(KeyError(), TimeoutError())])
    assert verdict_of_error(group, NOW).how == "failed"
    assert verdict_of_error(caused(ValueError(), TimeoutError()), NOW) == Verdict("failed", "timeout")
    assert verdict_of_error(caused(ExceptionGroup("", [ValueError()]), TimeoutError()), NOW).how == "failed"
    assert verdict_of_error(Unreachable("another gateway"), NOW) == Verdict("failed", "connection error")
    refused = RateLimited("of this process", 3.0)
    assert verdict_of_error(refused, NOW).how == "cancelled"
    refused.problem = Problem(type="urn:offramp:error:rate-limited", status=429)
    assert verdict_of_error(refused, NOW) == Verdict("throttled", "429", 3.0), "an answer of another gateway"
    circle = ValueError()
    circle.__cause__ = caused(KeyError(), circle)
    assert verdict_of_error(circle, NOW).how == "cancelled"


class Unwilling(Exception):
    def __getattribute__(self, name):
        raise RuntimeError("no")


def test_no_exception_raises():
    assert verdict_of_error(Unwilling(), NOW).how == "cancelled"
