"""`offramp doctor` on the App: budgets against timeouts, steps that cannot be repeated, missing declarations.

It reads the steps of a pipeline from the names in its code, which is enough for advice. It executes nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import CodeType
from typing import TYPE_CHECKING, Any

from offramp.cli.findings import Finding
from offramp.cli.output import counted
from offramp.core.retry import Retry
from offramp.core.spec import PipelineSpec, StepSpec

if TYPE_CHECKING:
    from offramp.app import App
    from offramp.settings import Settings


def check_app(app: App, settings: Settings) -> Iterator[Finding]:
    """All findings on the App's declarations."""
    if not app.pipelines:
        yield Finding("broken", "app", f"App {app.name!r} has no pipeline", "declare one with @app.pipeline")
    lanes = [step.spec.policy.lane for step in app.steps.values()]
    shown = ", ".join(f"{lanes.count(lane)} {lane}" for lane in ("loop", "thread", "process") if lane in lanes)
    pipelines, steps = counted(len(app.pipelines), "pipeline"), counted(len(lanes), "step")
    yield Finding("ok", "app", f"{app.name}: {pipelines}, {steps} ({shown or 'none'})")
    yield from _check_classes(app, settings)
    for pipeline in app.pipelines.values():
        yield from _check_pipeline(app, pipeline.spec, settings)
    for step in app.steps.values():
        if not step.spec.targets:  # a failover is as its steps are
            yield from _check_step(step.spec)
    policies = {step.spec.name: step.spec.policy for step in app.steps.values()}
    timed = [name for name, policy in policies.items() if policy.lane == "thread" and policy.timeout]
    if timed:
        yield Finding(
            "note",
            "threads",
            f"a timeout cannot stop a thread, which keeps running after its step: {', '.join(timed)}",
            "set a timeout on the client that such a step calls, too",
        )


def budget_of(app: App, spec: PipelineSpec) -> float:
    """The seconds a run of this pipeline may stay on the fast path."""
    return app.classes[spec.sla].budget if spec.budget is None else spec.budget


def steps_used(app: App, spec: PipelineSpec) -> list[StepSpec]:
    """The App's steps that a pipeline's code names, directly, or through a pipeline or a failover that it calls."""
    by_identity = {id(step): step.spec for step in app.steps.values()}
    inner = {id(pipeline): pipeline.spec for pipeline in app.pipelines.values()}
    used: dict[str, StepSpec] = {}
    seen = {spec.name}
    waiting: list[Any] = [spec.function]
    while waiting:
        function = inspect.unwrap(waiting.pop())
        names = _names(function.__code__) if hasattr(function, "__code__") else set()
        spaces = [getattr(function, "__globals__", {}), *_closure(function)]
        for value in (space[name] for space in spaces for name in sorted(names) if name in space):
            if id(value) in by_identity:
                step = by_identity[id(value)]
                used |= {each.name: each for each in (target() for _, target in step.targets)} or {step.name: step}
            elif id(value) in inner and inner[id(value)].name not in seen:
                seen.add(inner[id(value)].name)
                waiting.append(inner[id(value)].function)
    return list(used.values())


def _names(code: CodeType) -> set[str]:
    names = set(code.co_names) | set(code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names


def _closure(function: Any) -> list[dict[str, Any]]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    return [{name: cell.cell_contents} for name, cell in cells if _filled(cell)]


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises while the name is not bound
    except ValueError:
        return False
    return True


def _check_classes(app: App, settings: Settings) -> Iterator[Finding]:
    for sla in app.classes.values():
        about = f"class {sla.name}"
        if sla.budget > settings.max_budget:
            yield Finding(
                "risk",
                about,
                f"budget {sla.budget:g} s is cut to {settings.max_budget:g} s",
                f"raise OFFRAMP_MAX_BUDGET, or declare budget={settings.max_budget:g}",
            )
        if sla.p95 is not None and 0 < sla.budget < sla.p95:
            yield Finding(
                "note",
                about,
                f"aims at p95 {sla.p95:g} s, and runs are demoted after {sla.budget:g} s: demoted ones count too",
                "nothing if intended; else raise its budget above its p95",
            )


def _check_pipeline(app: App, spec: PipelineSpec, settings: Settings) -> Iterator[Finding]:
    about = f"pipeline {spec.name}"
    budget = min(budget_of(app, spec), settings.max_budget)
    steps = steps_used(app, spec)
    is_async = sum(step.is_async for step in steps)
    path = f"budget {budget:g} s" if budget else "always on the deep path"
    yield Finding("ok", about, f"{path}; {is_async} async and {len(steps) - is_async} sync steps")
    if not steps:
        yield Finding(
            "risk",
            about,
            "names no step: nothing is journaled, so a run that moves starts again from the beginning",
            "put each call that costs time or money into a step",
        )
    if spec.deadline is not None and spec.deadline <= budget:
        yield Finding(
            "note",
            about,
            f"its deadline of {spec.deadline:g} s comes before its budget ends: it is never demoted",
            "raise deadline= if a late result is still worth having",
        )
    timeouts = [(step.name, step.policy.timeout or 0.0) for step in steps]
    slow = [f"{name} {timeout:g} s" for name, timeout in timeouts if budget and timeout > budget]
    if slow:
        yield Finding(
            "note",
            about,
            f"timeouts above its budget of {budget:g} s: {', '.join(slow)}; a slow step is demoted",
            "nothing if intended; else lower timeout= or raise budget=",
        )


def _check_step(spec: StepSpec) -> Iterator[Finding]:
    about, policy = f"step {spec.name}", spec.policy
    if policy.timeout is None and policy.lane != "process":
        yield Finding("risk", about, "has no timeout: a call that hangs blocks its run forever", "give it timeout=")
    if policy.effect == "once":
        yield Finding(
            "note",
            about,
            "effect='once': if the process dies during it, the step is not repeated and the run fails",
            "pass current_run().idempotency_key to the service it calls; then it may be repeatable",
        )
    elif policy.retry.attempts > 1:
        yield Finding("ok", about, f"up to {policy.retry.attempts} attempts{_longest(policy.retry, policy.timeout)}")


def _longest(retry: Retry, timeout: float | None) -> str:
    if timeout is None:
        return ""
    waits = sum(min(retry.cap, retry.base * retry.factor ** (n - 1)) for n in range(1, retry.attempts))
    return f", at most {retry.attempts * timeout + waits:g} s in all"
