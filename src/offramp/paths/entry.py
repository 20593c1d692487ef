"""What is known of a request at the entry, gathered in the order in which it decides and no further; judged elsewhere.

`core.routing.decide` judges. User code is asked in threads and on run loops, under time limits (`execution/advice.py`).
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from offramp.core.advisers import features_of
from offramp.core.routing import Facts, RouteRequest, answer_of, asked
from offramp.core.sla import SLA, budget_s
from offramp.core.spec import PipelineSpec
from offramp.paths.process import Process
from offramp.paths.submission import Submission


class Entry:
    """The entry of a process."""

    def __init__(self, process: Process) -> None:
        self._budget_max = process.settings.max_budget
        self._advice = process.advice

    async def facts(self, submission: Submission, spec: PipelineSpec, sla: SLA, arguments: dict[str, Any]) -> Facts:
        """What is known of a request with these arguments, but for the load.

        Raises:
            InputError: its budget is invalid.
        """
        budget = budget_s(sla, spec.budget, submission.budget, self._budget_max)
        own_budget = submission.budget is not None
        facts = Facts(sla.name, budget, respond_async=submission.respond_async, own_budget=own_budget)
        if asked(facts) is None:
            facts = await self._advised(facts, submission, arguments)
        return facts

    async def _advised(self, facts: Facts, submission: Submission, arguments: dict[str, Any]) -> Facts:
        """The facts with what the app's rules or its classifier answer."""
        advice = self._advice
        if not advice.rules and advice.classifier is None:
            return facts
        request = RouteRequest(
            submission.pipeline,
            arguments,
            submission.session_id,
            dict(submission.metadata),
            facts.sla,
            facts.budget_s,
            submission.tenant,
        )
        for rule in advice.rules:
            answer = await rule.ask(functools.partial(answer_of, source=rule.what), request)
            if answer is not None:
                return replace(facts, rule=answer)
        classifier = advice.classifier
        if classifier is None:
            return facts
        read = functools.partial(answer_of, source=classifier.what, budget_s=facts.budget_s)
        return replace(facts, classifier=await classifier.ask(read, request))

    async def features(self, pipeline: str, arguments: dict[str, Any]) -> dict[str, float | str] | None:
        """What the pipeline's own function makes of its arguments; None without one, or if it is passed over."""
        consultant = self._advice.features.get(pipeline)
        if consultant is None:
            return None
        return await consultant.ask(functools.partial(features_of, what=consultant.what), **arguments)
