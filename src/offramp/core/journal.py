"""The journal of a run: finished steps in order, and how a step call finds its entry again.

Pure bookkeeping; writing entries down is the store's work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Literal

import msgspec

from offramp.core.failure import Failure

Kind = Literal["step", "emit", "value", "sleep", "signal"]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One finished step, or one value that a replay must not see change.

    `value` is the JSON-encoded result; a failed step has `failure` instead. `started_at` is in epoch seconds.
    `arguments` and `label` are those of the call, as `core/inspection.py` and `core/labels.py` make them for people; no
    replay needs them.
    """

    key: str
    name: str
    kind: Kind
    value: bytes | None = None
    failure: Failure | None = None
    attempt: int = 1
    started_at: float = 0.0
    duration_ms: float = 0.0
    arguments: bytes | None = None
    label: str | None = None


def without_arguments(entries: Iterable[Entry]) -> list[Entry]:
    """Entries as a replay needs them."""
    return [entry if entry.arguments is None else msgspec.structs.replace(entry, arguments=None) for entry in entries]


def digest(encoded_arguments: bytes) -> str:
    """64 bits of BLAKE2b over a call's encoded arguments, in hex."""
    return blake2b(encoded_arguments, digest_size=8).hexdigest()


TIMER = "offramp.timer"
"""Name of the entry of a plain asyncio timer that fired in a body."""
DUE = "offramp.timer.due"
"""Name of an entry with the due time of a timer; no call asks for one, so a replay may leave it unread."""
ORDER = "offramp.order"
"""Name of an entry that states in which order a body saw others, if not in their recorded order."""


KEPT = "offramp.kept"
"""Key and name of the entry before those that a retried run keeps at hand, with their number. They come first in the
journal: `BEGUN` ones, and results without a place in the order of the others, which a call may ask for or not."""
TAKEN = "offramp.taken"
"""Name of the entry that gives a kept result its place in the order: a call has asked for it."""
BEGUN = "offramp.begun"
"""Name of the entry of a step that an earlier run began, and whose effect may have happened."""


def parted(entries: Sequence[Entry]) -> tuple[Sequence[Entry], Sequence[Entry]]:
    """The entries that a retried run keeps at hand, with the one that counts them, and the others in their order."""
    if not entries or entries[0].key != KEPT:
        return (), entries
    count = 1 + msgspec.json.decode(entries[0].value or b"0", type=int)
    return entries[:count], entries[count:]


def taken(key: str) -> Entry:
    """The entry that gives a kept result its place."""
    return Entry(f"{TAKEN}:{key}", TAKEN, "value", msgspec.json.encode(key))


def steps_in(entries: Iterable[Entry]) -> int:
    """How many steps are recorded."""
    return len({entry.key for entry in entries if entry.kind == "step"})


def mark(key: str) -> str:
    """A short form of a key, enough to identify it within its run."""
    return blake2b(key.encode(), digest_size=6).hexdigest()


def reordered(entries: Sequence[Entry], seen: Sequence[str]) -> list[Entry]:
    """The entries, with those named in `seen` permuted into its order."""
    head, entries = parted(entries)
    rank = {made: place for place, made in enumerate(seen)}
    ranks = [rank.get(mark(entry.key)) for entry in entries]
    places = [place for place, found in enumerate(ranks) if found is not None]
    made = list(entries)
    for place, origin in zip(places, sorted(places, key=lambda place: ranks[place] or 0), strict=True):
        made[place] = entries[origin]
    return [*head, *made]


def as_seen(recorded: Sequence[Entry]) -> list[Entry]:
    """Journal entries in the order in which the body saw them."""
    head, rest = parted(recorded)
    if head:
        kept = {entry.key: entry for entry in head}
        recorded = [*head, *(kept[_key_in(entry)] if entry.name == TAKEN else entry for entry in rest)]
    entries = [entry for entry in recorded if entry.name != ORDER]
    if len(entries) < len(recorded):
        for entry in recorded:
            if entry.name == ORDER:
                entries = reordered(entries, msgspec.json.decode(entry.value or b"[]", type=list[str]))
    return entries


def _key_in(taken: Entry) -> str:
    return msgspec.json.decode(taken.value or b"", type=str)


def without_dues(entries: Iterable[Entry]) -> tuple[list[Entry], dict[str, float]]:
    """A journal without the entries of due times, and these times by the timers' keys."""
    others: list[Entry] = []
    dues: dict[str, float] = {}
    for entry in entries:
        if entry.name == DUE:
            due = msgspec.json.decode(entry.value or b"null")
            dues[entry.key.removesuffix(":due")] = math.inf if due is None else float(due)
        else:
            others.append(entry)
    return others, dues


