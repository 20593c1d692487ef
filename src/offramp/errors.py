"""Every error that Offramp raises on purpose: its code, who has to act, and what to change.

Owns only the hierarchy; the gateway turns `status` and `code` into a problem document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

from offramp.document import Problem

Fault = Literal["declaration", "caller", "pipeline", "operator", "offramp"]


class OfframpError(Exception):
    """Base of all errors raised by Offramp.

    `code` names the error for programs (`urn:offramp:error:<code>`), `status` is its HTTP status, and `fault`
    says who has to act: the `declaration` (your code at import), the `caller` of a run, the `pipeline` while it
    ran, the `operator` of the service, or Offramp itself. `problem` is the document in which a gateway
    reported the error to `offramp.Client`; None for an error of this process.
    """

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[int] = 500
    fault: ClassVar[Fault] = "offramp"
    problem: Problem | None = None


class DeclarationError(OfframpError):
    """A pipeline, step or class is declared in a way that cannot work; raised at import."""

    code = "declaration"
    title = "Wrong declaration"
    fault = "declaration"


class SettingsError(OfframpError):
    """A setting, from arguments, environment or offramp.toml, cannot be used."""

    code = "settings"
    title = "Wrong setting"
    fault = "operator"


class NotSupported(OfframpError):
    """This store or engine lacks the requested feature; the message says which one has it, or what to leave out."""

    code = "not-supported"
    title = "Not supported by this adapter"
    status = 501
    fault = "operator"


class MissingExtra(OfframpError):
    """An optional dependency is missing; the message names the extra that installs it."""

    code = "missing-extra"
    title = "Optional dependency missing"
    fault = "operator"


class StartFailed(OfframpError):
    """A process cannot take work: an `on_start` hook or a process lane failed, or the start took too long."""

    code = "start-failed"
    title = "The start failed"
    status = 503
    fault = "pipeline"


class NotStarted(OfframpError):
    """A run was to start in a gateway that does not run; the message says what starts it."""

    code = "not-started"
    title = "The gateway does not run"
    status = 503
    fault = "declaration"


class LoopMismatch(OfframpError):
    """An async client bound to one event loop was used on another."""

    code = "loop-mismatch"
    title = "Client used on another event loop"
    fault = "pipeline"


class RequestError(OfframpError):
    """A request that cannot be accepted as it is."""

    code = "malformed"
    title = "Malformed request"
    status = 400
    fault: ClassVar[Fault] = "caller"


class InputError(RequestError):
    """The request was understood, but a field breaks the pipeline's schema or a limit.

    `errors` lists `(JSON pointer, message)` pairs.
    """

    code = "input"
    title = "Input does not fit"
    status = 422

    def __init__(self, detail: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.errors = list(errors)


class IdempotencyMismatch(RequestError):
    """The Idempotency-Key was used before with another body."""

    code = "idempotency-mismatch"
    title = "Idempotency-Key reused with another body"
    status = 422


class UnknownPipeline(RequestError):
    """No pipeline has that name."""

    code = "unknown-pipeline"
    title = "No such pipeline"
    status = 404


class UnknownRun(RequestError):
    """No run has that id, or it is not yours."""

    code = "unknown-run"
    title = "No such run"
    status = 404


class UnknownStep(RequestError):
    """The run has not called a step with that key."""

    code = "unknown-step"
    title = "No such step"
    status = 404


class Unauthenticated(RequestError):
    """The request has no API key, or an unknown or revoked one; `challenge` is for `WWW-Authenticate`."""

    code = "unauthenticated"
    title = "API key needed"
    status = 401

    def __init__(self, detail: str, challenge: str = "Bearer") -> None:
        super().__init__(detail)
        self.challenge = challenge


class Forbidden(RequestError):
    """The key is valid, but does not admit this request."""

    code = "forbidden"
    title = "Not with this key"
    status = 403


class QueueLength(NamedTuple):
    """How many runs wait in the queue that refused a run; those of one class, or of all for None."""

    runs: int
    sla: str | None = None


class TenantLimit(RequestError):
    """The tenant has its maximum of runs or streams open; `retry_after` is in seconds."""

    code = "tenant-limit"
    title = "Too many of yours are open"
    status = 429
    in_queue: QueueLength | None = None

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class TenantBusy(TenantLimit):
    """The tenant uses its whole share of a common resource (`tenant_share`); `retry_after` is in seconds."""

    code = "tenant-busy"
    title = "Your share is in use"


class RateLimited(TenantLimit):
    """The API key has used its quota (`offramp keys add --rate --runs`); `retry_after` is in seconds.

    `policy` is the name of the limit in the `RateLimit` header field.
    """

    code = "rate-limited"
    title = "The quota of the API key is used up"

    def __init__(self, detail: str, retry_after: float = 1.0, policy: str = "") -> None:
        super().__init__(detail, retry_after)
        self.policy = policy


class RunConflict(RequestError):
    """The run is not in a state that allows this."""

    code = "conflict"
    title = "The run's state does not allow this"
    status = 409


class RunGone(RequestError):
    """The run's events and result were removed when its retention ended."""

    code = "expired"
    title = "The run's data is no longer kept"
    status = 410


