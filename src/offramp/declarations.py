"""What a user declares: SLA classes, resources, steps and pipelines.

Holds declarations only: `wiring.py` reads them to put a process together, and `App` adds what starts one.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from offramp.core.advisers import CLASSIFIER_TIMEOUT_DEFAULT_S, Adviser, of_requests, require_timeout
from offramp.core.call import Effect, StepKind
from offramp.core.limits.spec import RESERVE_DEFAULT, RESOURCES_MAX, SHARE_DEFAULT, Breaker, resource_spec
from offramp.core.names import require_name
from offramp.core.retry import Retry
from offramp.core.routing import RouteRequest
from offramp.core.sla import DEFAULT_CLASS, SLA
from offramp.core.spec import (
    LaneChoice,
    OnDisconnect,
    failover_spec,
    pipeline_spec,
    step_spec,
)
from offramp.declared import Pipeline, Step
from offramp.errors import DeclarationError
from offramp.execution.failover import in_turn
from offramp.execution.warming import StartHook, start_hook
from offramp.resources.resource import Resource, names_of
from offramp.resources.service import Service

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[[], object])
Ruling = Literal["fast", "deep"] | tuple[Literal["fast", "deep"], str] | None
"""What a rule answers: a path, a path and a reason, or None to leave the decision to others."""
Rule = TypeVar("Rule", bound=Callable[[RouteRequest], Ruling | Awaitable[Ruling]])
Classifier = Callable[[RouteRequest], Ruling | float | Awaitable[Ruling | float]]


class Declarations:
    """The SLA classes, resources, steps and pipelines of one app.

    Args:
        name: what the service is called.
        classes: its SLA classes; a class `default` (budget 6 s) exists unless one of that name is given.
        classifier: decides where a request goes that no rule decides, as a rule does or by the seconds that it expects:
            above the budget, the run goes deep. Plain or async.
        classifier_timeout: seconds for one call of it, at most 10.

    Raises:
        DeclarationError: the name or a class is not usable; raised by `step` and `pipeline` too.
    """

    def __init__(
        self,
        name: str,
        *,
        classes: Iterable[SLA] = (),
        classifier: Classifier | None = None,
        classifier_timeout: float = CLASSIFIER_TIMEOUT_DEFAULT_S,
    ) -> None:
        self.name = require_name("app", name)
        self.classes: dict[str, SLA] = {}
        self.resources: dict[str, Resource] = {}
        self.service = Service(self.classes)
        """The limits that code outside of runs keeps to."""
        self.steps: dict[str, Step[..., Any]] = {}
        self.pipelines: dict[str, Pipeline[..., Any]] = {}
        for sla in classes:
            if not isinstance(sla, SLA):
                raise DeclarationError(f"App({name!r}, classes=) takes SLA objects, got {sla!r}")
            if sla.name in self.classes:
                raise DeclarationError(f"App({name!r}): SLA class {sla.name!r} is declared twice")
            self.classes[sla.name] = sla
        self.rules: list[Adviser] = []
        self.classifier = None if classifier is None else of_requests(classifier, "classifier")
        self.classifier_timeout = require_timeout(classifier_timeout)
        self.start_hooks: list[StartHook] = []
        self.classes.setdefault(DEFAULT_CLASS.name, DEFAULT_CLASS)

    @overload
    def step(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def step(self, fn: Callable[P, R], /) -> Step[P, R]: ...
    @overload
    def step(
        self,
        *,
        name: str | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        lane: LaneChoice = "auto",
        effect: Effect = "repeatable",
        on_unknown: Callable[..., Any] | None = None,
        short: bool = False,
        kind: StepKind = "step",
        label: str | None = None,
        uses: Resource | Iterable[Resource] | None = None,
        hedge: bool = False,
        slow_after: float | None = None,
    ) -> _StepDecorator: ...
    def step(  # noqa: PLR0913 - a declaration has many options, all by name
        self,
        fn: Any = None,
        *,
        name: str | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        lane: LaneChoice = "auto",
        effect: Effect = "repeatable",
        on_unknown: Callable[..., Any] | None = None,
        short: bool = False,
        kind: StepKind = "step",
        label: str | None = None,
        uses: Resource | Iterable[Resource] | None = None,
        hedge: bool = False,
        slow_after: float | None = None,
    ) -> Any:
        """Declare a step: one journaled unit of work.

        Args:
            fn: a plain function (runs in a thread) or an async one (runs on the run loop), parameters annotated.
            name: its name in journal, events and metrics; the function's own otherwise.
            timeout: seconds for one attempt; None for no limit.
            retry: when to try again; None for one attempt.
            lane: `auto`, `loop`, `thread` or `process` (for CPU-bound functions at module level).
            effect: `once` for a step that must not be repeated when it is unknown whether it happened.
            on_unknown: for `effect="once"`: a function of the same parameters that finds out the outcome of an
                interrupted step and returns its result; without one, the run fails with code `effect-unknown`.
            short: it ends within 5 s (its timeout, unless that is lower). On Temporal it is then a local activity:
                executed where the body is, without a round trip through the server, unless it has to wait for a permit
                (`uses`): then it becomes an ordinary activity, which may.
            kind: what it is in traces: `step`, `tool`, `agent` or `llm`; changes nothing else.
            label: a format of its arguments, such as `"{source} {query}"`, that tells its calls apart in events,
                documents and traces; cut at 80 characters.
            uses: a resource of the app, or several: an attempt waits for a permit of each before it begins, and the
                first request that it makes of the resource takes that permit over. Permits of several are taken in one
                order, whatever the order here.
            hedge: whether an async step whose first token (its first emit, or the first byte of an answer) is later
                than 99% of its earlier ones is executed a second time beside the first; the first of both to have one
                wins, and the other is cancelled. At most 5% of calls.
            slow_after: seconds; an attempt whose first token is later, or its end if it has none, counts as slow for
                the breakers of the resources that it uses, and is marked in the trace.

        Raises:
            DeclarationError: the declaration cannot work.
        """
        used = names_of(uses, self.resources, self.name)

        def declare(function: Callable[..., Any]) -> Step[..., Any]:
            spec = step_spec(
                function,
                name=name,
                timeout=timeout,
                retry=retry,
                lane=lane,
                effect=effect,
                on_unknown=on_unknown,
                short=short,
                kind=kind,
                label=label,
                hedge=hedge,
                slow_after=slow_after,
                uses=used,
            )
            return self._declared(Step(function, spec))

        return declare if fn is None else declare(fn)

    def _declared(self, step: Step[P, R]) -> Step[P, R]:
        name = step.spec.name
        if name in self.steps:
            raise DeclarationError(
                f"step {name!r} is declared twice in app {self.name!r}: journal keys need distinct names, give one of "
                "them name="
            )
        self.steps[name] = step
        return step

    def failover(
        self, first: Step[P, R], /, *others: Step[P, R], first_token: float | None = None, name: str | None = None
    ) -> Step[P, R]:
        """Declare a failover: a step that calls the first of several steps, and another where that one fails.

        It is called like its first step, and is one step in the journal. Each of its attempts calls one of the steps,
        with that step's `timeout`, `lane`, `uses`, `hedge` and `slow_after`, but without its `retry`. The next one is
        called after an error, a timeout or a late first token, also in mid-stream: `step.retrying` voids what was
        emitted. It is called at once, without an attempt of the one before, where the breaker of that one's resource is
        open, or its permit is expected later than the run's budget allows. Each step is called once, unless it is named
        several times; the error of the last is the failover's.

        Args:
            first: the preferred step.
            others: in the order in which they stand in for it; the same parameters and result. At most 10 in all.
            first_token: seconds from the beginning of an attempt. One that has emitted nothing by then, and received no
                byte of an answer, is cancelled; but not of the last step. None for no limit.
            name: its name in journal, events and metrics; `<first>_or_<second>` otherwise.

        Raises:
            DeclarationError: the declaration cannot work.
        """
        steps = (first, *others)
        for step in steps:
            if not isinstance(step, Step) or self.steps.get(step.spec.name) is not step:
                raise DeclarationError(f"failover() takes steps of app {self.name!r}, got {step!r}")
        plain = in_turn(first.fn, steps)
        named = [(step.spec.name, functools.partial(getattr, step, "spec")) for step in steps]
        return self._declared(Step(plain, failover_spec(plain, named, name=name, first_token=first_token)))

    def resource(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        rate: str | Sequence[str] | None = None,
        tokens: str | Sequence[str] | None = None,
        share: float = SHARE_DEFAULT,
        reserve: float = RESERVE_DEFAULT,
        breaker: Breaker | None = None,
    ) -> Resource:
        """Declare a resource: what calls share, such as the limits of a model provider's key.

        Its limits hold for all processes of the service together. What waits is called in order: the highest class
        first, fair between tenants, the oldest run first.

        Args:
            name: what events, metrics and documents call it.
            concurrency: calls at once; None for no limit.
            rate: calls in a window of time, such as `"500/min"` or `"60/10s"`; several, such as `("500/min", "10/s")`,
                hold at the same time. Windows slide: no span of that length has more.
            tokens: tokens in a window, such as `"200k/min"`, input and output together.
            share: the part of the calls, from 0 to below 1, that goes to a lower class while its oldest waiter has
                waited longer than the `patience` of its class. Calls that it had in its turn count, for 10 s at most.
            reserve: the part of every limit, from 0 to below 1, that lower classes leave free once a higher one has
                used the resource; at least one call at a time is left to them. Of a window of 20 s or longer they take
                a quarter of their part at once, and the rest at an even pace.
            breaker: when calls stop for a while, because most of them fail or are slow; None for never.

        Raises:
            DeclarationError: a value is out of range or has another form, there is neither a limit nor a breaker,
                the name is taken, or there are 1,000 already.
        """
        spec = resource_spec(
            name, concurrency=concurrency, rate=rate, tokens=tokens, share=share, reserve=reserve, breaker=breaker
        )
        if spec.concurrency is None and breaker is None and not (spec.rates or spec.tokens):
            raise DeclarationError(
                f"resource {spec.name!r} limits nothing: give it concurrency=, rate=, tokens= or breaker=, such as "
                "rate='500/min'"
            )
        if len(self.resources) >= RESOURCES_MAX:
            raise DeclarationError(
                f"resource {spec.name!r} is one more than the {RESOURCES_MAX:,} that an app may have: declare one for "
                "all that share a limit"
            )
        if spec.name in self.resources:
            raise DeclarationError(f"resource {spec.name!r} is declared twice in app {self.name!r}: use the first one")
        made = self.resources[spec.name] = Resource(spec, self.service)
        return made

    @overload
    def pipeline(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Pipeline[P, R]: ...
    @overload
    def pipeline(
        self,
        *,
        name: str | None = None,
        sla: str = "default",
        budget: float | None = None,
        deadline: float | None = None,
        retention: float | None = None,
        on_disconnect: OnDisconnect = "continue",
        demotion_message: str | None = None,
        version: str = "1",
    ) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Pipeline[P, R]]: ...
    def pipeline(
        self,
        fn: Any = None,
        *,
        name: str | None = None,
        sla: str = "default",
        budget: float | None = None,
        deadline: float | None = None,
        retention: float | None = None,
        on_disconnect: OnDisconnect = "continue",
        demotion_message: str | None = None,
        version: str = "1",
    ) -> Any:
        """Declare a pipeline: the async function that is served.

        Its body is replayed against the journal, so it must have no effects and no randomness outside steps.

        Args:
            fn: an async function, parameters annotated.
            name: its name in URLs and telemetry; the function's own otherwise.
            sla: its SLA class, unless a request names another.
            budget: seconds on the fast path; the class's otherwise. 0 sends every run deep at once.
            deadline: seconds from acceptance after which a run ends `expired`; None for no deadline.
            retention: seconds that result and events are kept after the end; a day otherwise.
            on_disconnect: what happens to a fast run whose client goes away.
            demotion_message: what a person reads in `run.demoted`.
            version: recorded with each run; a run whose journal does not fit other code says both versions.

        Raises:
            DeclarationError: the declaration cannot work.
        """

        def declare(function: Callable[..., Any]) -> Pipeline[..., Any]:
            spec = pipeline_spec(
                function,
                name=name,
                sla=sla,
                classes=set(self.classes),
                budget=budget,
                deadline=deadline,
                retention=retention,
                on_disconnect=on_disconnect,
                demotion_message=demotion_message,
                version=version,
            )
            if spec.name in self.pipelines:
                raise DeclarationError(f"pipeline {spec.name!r} is declared twice in app {self.name!r}")
            pipeline: Pipeline[..., Any] = Pipeline(function, spec)
            self.pipelines[spec.name] = pipeline
            return pipeline

        return declare if fn is None else declare(fn)

    @overload
    def rule(self, fn: Rule, /) -> Rule: ...
    @overload
    def rule(self) -> Callable[[Rule], Rule]: ...
    def rule(self, fn: Any = None) -> Any:
        """Declare a rule: a function that decides which path a request takes.

        Rules are asked in order of declaration, after the client's preference and a class without a budget, and before
        the classifier; the first that answers decides. A run goes fast only where the fast path has room. A rule has
        1 s; one that raises, is late or answers something else is passed over.

        Args:
            fn: a plain or async function of a `RouteRequest` that returns `"fast"`, `"deep"`, one of these with a
                reason, or None to leave the decision to others.

        Raises:
            DeclarationError: it cannot be called with a request.
        """

        def declare(function: Rule) -> Rule:
            self.rules.append(of_requests(function, "rule"))
            return function

        return declare if fn is None else declare(fn)

    @overload
    def on_start(self, fn: F, /) -> F: ...
    @overload
    def on_start(self) -> Callable[[F], F]: ...
    def on_start(self, fn: Any = None) -> Any:
        """Call a function in each process that executes steps, before that process is ready.

        For what the first run should not wait for: connections, model files, imports. Hooks are called one after the
        other, in order of declaration; a plain function on a thread, an async one on the loop that executes runs. The
        children of process lanes call them too, each for itself, in their main thread. If one raises, or the start
        takes longer than `start_timeout`, the process does not start.

        Args:
            fn: a function without arguments, plain or async; what it returns is ignored.

        Raises:
            DeclarationError: it is no function, or needs arguments.
        """

        def declare(function: F) -> F:
            self.start_hooks.append(start_hook(function))
            return function

        return declare if fn is None else declare(fn)


class _StepDecorator(Protocol):
    """The type of `@app.step(...)`: takes async and plain functions alike."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Step[P, R]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Any: ...