class DuplicateEntry(AssertionError):
    """A journal entry was about to be written twice (invariant J1): a bug in Offramp."""


class Journal:
    """Entries by key (invariant J2), and which of them a replay has asked for.

    A key is `name:digest:occurrence`: parallel branches may interleave differently on replay, and unchanged code
    may move. Occurrences are counted where the step is called, not where it is awaited.

    Args:
        recorded: the steps that earlier executions finished.
        begun: the keys of steps that earlier executions began and did not finish.
    """

    def __init__(self, recorded: Iterable[Entry] = (), begun: Iterable[str] = ()) -> None:
        self.entries: list[Entry] = list(recorded)
        self.replayable = len(self.entries)
        self._position = {entry.key: position for position, entry in enumerate(self.entries)}
        self._asked = [False] * self.replayable
        self._calls: dict[str, int] = {}
        self.missing = self.replayable
        """How many recorded entries the replay has not asked for yet."""
        if len(self._position) != self.replayable:
            raise DuplicateEntry("the recorded journal holds a key twice")
        self._unclaimed: dict[str, set[int]] = {}
        """The occurrences of known calls that the body has not made yet."""
        for entry in self.entries:
            if entry.kind == "step":
                self._know(entry.key)
        for key in begun:
            self._know(key)

    def _know(self, key: str) -> None:
        call, _, occurrence = key.rpartition(":")
        if occurrence.isdecimal():
            self._unclaimed.setdefault(call, set()).add(int(occurrence))

    def key(
        self, name: str, encoded_arguments: bytes = b"", earlier: Callable[[], Iterable[bytes]] | None = None
    ) -> str:
        """The key of the next call with this name and these arguments.

        Args:
            name: the step's.
            encoded_arguments: what its digest is of.
            earlier: other forms of the same arguments, under which another version may have recorded the call; asked
                for only where the call is not known under this one.
        """
        call = f"{name}:{digest(encoded_arguments)}"
        occurrence = self._calls.get(call, 0)
        self._calls[call] = occurrence + 1
        if self._unclaimed and earlier is not None and not self._claim(call, occurrence):
            for form in earlier():
                other = f"{name}:{digest(form)}"
                # Lower occurrences belong to earlier calls, found under another form.
                for number in (occurrence, min(self._unclaimed.get(other, ()), default=occurrence)):
                    if number <= occurrence and self._claim(other, number):
                        return f"{other}:{number}"
        return f"{call}:{occurrence}"

    def _claim(self, call: str, occurrence: int) -> bool:
        """Whether this call is known and was not claimed; it is now."""
        known = self._unclaimed.get(call, ())
        if occurrence not in known:
            return False
        self._unclaimed[call].discard(occurrence)
        if not self._unclaimed[call]:
            del self._unclaimed[call]
        return True

    def ask(self, key: str) -> Entry | None:
        """The recorded entry, marked as asked for; None when this call has not finished before."""
        position = self._position.get(key)
        if position is None or position >= self.replayable:
            return None
        if not self._asked[position]:
            self._asked[position] = True
            self.missing -= 1
        return self.entries[position]

    def find(self, key: str) -> Entry | None:
        """A recorded entry, not marked as asked for."""
        position = self._position.get(key)
        return None if position is None else self.entries[position]

    def asked_before(self, key: str) -> bool:
        """Whether the replay asked for all entries before this one, or for all of them if this one is not recorded."""
        return all(self._asked[: self._position.get(key, self.replayable)])

    def has(self, key: str) -> bool:
        """Whether the step is recorded, by this execution or an earlier one."""
        return key in self._position

    def position(self, key: str) -> int:
        """Where in the journal a recorded entry stands, from 0."""
        return self._position[key]

    def add(self, entry: Entry) -> None:
        """Append a newly finished step.

        Raises:
            DuplicateEntry: the key is already there (J1).
        """
        if entry.key in self._position:
            raise DuplicateEntry(entry.key)
        self._position[entry.key] = len(self.entries)
        self.entries.append(entry)

    def unasked(self) -> list[Entry]:
        """Recorded entries that the replay never asked for, in order: divergence once the pipeline returned."""
        return [self.entries[i] for i in range(self.replayable) if not self._asked[i]]
