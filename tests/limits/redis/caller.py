"""A process that makes calls over a server: `python -m tests.limits.redis.caller URL COUNTER CALLS SPEC`.

It keeps 5 asks open until CALLS were granted, and counts each call under way in a key that all share: COUNTER is a
port, a colon, and the key. It says `begun` after its first calls, and at its end the most that it saw there.
"""

from __future__ import annotations

import json
import os
import queue
import sys

import redis

from offramp.core.limits.spec import resource_spec
from offramp.limits.redis import RedisLimits, scripts
from offramp.ports.limits import Ask, Done, Granted
from offramp.stores.redis.address import Address
from tests.limits.redis.processes import SOON_S

OPEN = 5


def main(url, counter, calls, spec):
    scripts.CONSTANTS["QUIET_S"] = SOON_S
    port, key = counter.split(":", 1)
    limits = RedisLimits(Address.parse(url), [resource_spec("openai", **json.loads(spec))], {})
    granted = queue.SimpleQueue()

    def ask(number):
        name = f"{os.getpid()}:{number:05}"

        def notify(answer):
            if isinstance(answer, Granted):
                granted.put(name)

        limits.ask(Ask(id=name, resource="openai", tenant=str(os.getpid())), notify)

    most = 0
    with redis.Redis(port=int(port), protocol=2) as shared:
        for number in range(OPEN):
            ask(number)
        for number in range(int(calls)):
            name = granted.get(timeout=60)
            most = max(most, shared.incr(key))
            limits.written(name)
            if number == OPEN:
                sys.stdout.write("begun\n")
                sys.stdout.flush()
            if number + OPEN < int(calls):
                ask(number + OPEN)
            shared.decr(key)
            limits.done(name, Done())
    limits.close()
    sys.stdout.write(f"{most}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
