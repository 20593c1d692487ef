"""The Lua script of limits: assembled from its files and from what the app declares, called by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files

from offramp.core.limits import capacity, learned
from offramp.core.limits.book import BLOCKED_SAID_S, WAITERS_MAX
from offramp.core.limits.gate import ADVANCE_S, AFTER_S, TOKENS_DEFAULT
from offramp.core.limits.spec import ResourceSpec
from offramp.core.limits.windows import MARGIN_S, slot_s
from offramp.core.order import DUE, SPARE
from offramp.core.rates import Rate
from offramp.core.sla import DEFAULT_CLASS, SLA

_PARTS = ("state", "windows", "queue", "grants", "circles", "operations")

LEASE_S = 10.0
"""Seconds after its last call for which a process counts as alive."""
LEASE_STEP = 0.05
"""The part of a lease by which a call may leave it shorter: it is written no more often."""
QUIET_S = 7.0
"""Seconds without grants once the server has lost data, or may have: processes tell again what they hold and called.

Longer than a live process takes to notice: until its next call, for the answer, and to connect again.
"""
BACK_S = 1.0
"""Seconds by which the server's clock is set back at least where that is noticed."""
SAID_MAX = 1_000
"""Waiters that learn of a longer stop at once."""
DUTY_LATE_S = 0.05
"""Seconds after which another process calls in the place of the one that was to."""
GRANTS_MAX = 200
"""Grants of one call for one resource, which blocks the server meanwhile; another call follows."""
REAP_MAX = 10
"""Processes whose leases ran out that one call ends."""
READ = 8
"""Entries of a window that are read at once."""
DROP_EVERY = 64
"""Entries after which those that no window counts any more are removed."""
KEPT_S = 2 * 86_400
"""Seconds after their last use for which the keys of a resource are kept: longer than the longest window."""

RECORDS_MAX = 1_000
"""Changed records after which a server forgets those that it has at hand."""
LIBRARIES = "offramp_limits_"
"""Begins the names of libraries."""

CONSTANTS = {
    "RECORDS_MAX": RECORDS_MAX,
    "QUIET_S": QUIET_S,
    "BACK_S": BACK_S,
    "SAID_MAX": SAID_MAX,
    "DUTY_LATE_S": DUTY_LATE_S,
    "GRANTS_MAX": GRANTS_MAX,
    "REAP_MAX": REAP_MAX,
    "READ": READ,
    "DROP_EVERY": DROP_EVERY,
    "KEPT_S": KEPT_S,
    "MARGIN_S": MARGIN_S,
    "PACE": capacity.PACE,
    "PACED_FROM": capacity.PACED_FROM,
    "MEAN_WEIGHT": learned.WEIGHT,
    "SCALE_MIN": capacity.SCALE_MIN,
    "SCALE_CUT": capacity.SCALE_CUT,
    "SCALE_GAIN": capacity.SCALE_GAIN,
    "BLOCKED_DEFAULT_S": capacity.BLOCKED_DEFAULT_S,
    "BLOCKED_S_MAX": capacity.BLOCKED_S_MAX,
    "EXHAUSTED_S": capacity.EXHAUSTED_S,
    "BLOCKED_SAID_S": BLOCKED_SAID_S,
    "WAITERS_MAX": WAITERS_MAX,
    "TOKENS_DEFAULT": TOKENS_DEFAULT,
    "ADVANCE_S": ADVANCE_S,
    "AFTER_S": AFTER_S,
    "SAMPLES_MAX": learned.SAMPLES_MAX,
    "STEPS_MAX": learned.STEPS_MAX,
    "QUANTILE": learned.QUANTILE,
    "TAGS_SPARE": SPARE,
    "DUE": DUE,
}


