"""Pending announcements by webhook, and how a message is sent.

The outbox is a cursor over each run's durable event log, not a copy of events. Obligations of every outbox, which
`offramp.conformance` proves and cites by id:

W1 A run with a webhook and its entry in the outbox come into being together, or neither does.
W2 An entry is due as soon as an event it asks for, or the terminal one, is visible; no event is left out.
W3 One process at a time claims an entry, until the claim runs out; each claim has a higher token than any before, and
   `settle` with an older one changes nothing.
W4 The part of the log that a claim shows, up to `latest`, is on disk.
W5 Entries outlive the process, and the events they still need outlive the run's retention by `UNDELIVERED_KEPT_S`.
W6 A claim takes no more than fits, in all and per host, whatever waits for other hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from offramp.core.webhooks import Answer, Progress, Target

UNDELIVERED_KEPT_S = 2 * 86_400.0
"""Seconds past its retention for which a run with undelivered announcements is kept."""
CANDIDATES_MAX = 1_000
"""Due entries that one claim considers."""


class Room(NamedTuple):
    """How many messages may start: in all, and per host; `busy` counts those on the way by host."""

    total: int
    per_host: int
    busy: Mapping[str, int]

    def full(self) -> list[str]:
        """The hosts to which no message may start."""
        return [host for host, count in self.busy.items() if count >= self.per_host]

    def choose(self, due: Iterable[tuple[str, str]]) -> list[str]:
        """The runs that fit, of `(run id, host)` in order of urgency."""
        counts = dict(self.busy)
        chosen: list[str] = []
        for run_id, host in due:
            if len(chosen) >= self.total:
                break
            if counts.get(host, 0) < self.per_host:
                counts[host] = counts.get(host, 0) + 1
                chosen.append(run_id)
        return chosen


class Pending(NamedTuple):
    """A claimed entry: events numbered up to `latest` may be announced, of those above `progress.cursor`."""

    run_id: str
    host: str
    token: int
    latest: int
    progress: Progress


class Outbox(Protocol):
    """See the obligations at the top of this module."""

    async def claim(self, room: Room, now: float, until: float) -> Sequence[Pending]:
        """Take due entries that fit (W6), for this process alone until `until`, in epoch seconds (W3, W4)."""

    async def settle(self, pending: Pending, progress: Progress) -> bool:
        """Give a claimed entry back with its progress, or remove it if it is done; False if the claim ran out (W3)."""

    def listen(self, listener: Callable[[], object]) -> None:
        """Call back, on the store's thread, when this process made an entry due (W2)."""


class Message(NamedTuple):
    """One message; `body` is JSON, `headers` go with it beside the sender's own."""

    id: str
    body: bytes
    headers: Mapping[str, str] = {}


class Sender(Protocol):
    """Delivers messages; never raises for a fault of a receiver or the network."""

    async def send(self, target: Target, message: Message) -> Answer:
        """One attempt, which ends within the sender's timeout."""

    async def close(self) -> None:
        """Close all connections."""
