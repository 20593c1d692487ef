"""Declared steps and pipelines, checked at declaration.

Pure: knows functions and their signatures, not how they are executed.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from offramp.core.call import Call, Effect, Lane, Policy, StepKind
from offramp.core.codec import Signature
from offramp.core.labels import label_of, require_label
from offramp.core.names import require_name
from offramp.core.retry import Retry
from offramp.errors import DeclarationError

LaneChoice = Literal["auto", "loop", "thread", "process"]
OnDisconnect = Literal["continue", "demote", "cancel"]

RETENTION_DEFAULT_S = 86_400.0
SHORT_TIMEOUT_S = 5.0
"""The longest that a step with `short=True` may take, and its timeout unless it names a lower one."""
DEMOTION_MESSAGE = "This takes longer than usual. It goes on in the background and nothing is lost; follow the links."
DEMOTION_MESSAGE_LENGTH_MAX = 500


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A declared step, validated."""

    name: str
    kind: StepKind
    function: Callable[..., Any]
    signature: Signature
    is_async: bool
    policy: Policy
    on_unknown: StepSpec | None
    """Decides the result of an interrupted `effect="once"` step, from its arguments."""
    label: str | None = None
    """A format of its arguments."""

    def call(self, key: str, encoded: bytes, values: tuple[Any, ...] | None) -> Call:
        """A call of it.

        Args:
            key: in the journal.
            encoded: the arguments as a JSON object.
            values: the same as the caller has them; None where the caller is elsewhere.
        """
        signature, decider = self.signature, self.on_unknown
        return Call(
            self.name,
            key,
            self.kind,
            self.policy,
            self.function,
            self.is_async,
            functools.partial(_code, self, encoded, values),
            signature,
            encoded,
            None if decider is None else functools.partial(decider.call, key, encoded, values),
            None if self.label is None else functools.partial(_label, self, self.label, encoded, values),
        )


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """A declared pipeline, validated; durations in seconds, None where the class or a default decides."""

    name: str
    function: Callable[..., Any]
    signature: Signature
    sla: str
    budget: float | None
    deadline: float | None
    retention: float
    on_disconnect: OnDisconnect
    demotion_message: str
    version: str
    doc: str


def step_spec(
    function: Callable[..., Any],
    *,
    name: str | None,
    timeout: float | None,
    retry: Retry | None,
    lane: LaneChoice,
    effect: Effect,
    on_unknown: Callable[..., Any] | None = None,
    short: bool = False,
    kind: StepKind = "step",
    label: str | None = None,
) -> StepSpec:
    """Check a step's declaration.

    Raises:
        DeclarationError: it cannot work; the message says what to change.
    """
    chosen = _name("step", name, function)
    what = f"step {chosen!r}"
    _require_function(function, what)
    _require_duration(timeout, f"{what}: timeout=")
    if retry is not None and not isinstance(retry, Retry):
        raise DeclarationError(f"{what}: retry= takes a Retry, for example Retry(attempts=3), got {retry!r}")
    _require_choice(lane, ("auto", "loop", "thread", "process"), f"{what}: lane=")
    _require_choice(effect, ("repeatable", "once"), f"{what}: effect=")
    _require_choice(kind, ("step", "tool", "agent", "llm"), f"{what}: kind=")
    if effect == "once" and retry is not None and retry.attempts > 1:
        raise DeclarationError(f"{what}: effect='once' and retry= exclude each other; drop one of them")
    if short and timeout is not None and timeout > SHORT_TIMEOUT_S:
        raise DeclarationError(
            f"{what}: short=True is for steps of at most {SHORT_TIMEOUT_S:g} s, and timeout= allows {timeout:g}; "
            "lower it, or drop short="
        )
    bound_s = SHORT_TIMEOUT_S if short and timeout is None else timeout
    policy = Policy(_lane(function, lane, what), bound_s, retry or Retry(attempts=1), effect, short)
    signature = Signature(function, what)
    label = require_label(label, signature.names, what)
    spec = StepSpec(chosen, kind, function, signature, is_async(function), policy, None, label)
    return spec if on_unknown is None else replace(spec, on_unknown=_decider(spec, on_unknown))


def _decider(step: StepSpec, function: Callable[..., Any]) -> StepSpec:
    what = f"step {step.name!r}: on_unknown="
    if step.policy.effect != "once":
        raise DeclarationError(f"{what} is for steps with effect='once'")
    decider = step_spec(
        function,
        name=step.name,
        timeout=step.policy.timeout,
        retry=None,
        lane="auto",
        effect="repeatable",
        kind=step.kind,
        label=step.label,
    )
    if decider.signature.names != step.signature.names:
        raise DeclarationError(
            f"{what} takes the step's own parameters {step.signature.names}, got {decider.signature.names}"
        )
    return decider


