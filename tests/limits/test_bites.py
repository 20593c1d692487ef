"""The suite of limits bites: with a planted bug, a case of its obligation fails."""

from __future__ import annotations

import msgspec
import pytest

from offramp.conformance import limits_cases, run_limits
from offramp.limits.local import LocalLimits
from offramp.ports.limits import Done, Granted
from tests.limits.sites import Alone

PATIENCE_S = 0.6


class GrantedTwice(LocalLimits):
    """R1"""

    def ask(self, ask, notify):
        super().ask(ask, lambda answer: (notify(answer), isinstance(answer, Granted) and notify(answer)))


class Silent(LocalLimits):
    """R1"""

    def ask(self, ask, notify):
        super().ask(ask, lambda answer: isinstance(answer, Granted) and notify(answer))


class AtOnce(LocalLimits):
    """R2"""

    def ask(self, ask, notify):
        super().ask(ask, lambda _answer: None)
        notify(Granted())


class UnusedCounts(LocalLimits):
    """R2"""

    def withdraw(self, permit_id):
        self.written(permit_id)
        super().withdraw(permit_id)


class Unsettled(LocalLimits):
    """R2"""

    def done(self, permit_id, done):
        super().done(permit_id, msgspec.structs.replace(done, tokens=None))


class KeptAfterFailure(LocalLimits):
    """R3"""

    def done(self, permit_id, done):
        if done.how != "failed":
            super().done(permit_id, done)


class Sticky(LocalLimits):
    """R3"""

    def withdraw(self, permit_id):
        """Keeps it."""


class Classless(LocalLimits):
    """R5"""

    def ask(self, ask, notify):
        super().ask(msgspec.structs.replace(ask, priority=0, sla="default"), notify)


class Unlifted(LocalLimits):
    """R5"""

    def lift(self, run_id, sla, priority):
        """Forgets it."""


class Tenantless(LocalLimits):
    """R5"""

    def ask(self, ask, notify):
        super().ask(msgspec.structs.replace(ask, tenant=""), notify)


class Stuck(LocalLimits):
    """R6"""

    def ask(self, ask, notify):
        super().ask(msgspec.structs.replace(ask, within=()), notify)


class Deaf(LocalLimits):
    """R7: what it is asked in an answer is lost."""

    _depth = 0

    def ask(self, ask, notify):
        def answered(answer):
            self._depth += 1
            try:
                notify(answer)
            finally:
                self._depth -= 1

        super().ask(ask, answered)

    def done(self, permit_id, done=Done()):  # noqa: B008 - frozen
        if not self._depth:
            super().done(permit_id, done)


BUGS = [
    GrantedTwice, Silent, AtOnce, UnusedCounts, Unsettled, KeptAfterFailure, Sticky, Classless, Unlifted, Tenantless,
    Stuck, Deaf,
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
async def test_a_planted_bug_is_found(bug):
    harness = Alone(bug)
    for case in limits_cases():
        if bug.__doc__[:2] in case.obligations and (await run_limits(harness, PATIENCE_S, [case])).failures:
            return
    pytest.fail("every case of its obligation passed")


def test_every_obligation_that_one_process_can_break_has_a_bug():
    cited = {cited for case in limits_cases() if case.applies(frozenset()) for cited in case.obligations}
    assert {bug.__doc__[:2] for bug in BUGS} == cited - {"R4"}
