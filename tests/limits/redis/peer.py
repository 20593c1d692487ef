"""A process that holds permits over a server: `python -m tests.limits.redis.peer URL COUNT SPEC`.

It says its id, and `granted` for each of COUNT permits. Then it takes words from its stdin: `ask` asks for one more and
says `asked`, `end` ends one and says `ended`; what comes later says `granted` too.
"""

from __future__ import annotations

import json
import os
import sys

from offramp.core.limits.spec import resource_spec
from offramp.limits.redis import RedisLimits
from offramp.ports.limits import Ask, Done, Granted
from offramp.stores.redis.address import Address


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(url, count, spec):
    given = json.loads(spec)
    lease = {"lease_s": given.pop("lease_s")} if "lease_s" in given else {}
    limits = RedisLimits(Address.parse(url), [resource_spec("openai", **given)], {}, **lease)
    held = []
    say(limits.own)

    def ask(number):
        name = f"peer-{os.getpid()}:{number}"

        def notify(answer):
            if isinstance(answer, Granted):
                held.append(name)
                say("granted")

        limits.ask(Ask(id=name, resource="openai"), notify)

    asked = 0
    for _ in range(int(count)):
        ask(asked := asked + 1)
    for line in sys.stdin:
        if line == "ask\n":
            ask(asked := asked + 1)
            say("asked")
        else:
            limits.written(held[0])
            limits.done(held.pop(0), Done())
            say("ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
