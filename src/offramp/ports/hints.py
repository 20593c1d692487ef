"""Notifications between processes, which make waiting for a poll unnecessary. Obligations of every adapter:

H1 A hint has no authority: it may be lost, repeated, late or forged, and only makes its receiver read the store sooner.
   One `missed` makes up for all hints lost during an interruption, once it is over.
H2 `send`, `follow` and `unfollow` may be called from any thread at any time, and never wait.
H3 A hint of events reaches the processes that follow one of its runs; any other hint reaches every other process.
H4 A process does not receive its own hints.
H5 If `follow` takes effect with a delay, the process receives a hint of that run's events once it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from offramp.ports.store import Owner

Kind = Literal["hello", "work", "events", "cancel", "signal", "webhooks"]
"""A process joined; a run waits for a worker; runs have new events, are to be cancelled, were sent a signal; a webhook
is due."""
IDS_MAX = 1_000
"""Runs named by one hint; 1,000 of them take 32 kB."""


class Hearer(Protocol):
    """The receiver of hints; called on the loop that opened them."""

    def hinted(self, kind: Kind, ids: Sequence[str]) -> object:
        """Another process sent this hint about these runs."""

    def missed(self) -> object:
        """Hints of any kind may have been lost."""


class Hints(Protocol):
    """This process's side. See the obligations at the top of this module."""

    @property
    def port(self) -> int:
        """The port at which other processes of this machine reach it, for `Owner.port`; 0 if they need none."""

    async def open(self, hearer: Hearer) -> None:
        """Begin to receive; does not wait for an unavailable server."""

    def peers(self, owners: Sequence[Owner]) -> None:
        """The known processes, from the store."""

    def send(self, kind: Kind, ids: Sequence[str] = ()) -> None:
        """Send a hint to the others (H2, H3)."""

    def follow(self, run_id: str) -> None:
        """A reader here waits for events of this run, which another process writes (H3, H5)."""

    def unfollow(self, run_id: str) -> None:
        """No reader here waits for them any more."""

    async def close(self) -> None:
        """Receive and send no more."""