class Overloaded(RequestError):
    """This process has reached a bound on concurrent work; `retry_after` is in seconds."""

    code = "overloaded"
    title = "Too much at once"
    status = 503
    fault = "operator"
    in_queue: QueueLength | None = None

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class ResourceBusy(OfframpError):
    """A resource has no permit to give: too many calls wait; `retry_after` is in seconds, None if it is unknown."""

    code = "resource-busy"
    title = "Too many calls wait for a resource"
    status = 503
    fault = "operator"

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class CircuitOpen(ResourceBusy):
    """Calls to a resource stop for a while, as most of the last ones failed; `retry_after` is in seconds."""

    code = "circuit-open"
    title = "Calls to a resource have stopped"


class WaitsForItself(OfframpError):
    """A call needs a permit that only comes free after its own: code that holds a permit asks for another."""

    code = "resource-deadlock"
    title = "A call would wait for itself"
    fault = "pipeline"


class ExceedsLimit(OfframpError):
    """A call needs more tokens than the limit of its resource ever has; the message names both."""

    code = "exceeds-limit"
    title = "A call needs more than a resource has"
    fault = "pipeline"


class BlocksLoop(OfframpError):
    """A plain call would block the event loop while it waits for a permit: use the async form, or a thread."""

    code = "blocks-loop"
    title = "A plain wait on an event loop"
    fault = "pipeline"


class OutsideRun(OfframpError, LookupError):
    """`current_run()` was called where no run is executing."""

    code = "outside-run"
    title = "No run is executing here"
    fault = "pipeline"


class EffectUnknown(OfframpError):
    """The process of an `effect="once"` step died before it recorded the result: the effect may have happened."""

    code = "effect-unknown"
    title = "It is unknown whether the effect happened"
    fault = "pipeline"


class EncodingError(OfframpError):
    """An argument or a result cannot be encoded as JSON, so it cannot be journaled."""

    code = "encoding"
    title = "Not JSON-encodable"
    fault = "pipeline"


class TooLarge(EncodingError):
    """A result or an emitted value has more bytes than the limit that the message names."""

    code = "too-large"
    title = "Value too large"


class StepFailed(OfframpError):
    """Stands for a step's exception that cannot be restored, for example because its class is local.

    The raised exception has the name of that class, derives from its loaded ancestors, and has the same text.
    """

    code = "step-failed"
    title = "A step failed"
    fault = "pipeline"


class Aborted(OfframpError):
    """A step or a body ended with a `BaseException` such as `SystemExit`, a panic or a stray cancellation.

    `__cause__` is that exception. The step has failed like any other: it is retried, and the error can be caught.
    """

    code = "aborted"
    title = "Ended by what is no Exception"
    fault = "pipeline"


class StepTimeout(OfframpError, TimeoutError):
    """One attempt of a step took longer than the step's `timeout`."""

    code = "step-timeout"
    title = "A step took too long"
    fault = "pipeline"


