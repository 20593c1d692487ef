"""What a run takes of the signals that it is sent: the same in every store, which asks here."""

from __future__ import annotations

from offramp.core.run import RunRecord
from offramp.errors import IdempotencyMismatch, RunConflict

SIGNALS_MAX = 1_000
"""Signals that one run may be sent."""
SIGNALS_BYTES_MAX = 8 << 20
"""Of the values of all signals that one run is sent."""


def require_open(record: RunRecord, signals: int, bytes_in_all: int) -> None:
    """What `send_signal` refuses, the same in every store.

    Args:
        record: of the run.
        signals: that it was sent already.
        bytes_in_all: of their values and of the new one's.

    Raises:
        RunConflict: the run has ended, or would be sent more than it may.
    """
    if record.finished:
        raise RunConflict(f"{record.id} has ended ({record.status}) and takes no signal")
    if signals >= SIGNALS_MAX:
        raise RunConflict(f"{record.id} was sent {SIGNALS_MAX} signals, and takes no more")
    if bytes_in_all > SIGNALS_BYTES_MAX:
        raise RunConflict(
            f"{record.id} would have been sent {bytes_in_all} bytes of signals, and takes {SIGNALS_BYTES_MAX} in all; "
            "pass large data by reference"
        )


def require_same(kept: tuple[str, bytes], name: str, value: bytes) -> None:
    """What `send_signal` asks of a signal whose key it knows, the same in every store.

    Raises:
        IdempotencyMismatch: it is another signal.
    """
    if kept != (name, value):
        raise IdempotencyMismatch(
            "this Idempotency-Key came with another signal to this run; use a new key for a new signal"
        )
