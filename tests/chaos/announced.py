"""The invariants of webhooks, from outside: what their receiver wrote down, and what the event log holds."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.client import Seen
from tests.chaos.receiver import FILE

TAKEN = {204, 410}


class Receipt(NamedTuple):
    """A message as it arrived."""

    seq: int
    type: str
    status: int


def receipts(home: Path) -> dict[str, list[Receipt]]:
    """What was received of each run, in order."""
    found: dict[str, list[Receipt]] = defaultdict(list)
    file = home / FILE
    for line in file.read_text().splitlines() if file.exists() else ():
        noted = json.loads(line)
        run, _, seq = noted["id"].rpartition("-")
        found[run].append(Receipt(int(seq), noted["type"], noted["status"]))
    return found


def unannounced(
    home: Path, seen: Sequence[Seen], events: dict[str, list[tuple[int, dict[str, Any]]]], left: Sequence[str]
) -> Iterator[str]:
    """What is wrong with the messages; `events` is the log of each run, `left` who still has something to announce."""
    got = receipts(home)
    asked = {str(one.run): one.asked.webhook["events"] for one in seen if one.run is not None and one.asked.webhook}
    for run in left:
        yield f"{run} still has something to announce"
    for run in {*got, *asked}:
        log = dict(events.get(run, ()))
        for receipt in got[run]:
            if receipt.seq not in log or log[receipt.seq]["type"] != receipt.type:
                yield f"{run}: {receipt} was announced, the log has {log.get(receipt.seq)}"
        if run in asked:
            yield from _order(run, got[run], [seq for seq, event in log.items() if event["type"] in asked[run]])


def _order(run: str, got: list[Receipt], wanted: list[int]) -> Iterator[str]:
    """Every event arrives at least once, none before the one that precedes it was taken, none after that."""
    at = 0
    taken = False
    for receipt in got:
        if taken and at + 1 < len(wanted) and receipt.seq == wanted[at + 1]:
            at, taken = at + 1, False
        if at >= len(wanted) or receipt.seq != wanted[at]:
            yield f"{run}: {receipt} out of order; asked for {wanted}, got {got}"
            return
        taken = taken or receipt.status in TAKEN
        if receipt.status == 410:
            wanted = wanted[: at + 1]
    if wanted and not (taken and at == len(wanted) - 1):
        yield f"{run}: of {wanted} not everything arrived: {got}"
