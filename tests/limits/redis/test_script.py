"""The script by itself, at times of the test's own: what is kept for how long, and whose permits end when."""

from __future__ import annotations

import uuid

import msgspec
import pytest

from offramp.core.limits.capacity import SCALE_CUT
from offramp.core.limits.spec import resource_spec
from offramp.core.sla import SLA
from offramp.limits.redis import adapter, link, scripts
from offramp.limits.redis.scripts import KEPT_S, LEASE_S, Script
from tests import valkey

DAY_S = 86_400.0


class Calls:
    """Calls of several processes, of several versions of an app."""

    def __init__(self, client, tag):
        self.client, self.tag = client, tag

    def call(self, script, own, now, *ops):
        packed = msgspec.msgpack.encode((own, now, ops))
        return msgspec.msgpack.decode(self.client.eval(script.source, 1, self.tag, packed))

    def join(self, script, own, now, *ops):
        return self.call(script, own, now, ("j", None, 0), *ops, ("k", []))

    def ask(self, script, own, now, name, resource="a", **given):
        return self.call(script, own, now, ask(name, resource, **given))[1]

    def state(self, resource="a"):
        return msgspec.msgpack.decode(self.client.get(f"{self.tag}lim:s:{resource}"))

    def settled(self):
        """This server has lost nothing."""
        self.client.zrem(f"{self.tag}lim:clients", "")

    def after_days(self):
        """What ends by then is gone."""
        for key in list(self.client.scan_iter(f"{self.tag}*")):
            if self.client.ttl(key) > 0:
                self.client.delete(key)


def ask(name, resource="a", *, kind="a", tokens=None, within=(), step="", priority=0, tenant=""):
    return (kind, name, resource, name, step, "default", tenant, priority, tokens, None, list(within), True, 0)


def script(*specs):
    return Script(specs, {"default": SLA("default")})


def ends(name, *, tokens=None, how="ok"):
    return ("d", name, "a", how, "", tokens, None, 0.0)


@pytest.fixture
def server():
    with valkey.server().client() as client:
        made = Calls(client, f"{{{uuid.uuid4().hex}}}:")
        yield made
        for key in client.scan_iter(f"{made.tag}*", count=1000):
            client.delete(key)


def granted(answers):
    return [each[1] for each in answers if each[0] == "g"]


def test_permits_of_a_service_that_starts_again_after_days_are_given_back_once(server):
    of = script(resource_spec("a", concurrency=2, rate="4/min"))
    server.join(of, "gone", 1000.0)
    server.settled()
    for number in range(5):  # two are granted, three wait
        server.ask(of, "gone", 1000.0, f"p{number}")
    server.after_days()
    later = 1000.0 + 3 * DAY_S
    server.join(of, "new", later)
    server.settled()
    for seconds in (3, 6, 9, 12):
        assert server.call(of, "new", later + seconds)[0]
    state = server.state()
    assert (state["held"], state["waits"], state["c"]["open"]) == (0, 0, 0)
    server.client.zadd(f"{server.tag}lim:clients", {"new": later + 90})
    asked = [granted(server.ask(of, "new", later + 80, f"n{number}")) for number in range(4)]
    assert asked == [["n0"], ["n1"], [], []]


def test_a_waiter_of_days_ago_is_granted(server):
    of = script(resource_spec("a", concurrency=1))
    server.join(of, "one", 1000.0)
    server.settled()
    server.ask(of, "one", 1000.0, "p0", tenant="t")
    server.ask(of, "one", 1000.0, "p1", tenant="t")
    server.ask(of, "one", 1000.0, "p2", tenant="u")
    server.after_days()
    later = 1000.0 + 3 * DAY_S
    server.client.zadd(f"{server.tag}lim:clients", {"one": later + LEASE_S})
    assert granted(server.call(of, "one", later, ends("p0"))[1]) == ["p1"]
    assert granted(server.call(of, "one", later, ends("p1"))[1]) == ["p2"]


