"""What the adapter over Redis does beside the cases of every adapter: two processes, their words, their keys."""

from __future__ import annotations

import asyncio

import pytest

from offramp.core.limits.spec import Breaker, resource_spec
from offramp.core.sla import SLA
from offramp.limits.redis import link, open_redis_limits
from offramp.ports.limits import Done
from tests.limits.redis.processes import NAME, limit
from tests.support import eventually

HIGH, LOW = SLA("high", priority=1), SLA("low", priority=-1, queue_limit=2)
CLASSES = {"high": HIGH, "low": LOW}


async def test_a_grant_reaches_the_process_that_waits_for_it(place):
    one, two = place.join(), place.join()
    held = [place.ask(one), place.ask(one)]
    for each in held:
        await each.grant()
    third = place.ask(two)
    assert (await third.wait()).reason == "concurrency"
    one.done(held[0].id, Done())
    await third.grant()
    assert (await place.level(two)).in_use == 2


async def test_waiters_of_all_processes_are_in_one_order(place):
    specs = limit(concurrency=1)
    one, two = place.join(specs, classes=CLASSES), place.join(specs, classes=CLASSES)
    held = place.ask(one)
    await held.grant()
    low = place.ask(one, sla="low", priority=-1)
    await low.wait()
    high = place.ask(two, sla="high", priority=1)
    assert (await high.wait()).ahead == 0
    one.done(held.id, Done())
    await high.grant()
    assert not low.granted
    two.done(high.id, Done())
    await low.grant()


async def test_the_queue_of_a_class_is_full(place):
    one = place.join(limit(concurrency=1, rate="60/min"), classes=CLASSES)
    await place.ask(one).grant()
    waiting = [place.ask(one, sla="low", priority=-1) for _ in range(3)]
    refused = await waiting[2].refusal()
    assert refused.why == "busy"
    assert refused.says.startswith("openai: 2 calls wait")
    assert refused.says.endswith("; queue_limit is 2")
    assert refused.retry_after_s == pytest.approx(60 + 2 / 0.05, rel=0.1)


async def test_a_call_that_needs_more_than_the_limit_is_refused_with_both_figures(place):
    one = place.join(limit(tokens="1k/min"))
    refused = await place.ask(one, tokens_max=2_000, tokens=1_500).refusal()
    assert (refused.why, refused.says) == ("too-small", "openai: the call needs 1,500 tokens, the limit is 1k/min")


async def test_an_ask_that_is_withdrawn_leaves_its_place_and_hears_nothing_more(place):
    one = place.join(limit(concurrency=1))
    held, waiting, last = place.ask(one), place.ask(one), place.ask(one)
    await held.grant()
    await last.wait()
    one.withdraw(waiting.id)
    one.withdraw(held.id)
    await last.grant()
    assert not waiting.granted
    assert (await place.level(one)).in_use == 1


async def test_a_run_that_another_one_awaits_is_lifted_over_processes(place):
    specs = limit(concurrency=1)
    one, two = place.join(specs, classes=CLASSES), place.join(specs, classes=CLASSES)
    held = place.ask(one)
    await held.grant()
    first = place.ask(one, run_id="run-a", sla="low", priority=-1)
    second = place.ask(one, run_id="run-b", sla="low", priority=-1)
    await second.wait()
    two.lift("run-b", "high", 1)
    await eventually(lambda: _waiting_of(place, two, "high"))
    one.done(held.id, Done())
    await second.grant()
    assert not first.granted


async def _waiting_of(place, limits, sla):
    return sla in (await place.level(limits)).waiting


async def test_what_would_wait_for_itself_is_refused(place):
    specs = (resource_spec(NAME, concurrency=1),)
    one = place.join(specs)
    held = place.ask(one)
    await held.grant()
    assert (await place.ask(one, within=(held.id,)).refusal()).why == "deadlock"


async def test_closing_gives_everything_back_and_refuses_what_waits(place):
    one, two = place.join(), place.join()
    held = [place.ask(one), place.ask(one)]
    for each in held:
        await each.grant()
    mine, theirs = place.ask(one), place.ask(two)
    await mine.wait()
    await theirs.wait()
    await asyncio.to_thread(one.close)
    assert mine.refused.why == "closed"
    await theirs.grant()
    assert place.ask(one).refused.why == "closed"


async def test_an_open_breaker_refuses_what_waits_here_and_is_not_shared(place):
    specs = limit(concurrency=1, breaker=Breaker(min_calls=2, open_for=600))
    one, two = place.join(specs), place.join(specs)
    for _ in range(2):
        call = place.ask(one)
        await call.grant()
        waiting = place.ask(one)
        one.done(call.id, Done(how="failed", says="503"))
        await eventually(lambda waiting=waiting: waiting.granted or waiting.refused)
        if waiting.granted:
            one.withdraw(waiting.id)
    assert waiting.refused.why == "open"
    assert "2 x 503" in waiting.refused.says
    assert place.ask(one).refused.why == "open"
    assert (await place.level(one)).breaker.state == "open"
    assert (await place.level(two)).breaker.state == "closed"
    await place.ask(two).grant()


async def test_levels_are_shown_while_they_change(place):
    one = place.join()
    seen = []
    one.watch(seen.append)
    await eventually(lambda: seen)
    assert seen[-1][0].in_use == 0
    await place.ask(one).grant()
    await eventually(lambda: seen[-1][0].in_use == 1)


async def test_keys_end_with_what_they_are_of(place):
    specs = limit(concurrency=2, rate="60/min", tokens="10k/min")
    one = place.join(specs, classes=CLASSES)
    asks = [place.ask(one, run_id=f"run-{n}", tenant=f"t{n % 3}", sla="high", priority=1, step="s") for n in range(9)]
    for each in asks:
        await each.grant()
        one.done(each.id, Done(tokens=10))
    await eventually(lambda: _ended(place, one, 9))
    await asyncio.to_thread(one.close)
    with place.server.client() as client:
        keys = {key.decode().removeprefix(place.address.tag): key for key in client.scan_iter(f"{place.address.tag}*")}
        forever = {name for name, key in keys.items() if client.ttl(key) == -1}
    assert forever == {"lim:life", "lim:names"}


async def _ended(place, limits, count):
    return (await place.level(limits)).calls.get("ok") == count


async def test_an_unknown_resource_is_refused(place):
    assert place.ask(place.join(), "other").refused.why == "closed"


async def test_limits_at_an_address(place):
    limits = open_redis_limits(place.url, limit(concurrency=1), {})
    await place.ask(limits).grant()
    await asyncio.to_thread(limits.close)


async def test_a_user_who_may_load_no_library_gets_a_script(place):
    with place.server.client() as client:
        user = f"u{place.address.prefix}"
        client.execute_command(
            *("ACL", "SETUSER", user, "on", ">p", f"~{place.address.tag}*", f"&{place.address.tag}*"),
            *("+@all", "-@dangerous", "+info", "-function", "-fcall"),
        )
        before = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
        place.url = place.url.replace("redis://", f"redis://{user}:p@")
        one = place.join()
        await place.ask(one).grant()
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] > before


async def test_libraries_of_other_versions_do_not_pile_up(place, monkeypatch):
    monkeypatch.setattr(link, "LIBRARIES_MAX", 3)
    made = [place.join(limit(concurrency=number)) for number in range(1, 6)]
    for one in made:
        await place.ask(one).grant()
    with place.server.client() as client:
        assert len(client.function_list("offramp_limits_*")) <= 3
    for one in made:  # what a newer one has removed is loaded again
        assert (await place.level(one)).in_use == len(made)