class FirstTokenTimeout(StepTimeout):
    """The first token of a failover's target came later than `first_token`, and another target is left."""

    code = "first-token-timeout"
    title = "The first token was late"


class SignalTimeout(OfframpError, TimeoutError):
    """No signal came within the `timeout` of `offramp.signal`."""

    code = "signal-timeout"
    title = "No signal came"
    fault = "pipeline"


class LaneDied(OfframpError):
    """A process that executed a step ended before the step did."""

    code = "lane-died"
    title = "A process lane died"
    fault = "pipeline"


class StepKilledProcess(OfframpError):
    """Process after process died while it executed the run, without finishing a step: the run is given up."""

    code = "step-killed-process"
    title = "A step kills its process"
    fault = "pipeline"


class Divergence(OfframpError):
    """A replay did not ask for a step that its journal holds: the pipeline's code changed or is not repeatable."""

    code = "divergence"
    title = "The replay differs from the journal"
    fault = "pipeline"


class BodyNotRepeatable(OfframpError):
    """A pipeline's body did something that an engine cannot repeat; it belongs in a step."""

    code = "body-not-repeatable"
    title = "A body did what belongs into a step"
    fault = "pipeline"


class RunFailed(OfframpError):
    """A run ended `failed` in another process; `error_code` and `step` are those of the run document."""

    code = "run-failed"
    title = "The run failed"
    fault: ClassVar[Fault] = "pipeline"

    def __init__(self, message: str, error_code: str = "run-failed", step: str | None = None) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.step = step


class StillRunning(RunFailed):
    """This process stops, and the awaited run has not failed: another process continues it; `run_id` names it."""

    code = "still-running"
    title = "The run continues in another process"
    status = 503
    fault = "operator"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"{run_id} continues in another process, as this one stops: follow it there", self.code)
        self.run_id = run_id


class RunCancelled(OfframpError):
    """The run was cancelled before it completed."""

    code = "cancelled"
    title = "The run was cancelled"
    fault = "caller"


class RunExpired(OfframpError):
    """The run's deadline passed before it completed."""

    code = "deadline"
    title = "The run's deadline passed"
    fault = "pipeline"


class RunUnfinished(OfframpError, TimeoutError):
    """The run had not ended when `Client.result(run, wait=)` stopped waiting; it continues."""

    code = "unfinished"
    title = "The run has not ended yet"
    status = 504
    fault = "caller"


class Unreachable(OfframpError, ConnectionError):
    """No gateway answered for as long as the client's `patience`.

    For a stream, `run_id` and `after` are where `Client.follow` goes on; None and 0 if no event came.
    """

    code = "unreachable"
    title = "The gateway does not answer"
    status = 504
    fault = "operator"
    run_id: str | None = None
    after: int = 0


class UnexpectedAnswer(OfframpError):
    """The server answered as no Offramp gateway does: the address is wrong, or something in between answers."""

    code = "unexpected-answer"
    title = "Not an answer of a gateway"
    status = 502
    fault = "operator"


class LeaseLost(OfframpError):
    """This process no longer owns the run, so the store refuses its writes."""

    code = "lease-lost"
    title = "The lease was lost"


class StoreError(OfframpError):
    """The store could not write or read; nothing was acknowledged. The message says what to free or repair."""

    code = "store"
    title = "The store is not available"
    status = 503
    fault = "operator"


class StoreTimeout(StoreError):
    """The store did not answer within `write_timeout`: the request may or may not have taken effect.

    Repeating it with the same Idempotency-Key does nothing twice.
    """

    code = "store-timeout"
    title = "The store takes too long"


class ObjectsUnavailable(StoreError):
    """The object store (`--objects`) cannot be written or read; nothing is lost. The message says what to repair."""

    code = "objects"
    title = "The object store is not available"


class ObjectLost(OfframpError):
    """A large value is missing from the object store, or has changed there."""

    code = "object-lost"
    title = "A stored value is lost"
    fault = "operator"