def test_a_window_of_a_day_is_kept_while_calls_are_made_and_never_stays_full(server):
    of = script(resource_spec("a", rate="3/d"))
    server.join(of, "one", 1000.0)
    server.settled()
    key = f"{server.tag}lim:c:a"

    def calls(now, name):
        server.client.zadd(f"{server.tag}lim:clients", {"one": now + LEASE_S})
        found = server.call(of, "one", now, ask(name), ends(name))[1]
        if not granted(found):
            server.call(of, "one", now, ("x", name, "a"))
        return granted(found)

    assert calls(1000.0, "p0")
    server.client.expire(key, 10)  # time has passed
    for number in (1, 2, 3):
        assert calls(1000.0 + 1.5 * DAY_S + number, f"p{number}")
    assert server.client.ttl(key) > KEPT_S / 2
    assert not calls(1000.0 + 2.1 * DAY_S, "p4")
    server.client.delete(key)  # whatever the reason
    assert calls(1000.0 + 4 * DAY_S, "p5")


def test_an_entry_that_replaces_the_only_one_of_its_log_ends_as_well(server):
    of = script(resource_spec("a", rate="5k/h"))
    server.join(of, "one", 1000.0)
    server.settled()
    for number in range(2):
        server.call(of, "one", 1000.0, ask(f"p{number}"), ends(f"p{number}"))
    assert server.client.ttl(f"{server.tag}lim:c:a") > 0


def test_tokens_of_a_step_that_was_not_called_for_days_are_learned_anew(server):
    of = script(resource_spec("a", tokens="10k/min"))
    server.join(of, "one", 1000.0)
    server.settled()
    for number in range(3):
        server.call(of, "one", 1000.0, ask(f"p{number}", tokens=1, step="s"), ends(f"p{number}", tokens=50))
    server.client.delete(f"{server.tag}lim:y:a ss")  # other steps keep the estimates, which are in one hash
    assert server.call(of, "one", 1001.0, ask("p4", tokens=1, step="s"), ends("p4", tokens=70))[0]
    assert server.client.hget(f"{server.tag}lim:e:a", "ss").startswith(b"70 ")


def test_the_estimate_of_all_steps_is_never_the_one_that_makes_room(server, monkeypatch):
    monkeypatch.setitem(scripts.CONSTANTS, "STEPS_MAX", 1)
    of = script(resource_spec("a", tokens="1000k/min"))
    server.join(of, "one", 1000.0)
    server.settled()
    for number in range(20):
        name = f"p{number}"
        server.call(of, "one", 1000.0, ask(name, tokens=1, step=f"s{number}"), ends(name, tokens=50))
    known = server.client.hgetall(f"{server.tag}lim:e:a")
    assert known[b"a"] == b"50 20"
    assert len(known) <= 3


def test_another_version_of_the_app_gives_tokens_back_of_a_resource_that_it_does_not_know(server):
    new = script(resource_spec("old", concurrency=2), resource_spec("a", tokens="10k/min", rate="5/min"))
    old = script(resource_spec("old", concurrency=2))
    server.join(new, "new", 1000.0)
    server.join(old, "old", 1000.0)
    server.settled()
    for number in range(5):
        assert granted(server.ask(new, "new", 1001.0, f"p{number}", tokens=1900))
    server.call(new, "new", 1001.0, *[("w", f"p{number}", "a", 0.0) for number in range(5)])
    for now in (1003.0, 1006.0, 1009.0, 1012.0):  # the new one is killed
        server.call(old, "old", now)
    state = server.state()
    assert (state["held"], state["c"]["open"], state["k"]["open"]) == (0, 0, 0)
    server.join(new, "newer", 1100.0)
    server.settled()
    assert granted(server.ask(new, "newer", 1100.0, "q", tokens=9_000))


def test_a_live_process_tells_what_it_holds_before_the_limits_grant_again():
    notices_s = LEASE_S / adapter.RENEWALS + link.ANSWER_TIMEOUT_S + link.RETRY_CAP_S
    assert notices_s <= scripts.QUIET_S


