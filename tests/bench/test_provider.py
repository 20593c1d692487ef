"""The provider of the benchmarks counts exactly: what breaks a limit is a violation, what does not is none."""

from __future__ import annotations

import asyncio
import contextlib
import math
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench._provider_model import Latency, Provider, Terms, Window, arrivals_of, recorded
from offramp.core.rates import Rate
from tests.servers import free_port
from tests.support import eventually

ROOT = Path(__file__).resolve().parents[2]
LATENCIES = [Latency(0.5, 0.01)]


def provider(**terms):
    return Provider(Terms(errors=0.0, **terms), LATENCIES)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), max_size=60),
    st.integers(1, 8),
    st.integers(1, 3),
)
def test_a_window_counts_as_one_that_looks_at_every_call_anew(steps, limit, seconds):
    window = Window(Rate(limit, seconds))
    now, taken = 0.0, []
    for gap, weight in steps:
        now += gap / 10
        within = [each for at, each in taken if at > now - seconds]
        breaks = sum(within) + weight > limit
        assert window.breaks(now, weight) == breaks
        if not breaks:
            window.add(now, weight)
            taken.append((now, weight))
    assert window.peak <= limit


def test_a_call_too_many_in_a_window_is_a_violation_and_is_asked_to_wait_until_there_is_room():
    one = provider(rates=(Rate(2, 1), Rate(3, 60)))
    assert [one.arrive(at).status for at in (10.0, 10.4, 10.9)] == [200, 200, 429]
    refused = one.arrive(10.9)
    assert refused.retry_after_s == pytest.approx(0.1)
    assert one.arrive(11.0).status == 200, "the first call left the window, and what was refused took no place"
    assert one.arrive(12.5).retry_after_s == pytest.approx(57.5)
    stats = one.stats()
    assert (stats.calls, stats.served, stats.violations) == (6, 3, 3)
    assert (stats.broken, stats.peaks) == ({"2/s": 2, "3/min": 1}, {"2/s": 2, "3/min": 3})


def test_a_call_too_many_at_once_is_a_violation_until_another_has_left():
    one = provider(concurrency=1)
    assert [one.arrive(1.0).status, one.arrive(1.0).status] == [200, 429]
    one.leave()
    assert one.arrive(1.0).status == 200
    assert (one.stats().open, one.stats().open_peak, one.stats().broken) == (1, 1, {"1 at once": 1})


def test_tokens_are_counted_in_windows_of_their_own():
    one = provider(tokens=(Rate(100, 1),))
    assert [one.arrive(0.0, 60).status, one.arrive(0.5, 60).status, one.arrive(0.5, 40).status] == [200, 429, 200]
    assert one.arrive(0.6, 50).retry_after_s == pytest.approx(0.4)
    assert one.arrive(1.0, 60).status == 200
    assert one.stats().broken == {"tokens 100/s": 2}


def test_a_lenient_provider_counts_and_refuses_nothing():
    one = provider(rates=(Rate(1, 1),), enforced=False)
    assert [one.arrive(0.0).status for _ in range(3)] == [200, 200, 200]
    assert (one.stats().violations, one.stats().peaks) == (2, {"1/s": 3})


def test_most_calls_fail_in_an_outage_and_none_before_and_after():
    one = provider(outages=((10.0, 20.0),))
    statuses = [one.arrive(number / 10).status for number in range(300)]
    assert 503 not in statuses[:100] + statuses[200:]
    assert statuses[100:200].count(503) > 70


def test_the_same_seed_answers_the_same():
    terms = Terms(seed=7, errors=0.3, cuts=0.3)
    first, again = (Provider(terms) for _ in range(2))
    assert [first.arrive(float(at)) for at in range(200)] == [again.arrive(float(at)) for at in range(200)]


def test_what_was_recorded_has_two_endpoints_and_bursts_of_many_times_the_mean():
    read = recorded()
    assert len(read.latencies("together")) > 400
    assert len(read.latencies("fireworks")) > 400
    assert len(read.mixes) == 4
    for mix in read.mixes.values():
        arrivals = arrivals_of(mix, 1)
        assert arrivals == arrivals_of(mix, 1) != arrivals_of(mix, 2)
        busiest = max(
            sum(at <= other < at + 1 for other in arrivals) for at in arrivals[:: max(1, len(arrivals) // 99)]
        )
        assert busiest > 5 * len(arrivals) / arrivals[-1]


def start(port, *arguments):
    command = [sys.executable, "-m", "bench._provider", "--port", str(port), "--errors", "0", "--slow", "0.01"]
    return subprocess.Popen([*command, *arguments], cwd=ROOT)


@contextlib.asynccontextmanager
async def served(*arguments):
    """A client of a provider that is a process of its own."""
    port = free_port()
    process = start(port, *arguments)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def up():
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get("/readyz")).status_code == 200

            await eventually(up)
            yield client
    finally:
        process.kill()
        process.wait()


def sdk(client, max_retries=0):
    return openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=max_retries)


def asked(words, **more):
    return {"model": "any", "messages": [{"role": "user", "content": words}], **more}


async def stats_of(client):
    return (await client.get("/stats")).json()


async def test_an_sdk_reads_whole_answers_and_streams_and_the_tokens_they_used():
    async with served() as client, sdk(client) as model:
        whole = await model.chat.completions.create(**asked("in=10 out=20"))
        assert (whole.usage.total_tokens, whole.choices[0].message.content.count("word")) == (30, 20)
        events = [
            each async for each in await model.chat.completions.create(**asked("in=5", max_tokens=7), stream=True)
        ]
        words = "".join(each.choices[0].delta.content or "" for each in events if each.choices)
        assert (words.count("word"), events[-1].usage.total_tokens) == (7, 12)
        assert (await client.post("/none")).status_code == 404


async def test_a_refusal_says_when_to_try_again():
    async with served("--rate", "1/h") as client, sdk(client) as model:
        await model.chat.completions.create(**asked("out=1"))
        with pytest.raises(openai.RateLimitError) as refused:
            await model.chat.completions.create(**asked("out=1"))
        asked_ms = int(refused.value.response.headers["retry-after-ms"])
        assert 0 < asked_ms <= 3_600_000
        assert int(refused.value.response.headers["retry-after"]) == math.ceil(asked_ms / 1_000)
        assert (await stats_of(client))["broken"] == {"1/h": 1}


async def test_an_sdk_that_repeats_refused_calls_gets_its_answers_in_the_end():
    async with served("--rate", "2/s") as client, sdk(client, max_retries=20) as model:
        await asyncio.gather(*(model.chat.completions.create(**asked("out=1")) for _ in range(4)))
        stats = await stats_of(client)
        assert (stats["served"], stats["peaks"]["2/s"]) == (4, 2)
        assert stats["calls"] == stats["served"] + stats["violations"]


async def test_a_client_that_leaves_frees_its_place_at_once_and_a_broken_answer_is_its_own():
    async with served("--concurrency", "1") as client, sdk(client) as model:
        await client.post("/set", json={"slow": 1_000.0})
        asking = asyncio.create_task(model.chat.completions.create(**asked("out=1")))

        async def open_calls(count):
            return (await stats_of(client))["open"] == count

        await eventually(lambda: open_calls(1))
        asking.cancel()
        await eventually(lambda: open_calls(0))
        await client.post("/set", json={"slow": 0.01, "cuts": 1.0})
        with pytest.raises(openai.APIConnectionError):
            await model.chat.completions.create(**asked("out=9"))
        stats = await stats_of(client)
        assert (stats["left"], stats["cut"], stats["open"], stats["violations"]) == (1, 1, 0, 0)
