"""What is known of a request at the entry, gathered in the order in which it decides and no further; judged elsewhere.

`core.routing.decide` judges. User code is asked in threads and on run loops, under time limits (`execution/advice.py`).
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from msgspec.structs import replace

from offramp.core.advisers import features_of
from offramp.core.belief import rounded_down
from offramp.core.routing import Facts, RouteRequest, answer_of, asked
from offramp.core.run import Seen
from offramp.core.sla import SLA, budget_s
from offramp.core.spec import PipelineSpec
from offramp.paths.learning import Learning
from offramp.paths.process import Process
from offramp.paths.submission import Submission
from offramp.paths.verdicts import Verdicts

FEATURES_S_MAX = 0.01
"""Seconds that a request waits for its features where they decide nothing; then the run is taken without."""


class Entry:
    """The entry of a process."""

    def __init__(self, process: Process, learning: Learning, verdicts: Verdicts) -> None:
        self._budget_max = process.settings.max_budget
        self._classes = process.classes
        self._verdicts = verdicts
        self._advice = process.advice
        self._learning = learning
        self._late: dict[asyncio.Task[dict[str, float | str] | None], str] = {}
        """Calls that a request no longer waits for, with their pipelines."""

    async def facts(self, submission: Submission, spec: PipelineSpec, sla: SLA, arguments: dict[str, Any]) -> Facts:
        """What is known of a request with these arguments, but for the load.

        Raises:
            InputError: its budget is invalid.
        """
        budget = budget_s(sla, spec.budget, submission.budget, self._budget_max)
        own_budget = submission.budget is not None
        facts = Facts(sla.name, budget, respond_async=submission.respond_async, own_budget=own_budget)
        is_open, advice = asked(facts) is None, self._advice
        # A coroutine that has nothing to ask costs as well.
        is_advised = is_open and (advice.rules or advice.classifier is not None)
        found = await self._advised(facts, submission, arguments) if is_advised else {}
        is_described = submission.session_id is not None or submission.pipeline in advice.features
        seen = await self._seen(submission, sla, budget, arguments, decides=is_open) if is_described else None
        if is_open and not found:
            found = self._learned(submission, facts, seen)
        if seen is not None:
            found["seen"] = seen
        return replace(facts, **found) if found else facts

    async def _seen(
        self, submission: Submission, sla: SLA, budget_s: float, arguments: dict[str, Any], *, decides: bool
    ) -> Seen | None:
        """What is known of the run beside its input, where it is compared with others; None if nothing is."""
        if not sla.early_demotion or not (sla.budget or budget_s):
            return None
        pipeline, seen = submission.pipeline, None
        if submission.session_id is not None:
            seen = await self._learning.seen(submission.tenant, pipeline, submission.session_id)
        features = self.features if decides else self._features_soon
        own = await features(pipeline, arguments)
        return seen if own is None else replace(seen or Seen(), own=own)

    async def _features_soon(self, pipeline: str, arguments: dict[str, Any]) -> dict[str, float | str] | None:
        """The features if they are there at once: the client waits for an answer that does not depend on them.

        A late call goes on, as it would not be late for a request that needs it; the pipeline has one at a time.
        """
        if pipeline not in self._advice.features or pipeline in self._late.values():
            return None
        asked = asyncio.get_running_loop().create_task(self.features(pipeline, arguments))
        try:
            await asyncio.wait({asked}, timeout=FEATURES_S_MAX)
        finally:
            if not asked.done():
                self._late[asked] = pipeline
                asked.add_done_callback(self._late.pop)
        return asked.result() if asked.done() else None

    def judged(self, pipeline: str, facts: Facts, run_id: str, *, explores: bool) -> Facts:
        """The facts with the verdict on what was learned, where it decides.

        The verdict counts, so it is asked for once, when everything else is known; `withdraw` takes it back. One that
        does not explore counts nothing.
        """
        estimate = facts.estimate
        if estimate is None or facts.verdict is None:
            return facts
        verdict = self._verdicts.verdict(run_id, pipeline, facts.sla, estimate, explores=explores)
        return replace(facts, verdict=verdict)

    def withdraw(self, pipeline: str, facts: Facts, run_id: str) -> None:
        """The run of these facts was not started: its verdict does not count."""
        if facts.estimate is not None and facts.verdict is not None:
            self._verdicts.withdraw(run_id, pipeline, facts.sla, facts.estimate, facts.verdict)

    def _learned(self, submission: Submission, facts: Facts, seen: Seen | None) -> dict[str, Any]:
        """What earlier runs say: all of them, until one is known to have missed this budget; then those like this one.

        In the latter case `judged` asks for the verdict.
        """
        pipeline, sla, learning = submission.pipeline, facts.sla, self._learning
        if not (self._classes[sla].early_demotion and learning.doubts(pipeline, sla, facts.budget_s)):
            estimate = learning.expected(pipeline, sla, facts.budget_s)
            if submission.tenant:
                estimate = estimate._replace(runs=rounded_down(estimate.runs))
            return {"estimate": estimate} if estimate.runs else {}
        exact = not submission.tenant
        compared = learning.features_of(pipeline, submission.input, seen, submission.tenant)
        estimate = learning.estimate(pipeline, sla, compared, facts.budget_s, exact=exact)
        return {"estimate": estimate, "verdict": "stay"}

    def _known_runs(self, pipeline: str, facts: Facts) -> int:
        """Ended runs that what was learned rests on, if it may decide; 0 if not."""
        may_decide = self._classes[facts.sla].early_demotion > 0
        return self._learning.expected(pipeline, facts.sla, facts.budget_s).runs if may_decide else 0

    async def _advised(self, facts: Facts, submission: Submission, arguments: dict[str, Any]) -> dict[str, Any]:
        """The answer of one of the app's rules, or of its classifier."""
        advice = self._advice
        request = RouteRequest(
            submission.pipeline,
            arguments,
            submission.session_id,
            dict(submission.metadata),
            facts.sla,
            facts.budget_s,
            submission.tenant,
            self._known_runs(submission.pipeline, facts),
        )
        for rule in advice.rules:
            answer = await rule.ask(functools.partial(answer_of, source=rule.what), request)
            if answer is not None:
                return {"rule": answer}
        classifier = advice.classifier
        if classifier is None:
            return {}
        answer = await classifier.ask(
            functools.partial(answer_of, source=classifier.what, budget_s=facts.budget_s), request
        )
        return {} if answer is None else {"classifier": answer}

    async def features(self, pipeline: str, arguments: dict[str, Any]) -> dict[str, float | str] | None:
        """What the pipeline's own function makes of its arguments; None without one, or if it is passed over."""
        consultant = self._advice.features.get(pipeline)
        if consultant is None:
            return None
        return await consultant.ask(functools.partial(features_of, what=consultant.what), **arguments)