def test_a_clock_of_the_server_that_is_set_forward_ends_no_lease_of_a_live_process(server, monkeypatch):
    monkeypatch.setitem(scripts.CONSTANTS, "QUIET_S", 7.0)
    of = script(resource_spec("a", concurrency=2))
    for own in ("one", "two", "dead"):
        server.join(of, own, 1000.0)
    server.settled()
    assert granted(server.ask(of, "one", 1001.0, "p0"))
    assert granted(server.ask(of, "dead", 1001.0, "p1"))
    assert server.call(of, "two", 1016.5) == [0]  # the clock was set forward by 15 s
    assert not granted(server.call(of, "two", 1016.5, ("j", None, 0), ask("q0"), ask("q1"), ("k", ["q0", "q1"]))[1])
    assert server.call(of, "one", 1017.0) == [0]
    held = (*ask("p0", kind="h"), 0, None)
    server.call(of, "one", 1017.0, ("j", None, 0), held, ("k", ["p0"]))
    for now in (1018.0, 1020.5, 1023.0):
        assert not granted(server.call(of, "two", now, ("t", "a"))[1])
        server.call(of, "one", now)
    server.call(of, "two", 1025.5)  # the one that did not call is gone
    assert set(server.client.hgetall(f"{server.tag}lim:p:a one")) == {b"p0"}
    assert set(server.client.hgetall(f"{server.tag}lim:p:a two")) == {b"q0"}
    assert server.state()["held"] == 2


def test_a_process_that_starts_where_all_are_gone_that_held_nothing_waits_for_nobody(server):
    of = script(resource_spec("a", concurrency=2))
    server.join(of, "gone", 1000.0)
    server.settled()
    server.join(of, "new", 1020.0)
    assert granted(server.ask(of, "new", 1020.0, "p0"))


def test_the_data_of_another_server_say_when_they_last_heard_of_a_process(server):
    of = script(resource_spec("a", concurrency=2))
    server.join(of, "one", 1000.0)
    server.join(of, "two", 1030.0)
    epoch, number, *_ = server.call(of, "one", 1030.0, ("j", None, 0), ("k", []))[4]
    packed = msgspec.msgpack.encode([epoch, number, "another"])
    server.client.set(f"{server.tag}lim:life", packed)
    assert server.call(of, "two", 1100.0, ("j", epoch, number), ("k", []))[4][::3] == [epoch, 70.0]
    for _ in range(2):  # the answer may be lost, and be asked for again
        assert server.call(of, "one", 1105.0, ("j", epoch, number), ("k", []))[4][3] == 75.0
    assert server.call(of, "three", 1105.0, ("j", epoch, number), ("k", []))[4][3] is False


def test_an_ask_of_a_step_that_keeps_a_permit_looks_at_no_other_one(server):
    of = script(resource_spec("a", concurrency=1_000, rate="5k/min"), resource_spec("b", concurrency=1))
    server.join(of, "one", 1000.0)
    server.settled()
    server.ask(of, "one", 1000.0, "h", "b")
    for number in range(100):
        server.call(of, "one", 1000.0, ask(f"k{number}"), ("w", f"k{number}", "a", 0.0))
        server.ask(of, "one", 1000.0, f"w{number}", "b", within=[(f"k{number}", "a")])
    before = reads(server)
    assert server.ask(of, "one", 1000.0, "k100") == [["g", "k100", 0]]
    assert server.ask(of, "one", 1000.0, "w100", "b", within=[("k100", "a")])[0][0] == "w"
    server.call(of, "one", 1000.0, ("d", "k100", "a", "throttled", "429", None, 0.5, 0.0))
    server.call(of, "one", 1001.0, ask("k101"), ("d", "k101", "a", "ok", "", None, None, 0.0))
    # The limits shrank once, and all are looked at then: what each needs, and what it keeps.
    assert reads(server) - before < 300


def reads(server):
    stats = server.client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("hget", "hgetall", "hexists"))


def test_of_many_that_wait_for_each_other_the_newest_are_refused_once_limits_shrink(server):
    of = script(resource_spec("a", concurrency=100))
    server.join(of, "one", 1000.0)
    server.settled()
    server.call(of, "one", 1000.0, *[ask(f"k{number:02}") for number in range(100)])
    found = []
    for number in range(99):  # nothing that waits keeps the last permit
        at = 1001.0 + number / 100
        found += server.ask(of, "one", at, f"w{number:02}", within=[(f"k{number:02}", "a")])
    assert {each[0] for each in found} == {"w"}
    answers = server.call(of, "one", 1002.5, ("d", "k99", "a", "throttled", "429", None, None, 0.0))[1]
    refused = [each[1] for each in answers if each[2] == "deadlock"]
    assert refused == [f"w{number}" for number in range(98, 98 - len(refused), -1)]
    left = 100 - 1 - len(refused)
    assert left == int(100 * SCALE_CUT) - 1  # of as many calls as may be made at once now, one goes on
