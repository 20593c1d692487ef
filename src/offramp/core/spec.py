"""Declared steps and pipelines, checked at declaration.

Pure: knows functions and their signatures, not how they are executed.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from offramp.core.call import Call, Effect, FirstToken, Lane, Policy, StepKind, Targets
from offramp.core.codec import Signature
from offramp.core.failover import TARGETS_MAX, in_failover, together
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
    targets: tuple[tuple[str, Callable[[], StepSpec]], ...] = ()
    """The steps of a failover by name, each as it is declared, or faked, when it is called."""

    def call(self, key: str, encoded: bytes, values: tuple[Any, ...] | None) -> Call:
        """A call of it.

        Args:
            key: in the journal.
            encoded: the arguments as a JSON object.
            values: the same as the caller has them; None where the caller is elsewhere.
        """
        if self.targets:
            return _Walk(self, key, encoded, values).call(0, is_last=False)
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


class _Walk(Targets):
    """The calls of a failover's steps, in its name; they refer to this, and this to none of them."""

    def __init__(self, failover: StepSpec, key: str, encoded: bytes, values: tuple[Any, ...] | None) -> None:
        self.names = tuple(name for name, _ in failover.targets)
        self._failover = failover
        self._given = key, encoded, values

    def call(self, place: int, *, is_last: bool) -> Call:
        """The call of the step at this place; whether it is the last that is left."""
        failover, (name, declared) = self._failover, self._failover.targets[place]
        made = declared().call(*self._given)
        policy = in_failover(made.policy, failover.policy, is_last=is_last)
        return msgspec.structs.replace(
            made, name=failover.name, policy=policy, codec=failover.signature, target=name, targets=self
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


def step_spec(  # noqa: PLR0913 - a declaration has many options, all by name
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
    hedge: bool = False,
    slow_after: float | None = None,
    uses: Collection[str] = (),
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
    first = _first_token(function, effect, what, hedge=hedge, slow_after=slow_after)
    lane = _lane(function, lane, what)
    policy = Policy(lane, bound_s, retry or Retry(attempts=1), effect, short, first, uses_of(uses))
    signature = Signature(function, what)
    label = require_label(label, signature.names, what)
    spec = StepSpec(chosen, kind, function, signature, is_async(function), policy, None, label)
    return spec if on_unknown is None else replace(spec, on_unknown=_decider(spec, on_unknown))


def uses_of(names: Collection[str]) -> tuple[str, ...]:
    """The resources that a step uses, in the one order in which every step of the app takes their permits."""
    return tuple(sorted(set(names)))


def _first_token(
    function: Callable[..., Any], effect: Effect, what: str, *, hedge: bool, slow_after: float | None
) -> FirstToken | None:
    _require_duration(slow_after, f"{what}: slow_after=")
    _require_choice(hedge, (True, False), f"{what}: hedge=")
    if hedge and effect == "once":
        raise DeclarationError(f"{what}: hedge=True may execute its code twice, which effect='once' excludes; drop one")
    if hedge and not is_async(function):
        raise DeclarationError(
            f"{what}: hedge=True takes an async function, because the slower of two executions is cancelled, which no "
            "thread can be; write it with 'async def', or drop hedge="
        )
    return FirstToken(slow_after=slow_after, hedge=hedge) if hedge or slow_after is not None else None


def failover_spec(
    function: Callable[..., Any],
    steps: Sequence[tuple[str, Callable[[], StepSpec]]],
    *,
    name: str | None,
    first_token: float | None,
) -> StepSpec:
    """Check a failover's declaration.

    Args:
        function: what calls the steps outside of runs, with the parameters of the first.
        steps: by name.
        name: of the failover; made of the names of the steps otherwise.
        first_token: seconds.

    Raises:
        DeclarationError: it cannot work; the message says what to change.
    """
    chosen = require_name("failover", "_or_".join(step for step, _ in steps) if name is None else name)
    what = f"failover {chosen!r}"
    if not 2 <= len(steps) <= TARGETS_MAX:
        raise DeclarationError(f"{what} takes 2 to {TARGETS_MAX} steps, in the order of preference, got {len(steps)}")
    _require_duration(first_token, f"{what}: first_token=")
    specs = [declared() for _, declared in steps]
    for spec in specs:
        if spec.targets:
            raise DeclarationError(f"{what}: {spec.name!r} is a failover itself; name its steps instead")
        if spec.policy.effect == "once":
            raise DeclarationError(
                f"{what}: step {spec.name!r} has effect='once': another step would do it again while it is unknown "
                "whether it happened"
            )
        difference = spec.signature.difference(specs[0].signature)
        if difference is not None:
            raise DeclarationError(
                f"{what}: step {spec.name!r} cannot stand in for {specs[0].name!r}: {difference}; give both the same "
                "parameters, in the same order, and the same annotations"
            )
    kinds = {spec.kind for spec in specs}
    policy = together([spec.policy for spec in specs], first_token)
    signature = Signature(specs[0].function, what)
    kind = kinds.pop() if len(kinds) == 1 else "step"
    return StepSpec(chosen, kind, function, signature, True, policy, None, None, tuple(steps))


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
