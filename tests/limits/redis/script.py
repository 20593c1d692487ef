"""The limits' script with the methods of the pure state machine, and a time of the test's own."""

from __future__ import annotations

import itertools

import msgspec
from redis import Redis

from offramp.core.limits.book import Tell
from offramp.core.limits.messages import Granted
from offramp.limits.redis.answers import refused_of, waits_of
from offramp.limits.redis.scripts import LEASE_S, Script

_prefixes = itertools.count()


class ScriptBook:
    """What `Book` has, over a server: every method returns what it out each process."""

    def __init__(self, client: Redis, specs, classes, names="abc"):
        self.specs, self.classes = {spec.name: spec for spec in specs}, classes
        self.client = client
        self.tag = f"{{script{next(_prefixes)}}}:"
        self.script = Script(specs, classes)
        self.resource_of, self.live = {}, set()
        self.subscribed = client.pubsub()
        self.subscribed.subscribe(*(self.channel(name) for name in names))
        for name in names:
            assert self._next()[0] == name  # the answers to subscribing
        for name in names:
            self.revive(name, 0.0)

    def channel(self, client):
        return f"{self.tag}lim:to:{client}"

    def revive(self, client, now):
        assert self.call(now, client, ("j", None, 0)) == []
        self.live = {*self.live, client}
        self.client.zrem(f"{self.tag}lim:clients", "")  # this server has lost nothing

    def close(self):
        self.subscribed.close()
        for key in self.client.scan_iter(f"{self.tag}*", count=1000):
            self.client.delete(key)

    # As of a book.

    def ask(self, now, client, ask):
        within = [(each, self.resource_of[each]) for each in ask.within if each in self.resource_of]
        self.resource_of[ask.id] = ask.resource
        return self.call(
            now,
            client,
            (
                *("a", ask.id, ask.resource, ask.run_id, ask.step, ask.sla, ask.tenant, ask.priority),
                *(ask.tokens, ask.tokens_max, within, ask.queues, 0),
            ),
        )

    def withdraw(self, now, client, name):
        return self.call(now, client, ("x", name, self.resource_of[name]))

    def written(self, now, client, name):
        return self.call(now, client, ("w", name, self.resource_of[name], 0))

    def done(self, now, client, name, done):
        more = done.how, done.says, done.tokens, done.blocked_s, None
        return self.call(now, client, ("d", name, self.resource_of[name], *more))

    def lift(self, now, run_id, sla, priority):
        return self.call(now, "a", ("l", run_id, sla, priority))

    def leave(self, now, client):
        out = self.call(now, client, ("q",))
        self.revive(client, now)
        return out

    def pass_to(self, now):
        out = []
        for name in self.specs:
            due = self.state(name).get("due")
            if due is not None and due <= now:
                out += self.call(now, "a", ("t", name))
        return out

    def due(self):
        found = [state["due"] for name in self.specs if (state := self.state(name)).get("due") is not None]
        return min(found, default=None)

    def state(self, name):
        kept = self.client.get(f"{self.tag}lim:s:{name}")
        return {} if kept is None else msgspec.msgpack.decode(kept)

    # The call.

    def call(self, now, client, *ops):
        if self.live:  # whatever the time is now
            self.client.zadd(f"{self.tag}lim:clients", dict.fromkeys(self.live, now + LEASE_S))
        packed = msgspec.msgpack.encode((client, now or 1e-9, ops))
        known, *rest = msgspec.msgpack.decode(self.client.eval(self.script.source, 1, self.tag, packed))
        assert known
        out = [self._tell(client, each) for each in rest[0]]
        self.client.publish(self.channel("a"), b"")
        while (message := self._next())[1]:
            out += [self._tell(message[0], each) for each in msgspec.msgpack.decode(message[1])]
        return out

    def _next(self):
        """What was published next: to which process, and what."""
        message = self.subscribed.get_message(timeout=5)
        assert message is not None
        return message["channel"].decode().rpartition(":")[2], message["data"]

    def _tell(self, client, answer):
        kind, name, *rest = answer
        if kind == "g":
            return Tell(client, name, Granted(rest[0]))
        if kind == "w":
            return Tell(client, name, waits_of(rest))
        return Tell(client, name, refused_of(self.specs[self.resource_of[name]], self.classes, rest))