def pipeline_spec(
    function: Callable[..., Any],
    *,
    name: str | None,
    sla: str,
    classes: set[str],
    budget: float | None,
    deadline: float | None,
    retention: float | None,
    on_disconnect: OnDisconnect,
    demotion_message: str | None,
    version: str,
) -> PipelineSpec:
    """Check a pipeline's declaration.

    Raises:
        DeclarationError: it cannot work; the message says what to change.
    """
    chosen = _name("pipeline", name, function)
    what = f"pipeline {chosen!r}"
    _require_function(function, what)
    if not is_async(function):
        raise DeclarationError(f"{what}: declare it with 'async def'; steps are awaited in it")
    _require_choice(sla, sorted(classes), f"{what}: sla=")
    if budget is not None and not (isinstance(budget, (int, float)) and math.isfinite(budget) and budget >= 0):
        raise DeclarationError(f"{what}: budget= is in seconds, 0 or more, got {budget!r}")
    _require_duration(deadline, f"{what}: deadline=")
    _require_duration(retention, f"{what}: retention=")
    _require_choice(on_disconnect, ("continue", "demote", "cancel"), f"{what}: on_disconnect=")
    if demotion_message is not None and not (
        isinstance(demotion_message, str) and len(demotion_message) <= DEMOTION_MESSAGE_LENGTH_MAX
    ):
        raise DeclarationError(f"{what}: demotion_message= is text of at most {DEMOTION_MESSAGE_LENGTH_MAX} characters")
    if not isinstance(version, str) or not 1 <= len(version) <= 100:
        raise DeclarationError(f"{what}: version= is a string of 1 to 100 characters, got {version!r}")
    return PipelineSpec(
        chosen,
        function,
        Signature(function, what),
        sla,
        budget,
        deadline,
        RETENTION_DEFAULT_S if retention is None else retention,
        on_disconnect,
        demotion_message or DEMOTION_MESSAGE,
        version,
        inspect.getdoc(function) or "",
    )


def _code(spec: StepSpec, encoded: bytes, values: tuple[Any, ...] | None) -> Callable[[], Any]:
    return functools.partial(spec.signature.call, spec.function, spec.signature.copies(values, encoded))


def _label(spec: StepSpec, label: str, encoded: bytes, values: tuple[Any, ...] | None) -> str | None:
    names = spec.signature.names
    if values is not None:
        return label_of(label, names, values)
    try:
        return label_of(label, names, spec.signature.decode_call(encoded))
    except BaseException:  # noqa: BLE001 - a validator of the user's may raise anything; the attempt says so
        return None


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call is awaited: of an `async def`, also behind decorators that use `functools.wraps`, or a partial."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(_innermost(function))


def as_awaitable(made: Any) -> Awaitable[Any]:
    """What the call of an async function gave, to be awaited: a decorator of a user's may have awaited it already."""
    return made if inspect.isawaitable(made) else _itself(made)


async def _itself(made: Any) -> Any:
    return made


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial) or hasattr(function, "__wrapped__"):
        function = function.func if isinstance(function, functools.partial) else function.__wrapped__
    return function


def _name(kind: str, name: str | None, function: Any) -> str:
    if name is None and isinstance(function, functools.partial):
        raise DeclarationError(f"{kind}: a functools.partial has no name of its own; give it one, name='…'")
    return require_name(kind, name if name is not None else getattr(function, "__name__", None))


def _require_function(function: object, what: str) -> None:
    if isinstance(function, functools.partial):
        function = _innermost(function)
    if not inspect.isroutine(function):
        raise DeclarationError(
            f"{what}: decorate a function, got {type(function).__name__}; for an object that can be called, write a "
            "function that calls it (a functools.partial of a function works, with name=)"
        )
    function = _innermost(function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError(f"{what}: generators cannot be journaled; return the whole value and emit() its parts")


def _require_duration(value: float | None, what: str) -> None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    if value is not None and not fits:
        raise DeclarationError(f"{what} is in seconds, above 0, got {value!r}")


def _require_choice(value: object, choices: object, what: str) -> None:
    if value not in choices:  # type: ignore[operator]
        raise DeclarationError(f"{what} is one of {', '.join(map(repr, choices))}, got {value!r}")  # type: ignore[call-overload]


def _lane(function: Callable[..., Any], lane: LaneChoice, what: str) -> Lane:
    awaits = is_async(function)
    if lane == "auto":
        return "loop" if awaits else "thread"
    if awaits and lane != "loop":
        raise DeclarationError(f"{what}: lane={lane!r} takes a plain function; drop 'async' or the lane")
    if lane == "process" and not hasattr(function, "__qualname__"):
        raise DeclarationError(
            f"{what}: lane='process' needs a function that a process can import, and a functools.partial has no place "
            "at module level: write a function that calls it"
        )
    if lane == "process" and ("<locals>" in function.__qualname__ or "<lambda>" in function.__qualname__):
        raise DeclarationError(
            f"{what}: lane='process' needs a function at module level, so that a process can import it"
        )
    return lane
