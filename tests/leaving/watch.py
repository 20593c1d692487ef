"""What has to hold of one run, whatever happens to it: looked at when a step begins, at each write, and at the end."""

from __future__ import annotations

from dataclasses import dataclass

from offramp.core import events


class Violation(AssertionError):
    """Something happened that never may."""


@dataclass(eq=False)
class Executed:
    """One execution of a step's code."""

    name: str
    key: str
    member: object
    lease: object
    cleans_up: bool
    over: str = ""


class Watch:
    """Of one world. The first violation ends its example."""

    def __init__(self):
        self.faults = []
        self.holder = None
        """The lease that is in force."""
        self.seized = set()
        """Leases that were taken from a process that was called dead."""
        self.silent = set()
        """Those of them that ran out."""
        self.never = set()
        """Leases of runs that were refused."""
        self.given_back = set()
        """Leases under which a release or an outcome was asked for."""
        self.executed = []
        self.bodies = []
        self.types = []
        self.first = None
        """The lease that it was created under."""
        self.demoted_under = None
        self.is_cancelled = False
        """Whether a wish to cancel was accepted."""
        self.ends_as = set()
        """How the run may end, once that is settled."""

    def fail(self, text):
        self.faults.append(text)

    # Writes.

    def asked(self, member, name, lease):
        """A process asks for a write under a lease."""
        if lease is None or name in {"durable", "create", "retire"}:
            return
        if lease in self.given_back:
            self.fail(f"{member.name} asks for {name!r} under a lease that it has given back")
        if lease in member.reported:
            self.fail(f"{member.name} asks for {name!r} under a lease that it knows as lost")
        if name in {"release", "finish"}:
            self.given_back.add(lease)

    def not_made(self, operation):
        """The disk did not take it: it may be asked for again."""
        if operation.name == "release":
            self.given_back.discard(operation.lease)
        elif operation.name == "create":
            self.never.add(operation.lease)

    def committed(self, member, operation, value, error):
        """A write is in the store, or was refused."""
        name, lease = operation.name, operation.lease
        if error is not None:
            return
        if name == "create" and lease is not None and value.existing is None:
            self.holder = self.first = lease
        elif name == "claim":
            for claim in value:
                self.holder = claim.lease
        elif name == "claim_one" and value is not None:
            self.holder = value.lease
        elif name in {"release", "finish"}:
            if name == "release" and lease == self.demoted_under and "run.demoted" not in self.types:
                self.fail("a demoted run is given back, and its log does not say that it was demoted (D1)")
            if name == "release" and lease == self.first != self.demoted_under:
                self.fail("a run leaves the fast path, and the engine does not own it (D1)")
            self.holder = None
        elif name == "adopt":
            self.demoted_under = lease
        elif name == "retire":
            self.taken(lease, "death")
        elif name == "request_cancel" and not value.finished:
            self.is_cancelled = True

    def refused(self, lease):
        """A write came under a lease that is gone."""
        if lease not in self.seized | self.given_back | self.never:
            self.fail("a write was refused, but no process has taken its lease")

    def taken(self, owner, how):
        """What a process held is free."""
        if self.holder is not None and self.holder.owner == owner:
            self.seized.add(self.holder)
            if how == "silence":
                self.silent.add(self.holder)
            self.holder = None

    def visible(self, batches):
        """These events are in the log now."""
        for batch in batches:
            for frame in batch.frames:
                kind = events.type_of(frame)
                if kind == "run.demoted" and kind in self.types:
                    self.fail("run.demoted is in the log twice")
                if kind == "run.demoted" and self.demoted_under is None:
                    self.fail("run.demoted is in the log before the engine owns the run (D1)")
                if self.types and self.types[-1] in events.TERMINAL:
                    self.fail(f"{kind} follows the terminal event")
                self.types.append(kind)

    # Executions.

    def stands(self, executed):
        """Whether what a process executed counts: it lives, and its lease was never taken from it."""
        member = executed.member
        return not (member.is_dead or executed.lease in self.seized)

    def calls(self, member, lease):
        """A body is called."""
        if any(each == (member, lease) for each in self.bodies):
            self.fail(f"{member.name} calls the body twice under one lease")
        self.bodies.append((member, lease))

    def begins(self, executed, number, finished):
        """A step's code begins, where these steps are in the journal."""
        self.executed.append(executed)
        member, lease, name = executed.member, executed.lease, executed.name
        if number != 1:
            self.fail(f"{name} is at attempt {number}: an interruption is no attempt (D3)")
        if lease in member.reported:
            self.fail(f"{member.name} begins {name} though it knows that it has lost the run")
        if lease in self.given_back:
            self.fail(f"{member.name} begins {name} after it has given the run back")
        if lease == self.demoted_under:
            self.fail(f"{member.name} begins {name} though the run was demoted: it leaves at the next step (D2)")
        if lease in self.silent:
            self.fail(f"{member.name} begins {name} though its lease ran out (D2)")
        if lease in self.seized:
            return  # called dead while it lives: it may still be told
        if name in finished:
            self.fail(f"{name} is executed again, though it is in the journal (D2)")
        for before in self.executed[:-1]:
            if before.name == name and self.stands(before):
                how = {"": "still executes it", "ended": "has finished it", "stopped": "was stopped in it"}
                self.fail(f"{member.name} executes {name}, but {before.member.name} {how[before.over]} (D2)")
        if self.ends_as and not executed.cleans_up:
            self.fail(f"{name} begins, though the run is to end as one of {sorted(self.ends_as)}")

    # The end.

    def ended(self, record, entries, frames, result):
        """Everything has come to rest; `result` is that of an undisturbed run."""
        if not record.finished:
            self.fail(f"the run does not end: it is {record.status}")
            return
        if record.status == "completed" and record.result != result:
            self.fail(f"the run completed with {record.result!r}, not {result!r}")
        if record.status not in (self.ends_as or {"completed"} | self.may_end_as(record)):
            self.fail(f"the run is {record.status}: {record.error}")
        keys = [entry.key for entry in entries]
        if len(set(keys)) < len(keys):
            self.fail("an entry is in the journal twice (J1)")
        if [frame.seq for frame in frames] != list(range(1, len(frames) + 1)):
            self.fail("the log has a gap (E1)")
        if [frame.seq for frame in frames if frame.terminal] != [len(frames)]:
            self.fail("the log does not end with its one terminal event (E1)")
        done = [each for each in self.executed if each.over == "ended" and self.stands(each)]
        for executed in done if record.status == "completed" else ():
            if executed.key not in keys:
                self.fail(f"the entry of {executed.name} is lost")

    def may_end_as(self, record):
        """Where its end was asked for, but somebody may have been quicker."""
        faults = set()
        if self.is_cancelled:
            faults.add("cancelled")
        if record.deadline_at is not None and record.finished_at >= record.deadline_at:
            faults.add("expired")
        return faults