class Script:
    """What one app's processes call: a library of functions that the server keeps, so that a call defines none.

    The declarations are constants of the library: no call has to send or to look them up, and processes of another
    version of the app, with other limits, have a library of their own. A server without libraries of functions, or
    a user who may load none, gets the same as a script.

    Args:
        resources: what the app declares.
        classes: by name.
        lease_s: see `RedisLimits`.
    """

    def __init__(self, resources: Sequence[ResourceSpec], classes: Mapping[str, SLA], lease_s: float = LEASE_S) -> None:
        folder = files(__package__)
        parts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in _PARTS]
        body = "\n".join([_constants(lease_s), declared(resources, classes), *parts])
        self.name = LIBRARIES + hashlib.sha1(body.encode(), usedforsecurity=False).hexdigest()[:20]
        # It frees or bounds what it keeps: it may write while the server's memory is full.
        register = f"redis.register_function{{function_name='{self.name}', callback=main, flags={{'allow-oom'}}}}"
        self.library = f"#!lua name={self.name}\n{body}\n{register}\n".encode()
        self.source = f"#!lua flags=allow-oom\n{body}\nreturn main(KEYS, ARGV)\n".encode()
        self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()


def _constants(lease_s: float) -> str:
    constants = {**CONSTANTS, "LEASE_S": lease_s, "LEASE_STEP_S": LEASE_STEP * lease_s}
    return "local C = {" + ", ".join(f"{name} = {value!r}" for name, value in constants.items()) + "}\n"


def declared(resources: Sequence[ResourceSpec], classes: Mapping[str, SLA]) -> str:
    """The declarations as Lua's tables."""
    specs = ", ".join(f"[{_text(spec.name)}] = {_resource(spec)}" for spec in resources)
    named = {**classes, DEFAULT_CLASS.name: classes.get(DEFAULT_CLASS.name, DEFAULT_CLASS)}
    slas = ", ".join(f"[{_text(name)}] = {_class(sla)}" for name, sla in sorted(named.items()))
    return f"local SPECS = {{{specs}}}\nlocal CLASSES = {{{slas}}}\n"


def _resource(spec: ResourceSpec) -> str:
    least = min(spec.tokens).limit if spec.tokens else "nil"
    largest = max((rate.limit for rate in spec.rates or spec.tokens), default="nil")
    lower = 1.0 - spec.reserve
    parts = 1.0, lower, lower + spec.share * spec.reserve
    return (
        f"{{concurrency = {spec.concurrency or 'nil'}, rates = {_rates(spec.rates)}, tokens = {_rates(spec.tokens)}, "
        f"paced = {_paced(spec)}, "
        f"share = {spec.share!r}, parts = {{{', '.join(map(repr, parts))}}}, least = {least}, largest = {largest}}}"
    )


def _rates(rates: Sequence[Rate]) -> str:
    """Windows as {limit, seconds, name}, and for how long an entry of their log collects what is noted after it."""
    given = [f"{{{rate.limit}, {rate.seconds}, '{rate.seconds}'}}" for rate in rates]
    return f"{{{', '.join([*given, f'slot = {slot_s(rates)!r}'])}}}"


def _paced(spec: ResourceSpec) -> str:
    """What lower classes use at an even pace, as windows of grants; `of` is the place of the window of calls."""
    if not spec.reserve:
        return "{slot = 0}"
    given = [
        f"{{{rate.limit}, {rate.seconds}, '{rate.seconds}', of = {window + 1}}}"
        for (window, _), rate in zip(capacity.long_windows(spec.rates), capacity.paced(spec.rates), strict=True)
    ]
    return f"{{{', '.join([*given, f'slot = {slot_s(capacity.paced(spec.rates))!r}'])}}}"


def _class(sla: SLA) -> str:
    limit = "nil" if sla.queue_limit is None else str(sla.queue_limit)
    return f"{{patience = {float(sla.patience)!r}, queue_limit = {limit}}}"


def _text(value: str) -> str:
    """A string of Lua: each byte that is not a letter or a digit by its number."""
    return '"' + "".join(chr(b) if chr(b).isalnum() and b < 128 else f"\\{b:03d}" for b in value.encode()) + '"'
