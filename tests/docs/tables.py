"""The parts of the docs that are generated from the code. `python tests/docs/tables.py` rewrites them.

A part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; test_tables.py compares it with the generated text.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import get_args

import msgspec

from offramp.core import events, leaving, ownership, webhooks
from offramp.core.ownership import ENGINE, Ownership
from offramp.core.run import TRANSITIONS, Route, links
from offramp.core.spec import DEMOTION_MESSAGE
from offramp.settings import Settings
from offramp.telemetry.instruments import GATEWAY, RUNTIME

ROOT = Path(__file__).resolve().parents[2]
RUN = "run_01M80556NBCJM5ZX4VNNF0PSDB"
AT = "2026-11-21T22:55:43.275Z"
KEY = "write:fa8d97716c33ac4c:0"
WHERE = {"file": "desk/search.py", "line": 41, "function": "fetch"}
ERROR = {"code": "step-failed", "message": "ConnectionError: refused", "step": "write", "attempt": 1, "where": WHERE}
NOWHERE = {"step": None, "attempt": None, "where": None}

EXAMPLES: list[events.Body] = [
    events.RunAccepted(
        "research", None, "fast", "interactive", Route("fast", ["a budget of 2 s (class 'interactive')"]).shown()
    ),
    events.StepWaiting("write", KEY, "openai", "rate", 12, 3200.0),
    events.StepStarted("write", KEY, 1, "Why? (3 notes)", "write_openai"),
    events.StepDelta("write", KEY, 1, msgspec.Raw(b'"Why? "')),
    events.StepRetrying("write", KEY, 1, ERROR, 0.0, "write_openai"),
    events.StepCompleted("write", KEY, 2, 281.4),
    events.StepFailed("write", KEY, 3, 12.0, ERROR | {"attempt": 3}),
    events.WaitStarted(
        "signal",
        "approved",
        "offramp.signal:9d8f3f3f0f6a1c55:0",
        "2026-11-24T22:55:43.275Z",
        msgspec.Raw(b'"Refund 90 EUR?"'),
        msgspec.Raw(b'{"type":"boolean"}'),
    ),
    events.WaitEnded("signal", "approved", "offramp.signal:9d8f3f3f0f6a1c55:0", "received"),
    events.SignalRefused(
        "approved",
        "offramp.signal:9d8f3f3f0f6a1c55:0",
        1,
        [{"pointer": "", "message": "expected a boolean, got a string"}],
    ),
    events.RunDemoted("budget", 2000.0, 2000.326, DEMOTION_MESSAGE, links(RUN)),
    events.RunResumed("worker-1-eb1bfd708d2b", 8, "demotion"),
    events.RunCompleted(result=msgspec.Raw(b'"Why? 10 notes say it."')),
    events.RunFailed(ERROR),
    events.RunCancelled({"code": "cancelled", "message": "RunCancelled: the run was cancelled", **NOWHERE}),
    events.RunExpired({"code": "deadline", "message": "RunExpired: …", **NOWHERE}),
]

METRICS = {"Of every process that executes runs": RUNTIME, "Of a gateway": GATEWAY}

# Each bound of docs/contributing/bounds.md: where it is defined, its unit, and its meaning.
LIMITS: list[tuple[str, list[tuple[str, str, str]]]] = [
    (
        "Declarations",
        [
            ("core.names:NAME_LENGTH_MAX", "", "characters of a name of an app, pipeline, step or class"),
            ("core.spec:DEMOTION_MESSAGE_LENGTH_MAX", "", "characters of a `demotion_message`"),
            ("core.labels:LABEL_LENGTH_MAX", "", "characters of a step's label; the rest is cut off"),
            ("core.retry:RETRY_ATTEMPTS_MAX", "", "attempts of a `Retry`"),
            ("core.failover:TARGETS_MAX", "", "steps of a failover"),
            ("execution.admission:AGAIN_S", "s", "before a failover asks again that an engine lets wait no longer"),
            ("execution.admission:AGAIN_S_MIN", "s", "the least time before a failover asks a step's resource again"),
            ("core.failover:DEEP_WAIT_S", "s", "that a deep run waits for a permit before it also asks for another's"),
            ("core.models:ADAPTERS_MAX", "", "annotations whose pydantic adapter is cached; others are rebuilt"),
            ("core.planner:CLASSES_MAX", "", "classes of objects below `Any` that a process caches"),
            ("core.sla:PRIORITY_MAX", "", "largest `priority` of an SLA class; the smallest is its negative"),
            ("core.sla:MIN_WARM_MAX", "", "of `min_warm` of an SLA class"),
            ("core.sla:BUDGET_DEFAULT_S", "s", "default budget"),
            ("core.spec:RETENTION_DEFAULT_S", "s", "default retention"),
            ("core.spec:SHORT_TIMEOUT_S", "s", "for a step with `short=True`"),
            ("core.wording:TEXT_CHARS_MAX", "", "characters of a text that `text_complexity` reads"),
            ("core.advisers:CLASSIFIER_TIMEOUT_DEFAULT_S", "s", "default `classifier_timeout`"),
            ("core.advisers:CLASSIFIER_TIMEOUT_MAX_S", "s", "largest `classifier_timeout`"),
            ("core.advisers:RULE_TIMEOUT_S", "s", "for one call of a rule or a feature function"),
            ("core.advisers:FEATURES_MAX", "", "features that a feature function returns"),
            ("core.features:FEATURES_MAX", "", "features by which a run is compared with earlier ones"),
            ("core.features:FIELDS_READ", "", "fields of an input from which features are taken"),
            ("core.features:TEXT_READ", "", "characters of a text whose lines and sentences are counted"),
            ("core.features:CATEGORY_CHARS", "", "characters of a text without spaces that is compared as a value"),
            ("core.belief:STEPS_MAX", "", "finished steps of a run after which the time left is learned"),
            ("core.belief:VALUES_MAX", "", "values of a feature with a cell of their own"),
            ("core.belief:NAMES_MAX", "", "features that are counted at one stage of the runs of a pipeline"),
            ("core.belief:CELLS_MAX", "", "cells of the belief about a pipeline and class"),
            ("core.belief:SOURCES_SEEN", "", "latest runs whose tenants and sessions a belief compares"),
            ("core.blocks:BLOCKS_KEPT", "", "blocks of counts of a belief or a bound; older ones are dropped"),
            ("core.advisers:FEATURE_NAME_LENGTH_MAX", "", "characters of a feature's name"),
            ("core.advisers:FEATURE_TEXT_LENGTH_MAX", "", "characters of a feature that is a text; the rest is cut"),
            ("core.routing:REASON_LENGTH_MAX", "", "characters of a rule's or classifier's reason; the rest is cut"),
            ("execution.advice:CALLS_MAX", "", "calls at once of a rule or classifier that is a plain function"),
            (
                "execution.advice:STUCK_MAX",
                "",
                "late calls of a rule or classifier that have not returned; then skipped",
            ),
            ("execution.advice:LOGGED_EVERY_S", "s", "between lines of the log about one that is passed over"),
        ],
    ),
    (
        "Requests",
        [
            ("gateway.wire.connections:HEAD_BYTES_MAX", "bytes", "of a request's line and headers; then 431"),
            ("gateway.wire.connections:CROWDED_HEAD_S_MAX", "s", "the same past the connection limit; then closed"),
            ("gateway.wire.connections:HEAD_S_MAX", "s", "for a request's line and headers to arrive; then 408"),
            ("gateway.wire.connections:BODY_S_MAX", "s", "for a body to arrive, extended as it arrives; then 408"),
            ("gateway.wire.connections:BODY_BYTES_PER_S_MIN", "bytes", "of a body that extend this time by a second"),
            (
                "gateway.wire.lingering:UNTAKEN_S_MAX",
                "s",
                "for a client to take something of a connection's end; then it is cut off",
            ),
            ("gateway.wire.lingering:LINGER_S", "s", "in which a refused client's further bytes are discarded"),
            ("gateway.wire.server:KEEP_ALIVE_S", "s", "for which an idle connection is kept"),
            ("gateway.descriptors:FILES_RESERVED", "", "open files reserved from connections, at most a quarter"),
            ("gateway.descriptors:STREAMS_SHARE_MAX", "", "of the possible connections may be streams; then 503"),
            ("gateway.wire.accepting:REFUSED_MAX", "", "past the limit: probes are answered, others get 503"),
            ("gateway.bodies:DEPTH_MAX", "", "levels of objects and lists in a body"),
            ("gateway.native.request:SESSION_ID_LENGTH_MAX", "", "characters of a `session_id`"),
            ("gateway.native.request:METADATA_PAIRS_MAX", "", "pairs of metadata"),
            ("gateway.native.request:METADATA_KEY_LENGTH_MAX", "", "characters of a key of metadata"),
            ("gateway.native.request:METADATA_VALUE_LENGTH_MAX", "", "characters of a value of metadata"),
            ("gateway.negotiation:LIST_LENGTH_MAX", "", "characters of all `Prefer`, or `Accept`, headers; then 431"),
            ("gateway.negotiation:LIST_PARTS_MAX", "", "commas and semicolons in them; then 431"),
            ("gateway.negotiation:IDEMPOTENCY_KEY_LENGTH_MAX", "", "characters of an `Idempotency-Key`"),
            ("paths.retrying:RETRIES_MAX", "", "retries of one run; a retry can be retried in turn"),
            (
                "paths.retrying:FORGET_AGAIN_S",
                "s",
                "to the second attempt to remove copies for a retry that was not started",
            ),
            ("gateway.native.retrying:FROM_LENGTH_MAX", "", "characters of `from` in a request to retry a run"),
            ("core.ownership:SIGNALS_MAX", "", "signals per run"),
            ("core.ownership:SIGNALS_BYTES_MAX", "bytes", "of their values together"),
            ("core.tickets:TICKET_S", "s", "for which a ticket opens the streams of its run"),
            ("core.waits:ASK_BYTES_MAX", "bytes", "of `ask=` of `offramp.signal`, as JSON"),
            ("core.waits:SCHEMA_BYTES_MAX", "bytes", "of `schema=` of `offramp.signal`, as JSON Schema"),
            ("core.waits:WAITS_SHOWN_MAX", "", "waits in the `waiting_for` of a run document, those that began first"),
            (
                "core.fitting:LOOKS_MAX",
                "",
                "comparisons of a part of a signal with a part of a schema, each kB of it one more; then 422",
            ),
            ("core.fitting:DEPTH_MAX", "", "nesting of a signal and a schema together; then 422"),
            ("core.fitting:PROBLEMS_MAX", "", "problems that are reported of a signal"),
            ("gateway.native.filters:LIMIT_MAX", "", "runs in a page of `GET /v1/runs`"),
            ("gateway.native.filters:LIMIT_DEFAULT", "", "runs in a page without `limit`"),
        ],
    ),
    (
        "Large values",
        [
            ("ports.blobs:PART_BYTES_MAX", "bytes", "of one part of a streamed result"),
            ("stores.blobs.blobs:THREADS", "", "reads and writes of one process at once"),
            ("execution.values:READS_AT_ONCE", "", "of one run's values read before its body is called"),
            ("execution.values:AGAIN_MOST_S", "s", "between attempts to reach unavailable objects"),
            ("stores.blobs.remote:CONNECT_S", "s", "to connect to a bucket's server"),
            ("stores.blobs.remote:REQUEST_S", "s", "for one request to it"),
            ("stores.blobs.remote:RETRIES", "", "of a failed request, by obstore"),
            ("stores.blobs.remote:RETRY_S", "s", "after which a request is not retried"),
            ("stores.blobs.remote:PUT_PART_BYTES", "bytes", "above which an object is uploaded in parts of that size"),
            ("stores.blobs.remote:LIST_ROWS", "", "keys of one listing when runs are removed"),
        ],
    ),
    (
        "Keys",
        [
            ("core.keys:SECRET_LENGTH_MIN", "", "characters of a secret in `OFFRAMP_API_KEYS`, at least"),
            ("core.keys:SECRET_LENGTH_MAX", "", "and at most"),
            ("core.keys:NAME_LENGTH_MAX", "", "characters of a name of a key or tenant"),
            ("core.keys:KEYS_MAX", "", "keys in the file"),
            ("core.rates:RATE_MAX", "", "of a key's `--rate`"),
            ("core.rates:WINDOW_S_MAX", "s", "window of a rate"),
            ("core.quotas:KEY_RUNS_MAX", "", "of a key's `--runs`"),
            ("paths.quotas:SHOWN_S", "s", "age of the `RateLimit` of an answer that starts no run"),
            (
                "paths.quotas:SHOWN_WITHIN_S",
                "s",
                "for which such an answer waits for the store; then it shows older figures",
            ),
            ("paths.quotas:LOOK_S_MAX", "s", "for which the store is asked for these figures"),
            ("core.departures:UNKNOWN_WAIT_S", "s", "`Retry-After` while nothing is known to leave what is full"),
            ("core.departures:STARVED_S_MAX", "s", "the same for a class of which nothing leaves, while others do"),
            ("core.departures:COUNT_LEAST", "", "departures, decayed by their age, below which their rate is unknown"),
            (
                "core.departures:MEMORY_S",
                "s",
                "after which a departure counts for 1/e in the rate behind `Retry-After`",
            ),
            (
                "paths.quotas:LATE_S",
                "s",
                "until a run that did not wait for a place is visible to other gateways, clock differences included",
            ),
            (
                "paths.quotas:KEYS_REMEMBERED_MAX",
                "",
                "keys with limits that a process remembers; others it reads again",
            ),
            (
                "stores.redis.scripts:CHECKED_MAX",
                "",
                "open runs of a key that one count on Redis checks for having ended",
            ),
            ("gateway.keyring:CHECK_EVERY_S", "s", "until a change of that file is noticed"),
            ("paths.bounds:COUNT_AGAIN_S", "s", "until open runs that other gateways accepted are counted"),
            ("paths.stays:LOOK_S_PER_RUN", "s", "for each run on a full fast path, between looks through all of them"),
            (
                "paths.admission:LOOK_EVERY_S",
                "s",
                "between offers of the queue to requests that wait for a place",
            ),
            ("engines.leased.queue_bound:COUNT_EVERY_S", "s", "until queued runs of other gateways are counted"),
        ],
    ),
    (
        "Answers and streams",
        [
            ("core.events:EMITTED_BYTES_MAX", "bytes", "of an emitted value as JSON; a larger one fails its step"),
            ("core.events:SAID_AFTER_S", "s", "after which a wait for a permit is an event"),
            ("core.events:SAID_TIMES_MAX", "", "events of one such wait"),
            ("core.events:RESULT_INLINE_BYTES_MAX", "bytes", "of a result in `run.completed` and in listings"),
            ("core.recorded:MESSAGE_LENGTH_MAX", "", "characters of an error's message"),
            (
                "core.recorded:ARGUMENTS_BYTES_MAX",
                "bytes",
                "of an exception's arguments, of its attributes, of its notes and of its text, for a replay",
            ),
            ("core.recorded:CAUSES_MAX", "", "recorded members of a group, or nested exceptions"),
            ("core.recorded:FAILURE_BYTES_MAX", "bytes", "recorded of one error with its causes, about"),
            ("core.tracebacks:DECORATORS_MAX", "", "decorators behind which the place of a declaration is looked for"),
            ("core.tracebacks:FRAMES_MAX", "", "recorded frames of one exception"),
            ("core.tracebacks:FRAMES_FIRST", "", "of those are the outermost, where some are left out"),
            ("core.tracebacks:FRAMES_BYTES_MAX", "bytes", "of all frames of one error with its causes, about"),
            ("core.tracebacks:FRAME_NAME_LENGTH_MAX", "", "characters of a frame's file, and of its function"),
            ("core.exact:DEPTH_MAX", "", "levels of containers in a restored exception argument"),
            ("core.retry:CHAIN_MAX", "", "nested exceptions that a `Retry` examines"),
            ("core.inspection:VALUE_BYTES_MAX", "bytes", "of a value with `include=`; of a larger one the beginning"),
            ("core.inspection:SHOWN_BYTES_MAX", "bytes", "of all values of one such answer"),
            ("core.inspection:PREVIEW_LENGTH_MAX", "", "characters of such a beginning"),
            ("core.inspection:ARGUMENTS_CUT_BYTES", "bytes", "recorded of arguments above `record_arguments`"),
            ("gateway.native.framing:RETRY_MS", "ms", "a reader should wait before it reconnects"),
            ("gateway.streams:STALL_S_MAX", "s", "for which a stream's reader may take nothing"),
            ("ports.store:EVENTS_READ_BYTES", "bytes", "of events, after which a batch for a reader is full"),
            ("gateway.streams:PIECE_BYTES_MAX", "bytes", "of a stream given to the server at a time"),
            ("gateway.wire.connections:WRITE_BUFFER_BYTES", "bytes", "above which a connection's buffer takes no more"),
            ("gateway.wire.server:UNSENT_BYTES_MAX", "bytes", "of a connection that the kernel holds unsent"),
            ("gateway.native.ws:SLOW_S_MAX", "s", "for a WebSocket's reader to take one batch of events"),
            ("gateway.native.ws:MESSAGE_BYTES_MAX", "bytes", "of a WebSocket message from a client"),
            ("paths.deliver:TAIL_EVENTS_MAX", "", "newest events of a followed run in memory; older ones are read"),
            ("paths.deliver:TAIL_BYTES_MAX", "bytes", "of the same"),
        ],
    ),
    (
        "Webhooks",
        [
            ("core.webhooks:URL_LENGTH_MAX", "", "characters of a URL"),
            ("core.webhooks:BODY_BYTES_MAX", "bytes", "of a message with the run's result; a larger one omits it"),
            ("core.webhooks:GIVE_UP_AFTER_S", "s", "during which delivery of an event is retried"),
            ("core.webhooks:SECRETS_MAX", "", "secrets that sign at once"),
            ("egress.http:RESPONSE_BYTES_MAX", "bytes", "read of an answer's body"),
            ("egress.http:RESPONSE_S_MAX", "s", "to read it"),
            ("egress.guard:ADDRESSES_MAX", "", "addresses tried per host"),
            ("egress.guard:LOOKUPS", "", "hosts resolved at once"),
            ("paths.webhooks:CLAIM_MARGIN_S", "s", "by which a claim outlasts an attempt"),
            ("paths.webhooks:STOP_GRACE_S", "s", "for attempts to end when their process stops"),
            ("ports.outbox:CANDIDATES_MAX", "", "due entries that one claim examines"),
            ("ports.outbox:UNDELIVERED_KEPT_S", "s", "past its retention for which an undelivered run is kept"),
        ],
    ),
    (
        "Telemetry",
        [
            ("telemetry.setup:CLOSE_S_MAX", "s", "that a final export may delay a process's exit"),
            ("telemetry.setup:LANE_CLOSE_S_MAX", "s", "the same for a lane process"),
            ("telemetry.setup:LANE_DELAY_MS", "ms", "spans of a lane process wait to be exported"),
            ("telemetry.setup:TOLD_EVERY_S", "s", "between two log lines about an unreachable backend"),
            ("telemetry.tracing:WEBHOOK_CHILD_S_MAX", "s", "in which an accepted run's webhooks join its trace"),
            ("telemetry.tracing:PATH_LENGTH_MAX", "", "characters of a request's path that its span shows"),
            ("telemetry.context:SESSION_LENGTH_MAX", "", "characters of a session received as baggage"),
            ("telemetry.content:DECODED_BYTES_MAX", "bytes", "of a value decoded for redaction"),
            ("cli.check_telemetry:ANSWER_S_MAX", "s", "`offramp doctor` waits for the backend"),
        ],
    ),
    (
        "On Temporal",
        [
            ("ports.bodies:PAYLOAD_BYTES_MAX", "bytes", "of a step's arguments, its result, an input, a signal"),
            ("engines.temporal.body:DRAWN_MAX", "", "drawn values that a step's activity carries"),
            ("engines.temporal.relay:HANDING_MAX", "", "runs that a worker hands to Temporal at a time"),
            ("engines.temporal.payloads:PAGE_BYTES_MAX", "bytes", "of journal that a body reads at a time"),
            ("engines.temporal.body:STEP_MARGIN_S", "s", "of an activity beyond its step's timeout"),
            ("engines.temporal.body:SHORT_MARGIN_S", "s", "of a local activity beyond its step's timeout"),
            ("engines.temporal.known:LOCAL_S_MAX", "s", "for one attempt of an internal local activity"),
            ("engines.temporal.engine:BODIES_CACHED_MAX", "", "bodies that a worker keeps; others are rebuilt"),
            ("engines.temporal.hop:SHARE_S_MAX", "s", "for Temporal to take a run whose steps are still in flight"),
            ("engines.temporal.steps:RECORDS_KEPT", "", "run records that a worker caches"),
            ("core.ownership:ASSIGNED_GRACE_S", "s", "after a deadline for an engine to end its run"),
        ],
    ),
    (
        "Resources",
        [
            ("core.limits.needs:BYTES_PER_TOKEN", "", "bytes of a request for one token of input, as estimated"),
            ("core.limits.needs:TOKENS_PER_FILE", "", "tokens for an image or file in a request, as estimated"),
            ("core.limits.needs:FILE_BYTES_MIN", "bytes", "of the shortest base64 that is a file"),
            ("core.limits.needs:BODY_BYTES_MAX", "bytes", "of a request that are read for what it needs"),
            ("resources.clients:CONNECTIONS_MIN", "", "least connections of a resource's client; idle ones it keeps"),
            ("resources.clients:CONNECTIONS_DEFAULT", "", "the same, for a resource without `concurrency`"),
            ("resources.transports:ERROR_BYTES_MAX", "bytes", "of a provider's error that are read in advance"),
            ("core.limits.notation:CALLS_MAX", "", "calls in a window of a resource"),
            ("core.limits.notation:TOKENS_MAX", "", "tokens in a window of a resource"),
            ("core.limits.spec:CONCURRENCY_MAX", "", "largest `concurrency` of a resource"),
            ("core.limits.spec:WINDOWS_MAX", "", "windows of calls, and of tokens, of one resource"),
            ("core.limits.windows:MARGIN_S", "s", "for which a call counts longer than its window"),
            ("core.limits.windows:ENTRIES_MAX", "", "entries of the log of a window; more calls share them"),
            (
                "core.limits.book:WAITERS_MAX",
                "",
                "asks that wait at once for permits of all resources; over Redis, of each one",
            ),
            ("core.limits.memory:LIFTED_MAX", "", "runs that count as of the class of a run that awaits them"),
            ("core.limits.book:BLOCKED_SAID_S", "s", "of a longer stop after which waiting calls learn of it"),
            (
                "core.limits.gate:TOKENS_DEFAULT",
                "",
                "tokens reserved for the first calls of a resource, if nothing else is known",
            ),
            ("core.limits.gate:ADVANCE_S", "s", "for which a lower class has had its share in advance, at most"),
            ("core.limits.learned:STEPS_MAX", "", "steps whose tokens are learned, for each resource"),
            ("core.limits.learned:SAMPLES_MAX", "", "calls of a step from which its tokens are learned"),
            ("core.limits.learned:QUANTILE", "", "of the calls of a step need no more than is reserved"),
            ("core.limits.capacity:SCALE_MIN", "", "of its limits that refusals leave a resource at least"),
            (
                "core.limits.capacity:PACED_FROM",
                "",
                "of a window's part of lower classes; they use the rest at an even pace",
            ),
            ("core.limits.capacity:PACE", "", "seconds of a window that has a pace, and parts of it"),
            ("core.limits.capacity:SCALE_CUT", "", "of its limits that one refusal leaves a resource"),
            ("core.limits.capacity:SCALE_GAIN", "", "calls by which a success widens the limits again"),
            ("core.limits.capacity:BLOCKED_DEFAULT_S", "s", "without calls after a 429 that names no time"),
            ("core.limits.capacity:EXHAUSTED_S", "s", "without calls after a 429 with `insufficient_quota`, at least"),
            ("core.limits.capacity:BLOCKED_S_MAX", "s", "without calls that a provider can ask for"),
            ("limits.link:BEAT_S", "s", "of silence after which a process asks whether the coordinator lives"),
            ("limits.link:LATER_S", "s", 'after a grant for which "written" may wait for a message to go with'),
            ("limits.link:MISSED_MAX", "", "such questions without an answer; then the coordinator is killed"),
            ("limits.client:LEVELS_S_MAX", "s", "that a look at all resources waits for the coordinator"),
            ("limits.link:RETRY_MAX_S", "s", "between two attempts to start a coordinator"),
            ("limits.starting:START_S_MAX", "s", "for a started coordinator to listen"),
            ("limits.starting:LOG_BYTES_MAX", "bytes", "of the coordinator's log; a larger one begins anew"),
            ("limits.coordinator:LINGER_S", "s", "that a coordinator without processes waits for another"),
            ("limits.serving:RECOVERY_S_MAX", "s", "that a successor waits for what living processes hold"),
            ("limits.serving:SAVE_SHARE", "", "of the coordinator's time for writing what it has counted"),
            ("limits.serving:SAVE_S_MAX", "s", "that the coordinator's end waits for that"),
            ("limits.serving:SHARES_EVERY_S", "s", "between two times that all processes hear of refusals, at least"),
            ("limits.serving:SAVE_SHARE", "", "of the coordinator's time for writing what it has counted"),
            ("limits.serving:SAVE_S_MAX", "s", "that the coordinator's end waits for that"),
            ("core.limits.spec:RESOURCES_MAX", "", "resources of an app, and of all processes of a data directory"),
            ("limits.serving:UNREAD_BYTES_MAX", "bytes", "sent to a process that does not read them"),
            ("limits.wire:MESSAGE_BYTES_MAX", "bytes", "of one message between a process and the coordinator"),
            ("limits.address:BACKLOG", "", "processes that may wait for the coordinator to let them in"),
            ("limits.known:STATE_AGE_S_MAX", "s", "after which what an earlier coordinator counted is forgotten"),
            ("core.limits.breaker:BUCKETS", "", "parts of a breaker's window"),
            ("core.limits.breaker:RECENT_CALLS", "", "calls of a breaker's window that count, about"),
            ("core.limits.breaker:RECENT_TIMES", "", "times `min_calls`, if that is more calls"),
            ("core.limits.breaker:PROBES", "", "calls that a half-open breaker lets through at once"),
            ("core.limits.breaker:CREDENTIALS_MAX", "", "credentials of a resource with a breaker of their own"),
            ("core.limits.breaker:AGAIN_S", "s", "until others ask again while probes of a breaker are under way"),
            ("core.limits.breaker:REASONS_MAX", "", "different reasons of failures that a breaker counts"),
            ("core.limits.breaker:REASON_CHARS_MAX", "", "characters of one"),
            ("core.limits.headers:VALUE_CHARS_MAX", "", "characters of a provider's header that is read"),
            ("core.limits.said:BODY_BYTES_MAX", "bytes", "of a provider's error that is read"),
            ("core.limits.said:MESSAGE_CHARS_MAX", "", "characters of its message that are searched for a wait"),
            ("core.limits.said:CODE_CHARS_MAX", "", "characters of its code"),
            ("core.limits.said:EXHAUSTED_S", "s", "without calls after `insufficient_quota`"),
            ("core.limits.said:BLOCKED_S_MAX", "s", "for which a provider may ask not to be called"),
            ("core.limits.raised:CHAIN_MAX", "", "exceptions, causes and members of groups, that are looked at"),
            ("core.limits.reading:HEAD_BYTES_MAX", "bytes", "kept of the start of an answer, or an event in a stream"),
            ("core.limits.reading:TAIL_BYTES_MAX", "bytes", "kept of the end of a longer one"),
            ("core.limits.reading:UNPACKED_BYTES_MAX", "bytes", "of a compressed answer that are read"),
            ("core.limits.reading:TOKENS_MAX", "", "tokens that a provider may count for a call"),
            ("core.limits.hedging:CALLS_PER_HEDGE", "", "calls of which one may be hedged"),
            ("core.limits.hedging:UNUSED_MAX", "", "hedges that calls without one leave for later"),
            ("core.limits.hedging:STEPS_MAX", "", "steps whose first tokens a process remembers"),
            ("core.limits.hedging:TIMES_MAX", "", "times to the first token that it remembers of each"),
            ("core.limits.hedging:TIMES_MIN", "", "and without which it hedges no call of that step"),
        ],
    ),
    (
        "On Redis",
        [
            ("stores.redis.writer:BATCH_OPERATIONS_MAX", "", "operations that one script call applies"),
            ("stores.redis.writer:BATCH_BYTES_MAX", "bytes", "of these, unless a single one is larger"),
            ("stores.redis.writer:RUN_EVENT_BYTES_MAX", "bytes", "of a run's events; then `emit` fails"),
            ("stores.redis.writer:MEMORY_SHARE_MAX", "", "of `maxmemory`; then new runs are refused"),
            ("stores.redis.writer:PATIENCE_S", "s", "requests wait for an unreachable server; then 503"),
            ("stores.redis.writer:WRITE_TIMEOUT_S", "s", "for the answer to a batch; then it is resent"),
            ("stores.redis.writer:FSYNC_TIMEOUT_S", "s", "for the server's disk with `fsync=`; then the same"),
            ("stores.redis.writer:BATCH_KEPT_S", "s", "the server remembers a writer's last batch"),
            ("stores.redis.writer:CLOSE_TIMEOUT_S", "s", "for pending writes when a process stops"),
            ("stores.redis.writer:GIVEN_UP_MAX", "", "remembered claims with a permanently refused write"),
            ("stores.redis.connection:CONNECT_TIMEOUT_S", "s", "to connect"),
            ("stores.redis.connection:ANSWER_TIMEOUT_S", "s", "for the answer to a read"),
            ("stores.redis.connection:READ_RETRIES", "", "retries of a read"),
            ("stores.redis.leases:LEASE_TIMEOUT_S", "s", "for the answer to a renewal"),
            ("stores.redis.leases:CLAIM_MAX", "", "runs that one claim takes"),
            ("stores.redis.reader:READERS", "", "connections that read"),
            ("stores.redis.store:EVENTS_READ_MAX", "", "events in one read"),
            ("stores.redis.store:EVENTS_LOOKED_AT_MAX", "", "events that one script examines when it skips deltas"),
            ("stores.redis.store:LIST_LOOKS_MAX", "", "runs that one page of a listing examines"),
            ("stores.redis.store:PURGE_RUNS_MAX", "", "runs that one script removes"),
            ("stores.redis.store:UNPURGED_KEPT_S", "s", "after which leftover keys expire"),
            ("cli.check_redis:ANSWER_S_MAX", "s", "`offramp doctor` waits for Redis"),
            ("stores.redis.hints:PENDING_MAX", "", "hints that wait to be sent; more are dropped"),
            ("stores.redis.learned:KEPT_S", "s", "since its last change for which a belief is kept"),
            ("stores.redis.hints:SETTLE_S", "s", "in which subscriptions to runs are collected"),
            ("stores.redis.hints:CLOSE_S_MAX", "s", "for the connections of hints to close when a process leaves"),
            ("stores.redis.hints:HINT_BYTES_MAX", "bytes", "of a received message"),
            ("stores.redis.hints:PING_EVERY_S", "s", "for the server to answer a PING on the subscribed connection"),
            ("stores.redis.hints:RETRY_CAP_S", "s", "between two attempts to resubscribe, at most"),
        ],
    ),
    (
        "Inside",
        [
            ("gateway.starting:LOOKS_PER_TIMEOUT", "", "checks per `write_timeout` of a run's unwritten end"),
            ("stores.sqlite.writer:TROUBLE_S_MIN", "s", "for which `/readyz` stays 503 after the last refused write"),
            ("paths.demote:BOUNDARY_GRACE_S", "s", "for a body without a step in flight at a demotion"),
            ("paths.roster:ABOUT_EVERY_S", "s", "until `/v1/workers` shows what changed in another process"),
            (
                "paths.stats:WRITE_EVERY_S",
                "s",
                "until other processes see outcomes and durations; a crash loses this much",
            ),
            ("paths.stats:FRESH_S", "s", "for which an answer of `/v1/stats` is reused"),
            ("paths.stats:UNFINISHED_MAX", "", "unfinished runs that `/v1/stats` counts; past it, `complete` is false"),
            ("paths.learning:SHARE_EVERY_S", "s", "between two exchanges of what processes learned from their runs"),
            ("paths.learning:OBSERVED_MAX", "", "runs that a process learns from in that time"),
            ("paths.learning:LOGS_READ_MAX", "", "runs on Temporal that it learns from in that time"),
            ("paths.learning:COMPARED_BYTES_MAX", "bytes", "of an input whose content is compared with that of others"),
            ("paths.learning:SESSION_S_MAX", "s", "that a request waits for the turns of its session"),
            ("paths.entry:FEATURES_S_MAX", "s", "that a request waits for features that decide nothing"),
            ("paths.learning:SESSIONS_CACHED", "", "sessions whose turns a process remembers"),
            ("paths.learning:TURNS_WAITING_MAX", "", "ended turns that wait to be written; then none is counted"),
            ("paths.verdicts:CONTROLS_MAX", "", "runs of the control group whose ends a process waits for"),
            ("execution.stills:STILLS_MAX", "", "waits of one run that are told from the time in which it moves"),
            ("ports.learning:CELLS_KEPT", "", "cells that a store keeps for the belief about a pipeline and class"),
            ("ports.learning:SESSIONS_KEPT", "", "sessions whose turns it keeps"),
            ("ports.learning:LAST_TURNS", "", "turns of a session whose durations it keeps"),
            ("paths.changes:KEPT_S", "s", "for which `/v1/changes` can be resumed"),
            ("paths.changes:KEPT_MAX", "", "changes that are kept for that"),
            ("paths.changes:APART_S", "s", "between two changes of a run, but for its paths and its end"),
            ("paths.changes:KNOWN_MAX", "", "unfinished runs whose changes are reported"),
            ("paths.changes:CHECKED_MAX", "", "of them that one look at the store compares"),
            ("paths.purge:DUTY_S", "s", "until another process replaces a killed purger"),
            ("paths.purge:REST", "", "times the duration of a purge step, as the rest after it"),
            ("paths.purge:REST_S_MAX", "s", "at most of such a rest"),
            ("paths.upkeep:COUNT_EVERY_S", "s", "between counts of waiting runs for `offramp_runs_waiting`"),
            ("paths.slo:LOOK_EVERY_S", "s", "between updates of the metrics of service levels"),
            ("paths.demote:PARK_AFTER_S", "s", "for which a deep run only waits before it is parked"),
            ("execution.permits:CLOSED_S", "s", "until a step asks again that limits of a stopping process refused"),
            (
                "execution.permits:SAME_MIN",
                "",
                "calls with one credential after which a step that used several is expected to go on with it",
            ),
            (
                "execution.holding:IDLE_S_MAX",
                "s",
                "that a step keeps its permits while it waits for a thread or a process",
            ),
            ("execution.crowd:CROWD_SHARE", "", "of the places of a worker that waits for permits may hold"),
            ("execution.crowd:AWAY_S_MIN", "s", "least time for which a wait past that goes on without a process"),
            ("execution.crowd:AWAY_S_MAX", "s", "longest such time, while there are few of them"),
            ("execution.crowd:AWAY_PER_S", "", "waits that come back to a process in a second, where there are many"),
            ("paths.demote:PARK_FOR_S_MIN", "s", "that a wait must still last for its run to be parked"),
            ("core.ending:CLEANUP_S_MAX", "s", "for all cleanups of a run together; also the largest `timeout`"),
            ("execution.ending:STRIKE_S_MAX", "s", "for the replay of a run that is being ended"),
            ("core.ownership:ASSIGNED_GRACE_S", "s", "after a deadline for Temporal to end a run, cleanup included"),
            ("execution.replay:DIVERGENCE_GRACE_S", "s", "without progress of a replay, then it counts as divergence"),
            ("paths.replay:CUTS_MAX", "", "simulated interruptions per `testing.replays`"),
            ("rehearsal:SEEDS_TRIED_MAX", "", "hash seeds tried to find another order of sets"),
            ("rehearsal:TIMEOUT_S", "s", "for the replays of `testing.replays` and `offramp check` in another process"),
            ("execution.replay:TIMEOUT_GRACE_S", "s", "the same at a step that a timer may still end"),
            ("execution.timers:NOTED_AFTER_S", "s", "after which a body's timer is written down"),
            (
                "execution.timers:FRONTIER_S",
                "s",
                "after the last recorded result in which a replay's timers count from it",
            ),
            ("execution.turns:SETTLE_TURNS", "", "turns of the loop for a body of several tasks between results"),
            ("execution.turns:IDLE_TURNS_MAX", "", "turns of the loop that a replay waits for the recorded order"),
            ("execution.threads:HELD_FACTOR", "", "times `threads`: the most threads, held ones included"),
            ("execution.leftovers:LINES_MAX", "", "lines of held threads that `/readyz` and a log line name"),
            ("execution.processes:START_TIMEOUT_S", "s", "for a lane process to start"),
            ("core.claims:SUSPECT_DEATHS", "", "deaths after which a run is retried with half of its suspects"),
            ("core.claims:HEADS_MAX", "", "queued runs with one death, and as many suspects, that one claim examines"),
            ("core.claims:CLASSES_SPARE", "", "classes that a claim allows for beside those of its process"),
            ("core.order:SPARE", "", "entries that decide nothing in a queue, beside as many that do"),
            ("stores.sqlite.queue:LINES_MAX", "", "lines of the queue that one claim reads"),
            ("stores.redis.scripts:LINES_MAX", "", "the same on Redis"),
            ("stores.sqlite.queue:PIPELINES_MAX", "", "pipelines whose lines one statement of a claim merges"),
            ("stores.redis.scripts:MENDED_MAX", "", "runs that a claim puts in order after an older version's process"),
            ("paths.deep:STEPLESS_DEATHS_FACTOR", "", "times `process_deaths` if no step was in flight"),
            ("execution.processes:LEAVE_S_MAX", "s", "for a traced lane process to end"),
            ("engines.leased.taking:CLAIM_MAX", "", "runs that one claim takes"),
            ("ports.hints:IDS_MAX", "", "runs that one hint names"),
            ("stores.sqlite.custody:CHECK_S_MAX", "s", "that the first process checks for damage after an unclean end"),
            ("stores.sqlite.custody:LOCK_S_MAX", "s", "that a process waits for a damage check or a restore"),
            ("stores.sqlite.machine:BEAT_S", "s", "between two beats that show which machine has the database open"),
            ("stores.sqlite.machine:SILENT_S", "s", "of another machine's silence before the database opens here"),
            ("stores.sqlite.machine:GONE_S", "s", "the same by both machines' clocks; then without waiting"),
            ("stores.sqlite.writer:BATCH_OPERATIONS_MAX", "", "operations in one commit"),
            ("stores.sqlite.batch:CHUNK_BYTES_MAX", "bytes", "of events in one row, about"),
            ("stores.sqlite.database:READERS", "", "reader threads, with a connection each"),
            ("stores.sqlite.listing:LIST_LOOKS_MAX", "", "runs that one page of a listing by several filters examines"),
            (
                "stores.sqlite.purge:PURGE_ROWS_MAX",
                "",
                "rows that one step of a purge removes, or pages of larger ones",
            ),
            ("stores.sqlite.purge:PURGE_ROWS_MIN", "", "of the same, when steps are slow"),
            ("stores.sqlite.purge:STEP_S", "s", "of a purge step, above which the next one removes less"),
            ("stores.sqlite.purge:TOMBSTONE_S", "s", "that a purged run's document remains"),
            ("stores.sqlite.purge:SPARE_PAGES", "", "free pages that stay in the file"),
            ("stores.sqlite.purge:SPARE_SHARE", "", "the same, of the pages in use"),
            ("stores.sqlite.purge:CUT_PAGES_MAX", "", "free pages that one step cuts off the file"),
            ("stores.sqlite.purge:CUT_PAGES_MIN", "", "of the same, when steps are slow"),
            ("stores.sqlite.purge:CHECKPOINT_STEPS", "", "steps of a purge between two checkpoints of the WAL"),
            ("cli.pulse:PULSE_S", "s", "between two pulses that a worker sends its supervisor"),
            ("cli.supervisor:PULSE_LEASES", "", "leases without a pulse after which a worker is killed"),
            ("cli.supervisor:PULSE_SILENCE_S_MIN", "s", "the least of that time"),
            ("cli.supervisor:ABORT_S", "s", "for a hung worker to write its stacks before it is killed"),
            ("cli.reload:FILES_MAX", "", "files that `offramp serve --reload` watches"),
            ("cli.waterfall:ROWS_MAX", "", "steps and waits that `offramp show` draws"),
            ("cli.supervisor:BACKOFF_MAX_S", "s", "between two starts of a worker that keeps dying"),
            ("execution.processes:IDLE_LOOK_S", "s", "between two looks whether an idle lane process lives"),
            ("core.scaling:WORKERS_MAX", "", "worker processes of one `serve`"),
            ("core.scaling:LOOK_EVERY_S", "s", "between two looks at how many workers are needed"),
            ("core.scaling:WAIT_S", "s", "that runs wait without room before more workers are needed"),
            ("core.scaling:FULL_SHARE", "", "of the places of workers that are taken when one fewer would do"),
            ("core.scaling:GROWTH", "", "the factor by which the number of workers grows at once"),
            ("core.scaling:SETTLE_S", "s", "for started workers to get warm before more are started"),
            ("engines.temporal.connection:BACKLOG_S_MAX", "s", "for Temporal to say how many steps wait"),
            ("cli.supervisor:KILL_MARGIN_S", "s", "beyond its drain before a worker is killed"),
            ("gateway.probes:TURN_S_MAX", "s", "for a worker's control loop to answer `/healthz`"),
        ],
    ),
]


def settings_table() -> str:
    rows = ["| setting | default | range | meaning |", "|---|---|---|---|"]
    ranges = {item.name: item.metadata for item in dataclasses.fields(Settings)}
    rows += [
        f"| `{name}` | {_shown(default)} | {_range(ranges[name])} | {meaning} |"
        for name, default, _, meaning in Settings.describe()
    ]
    return "\n".join(rows)


def events_list() -> str:
    parts = []
    for body in EXAMPLES:
        kind = type(body)
        name = str(kind.__struct_config__.tag)
        adds = ", ".join(f"`{field}`" for field in kind.__struct_encode_fields__)
        example = json.loads(events.frame(events.draft(body, AT), RUN, EXAMPLES.index(body) + 1))
        parts.append(
            f"### {name}\n\n{inspect.cleandoc(kind.__doc__ or '')} Adds {adds}.\n\n"
            f"```json\n{json.dumps(example, ensure_ascii=False)}\n```"
        )
    return "\n\n".join(parts)


# Those of them that a pipeline or a client can meet, for docs/reference/limits.md.
MET = {
    "Declarations": "names:NAME_LENGTH_MAX spec:DEMOTION_MESSAGE_LENGTH_MAX labels:LABEL_LENGTH_MAX "
    "retry:RETRY_ATTEMPTS_MAX failover:TARGETS_MAX sla:BUDGET_DEFAULT_S spec:RETENTION_DEFAULT_S spec:SHORT_TIMEOUT_S "
    "ending:CLEANUP_S_MAX",
    "Requests": "connections:HEAD_BYTES_MAX connections:BODY_S_MAX bodies:DEPTH_MAX request:SESSION_ID_LENGTH_MAX "
    "request:METADATA_PAIRS_MAX request:METADATA_KEY_LENGTH_MAX request:METADATA_VALUE_LENGTH_MAX "
    "negotiation:IDEMPOTENCY_KEY_LENGTH_MAX filters:LIMIT_MAX ownership:SIGNALS_MAX waits:ASK_BYTES_MAX "
    "waits:SCHEMA_BYTES_MAX retrying:RETRIES_MAX tickets:TICKET_S",
    "Answers and streams": "events:EMITTED_BYTES_MAX events:RESULT_INLINE_BYTES_MAX recorded:MESSAGE_LENGTH_MAX "
    "inspection:VALUE_BYTES_MAX streams:STALL_S_MAX",
    "Webhooks": "webhooks:URL_LENGTH_MAX webhooks:BODY_BYTES_MAX webhooks:GIVE_UP_AFTER_S",
}


def met_tables() -> str:
    known = {each[0].rpartition(".")[2]: each for _, limits in LIMITS for each in limits}
    chosen = {title: [known[name] for name in names.split()] for title, names in MET.items()}
    return "\n\n".join(f"## {title}\n\n{limits_table(limits)}" for title, limits in chosen.items())


def limits_tables() -> str:
    return "\n\n".join(f"## {title}\n\n{limits_table(limits)}" for title, limits in LIMITS)


def limits_table(limits: list[tuple[str, str, str]]) -> str:
    rows = ["| name | in | value | bounds |", "|---|---|---|---|"]
    for place, unit, meaning in limits:
        module, _, constant = place.partition(":")
        value = getattr(importlib.import_module(f"offramp.{module}"), constant)
        shown = _shown(value) + (f" {unit}" if unit else "")
        rows.append(f"| `{constant}` | `{module.replace('.', '/')}.py` | {shown} | {meaning} |")
    return "\n".join(rows)


CLIENT_LIMITS = [
    ("client.options:KEY_LENGTH_MAX", "", "characters of an idempotency key"),
    ("client.connecting:CONNECT_S_MAX", "s", "to connect, or `silence` if that is shorter"),
    ("client.patience:BACKOFF_MAX_S", "s", "of a pause that the gateway did not ask for"),
    ("client.refusals:RETRY_AFTER_S_MAX", "s", "of a `Retry-After`; a longer one counts as this"),
    ("client.streaming:RETRY_S_MAX", "s", "of a stream's `retry:`; a longer one counts as this"),
    (
        "client.talk:ANSWER_S_MAX",
        "s",
        "beside `silence` for the answer of `submit` with `wait=math.inf` and no `budget`",
    ),
    ("client.sse:MESSAGE_BYTES_MAX", "bytes", "of one event; no gateway sends a larger one"),
    ("client.talk:PROBLEM_BYTES_MAX", "bytes", "that are read of an answer that is no success"),
]


def client_limits_table() -> str:
    return limits_table(CLIENT_LIMITS)


def metrics_tables() -> str:
    parts = []
    for title, table in METRICS.items():
        rows = [f"## {title}", "", "| metric | labels | in OpenTelemetry | |", "|---|---|---|---|"]
        for each in table:
            labels = ", ".join(f"`{label}`" for label in each.labels)
            otel = f"`{each.otel_name}`, `{each.unit}`" if each.unit else f"`{each.otel_name}`"
            rows.append(f"| `{each.shown_name}` {each.kind} | {labels} | {otel} | {each.meaning} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def delays_table() -> str:
    rows = ["| failed attempts | next attempt after |", "|---|---|"]
    for number, delay in enumerate(webhooks.DELAYS_S, 1):
        more = " and more" if number == len(webhooks.DELAYS_S) else ""
        rows.append(f"| {number}{more} | {_shown(delay)} s |")
    return "\n".join(rows)


def run_states() -> str:
    rows = ["| from | to |", "|---|---|"]
    for state, follow in TRANSITIONS.items():
        targets = ", ".join(f"`{each}`" for each in TRANSITIONS if each in follow)
        rows.append(f"| `{state}` | {targets or 'final'} |")
    return "\n".join(rows)


NOW = 1_000.0
DASH = "\N{EN DASH}"
OWNED = {
    "queued": Ownership("queued", None),
    "leased": Ownership("running", "worker-1"),
    "parked": Ownership("running", None, parked_until=math.inf),
    "assigned": Ownership("running", ENGINE),
    "ended": Ownership("completed", None),
}
RULES = {
    "claim": lambda run: ownership.claim(run, "worker-2", NOW),
    "assign": lambda run: ownership.assign(run, NOW),
    "release": lambda run: _held(run, ownership.release),
    "park": lambda run: _held(run, lambda run: ownership.park(run, math.inf, seen=0, sent=0)),
    "unpark": lambda run: ownership.unpark(run, math.inf),
    "signal": lambda run: run if run.status == "completed" else ownership.signal(run, "run", 0, 0),
    "cancel": ownership.cancel,
    "finish": lambda run: _held(run, lambda run: ownership.finish(run, "completed")),
}


def ownership_table() -> str:
    """Each rule, called on a run in each state; a dash where it changes nothing or is refused."""
    rows = [f"| rule | {' | '.join(OWNED)} |", "|---|" + "---|" * len(OWNED)]
    for name, rule in RULES.items():
        rows.append(f"| `{name}` | {' | '.join(_cell(run, rule(run)) for run in OWNED.values())} |")
    return "\n".join(rows)


def _held(run: Ownership, rule: Callable[[Ownership], Ownership]) -> Ownership | None:
    """Only a lease makes this move, and a queued, parked or ended run has none."""
    return None if run.owner is None else rule(run)


def _cell(before: Ownership, after: Ownership | None) -> str:
    return DASH if after is None or _state_of(after) == _state_of(before) else _state_of(after)


def _state_of(run: Ownership) -> str:
    if run.status != "running":
        return "queued" if run.status == "queued" else "ended"
    return "parked" if run.owner is None else "assigned" if run.owner == ENGINE else "leased"


def leaving_table() -> str:
    """The table of moves, and the functions that make each."""
    makers: dict[str, dict[str, None]] = {}
    for path in sorted((ROOT / "src" / "offramp").rglob("*.py")):
        for move, function in _moves(path):
            link = f"[`{function}`](../../{path.relative_to(ROOT).as_posix()})"
            makers.setdefault(move, {})[link] = None
    rows = ["| move | from | to | made by |", "|---|---|---|---|"]
    for move in get_args(leaving.Move):
        ways: dict[str, list[str]] = {}
        for state, moves in leaving.MOVES.items():
            if move in moves:
                ways.setdefault(moves[move], []).append(f"`{state}`")
        for target, sources in ways.items():
            rows.append(f"| `{move}` | {', '.join(sources)} | `{target}` | {', '.join(makers[move])} |")
    return "\n".join(rows)


def _moves(path: Path) -> Iterator[tuple[str, str]]:
    """Every call that names a move, as `scope.move("leave")` does: the move, and the function around it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for owner in (each for each in ast.walk(tree) if isinstance(each, ast.ClassDef | ast.Module)):
        for function in owner.body:
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            name = f"{owner.name}.{function.name}" if isinstance(owner, ast.ClassDef) else function.name
            for call in (each for each in ast.walk(function) if isinstance(each, ast.Call)):
                parts = [call.func, *call.args]
                if any(isinstance(part, ast.Attribute) and part.attr.startswith("move") for part in parts):
                    named = [part.value for part in call.args if isinstance(part, ast.Constant)]
                    yield from ((move, name) for move in get_args(leaving.Move) if move in named)


def _range(bounds: Mapping[str, float]) -> str:
    # Not as `describe` shows them: it rounds large ones.
    return f"{_shown(bounds['low'])} to {_shown(bounds['high'])}" if "low" in bounds else ""


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        return f"`{value}`" if value else "none"
    number = float(value)  # type: ignore[arg-type]
    return f"{number:,.0f}" if number.is_integer() else f"{number:g}"


PARTS = {
    "settings": ("docs/reference/settings.md", settings_table),
    "events": ("docs/reference/events.md", events_list),
    "limits": ("docs/reference/limits.md", met_tables),
    "bounds": ("docs/contributing/bounds.md", limits_tables),
    "client-limits": ("docs/reference/client.md", client_limits_table),
    "delays": ("docs/reference/webhooks.md", delays_table),
    "metrics": ("docs/reference/metrics.md", metrics_tables),
    "run-states": ("docs/contributing/architecture.md", run_states),
    "ownership": ("docs/contributing/architecture.md", ownership_table),
    "leaving": ("docs/contributing/architecture.md", leaving_table),
}


def part_of(text: str, name: str) -> str:
    found = re.search(rf"<!-- begin {name} -->\n\n(.*?)\n\n<!-- end {name} -->", text, re.DOTALL)
    assert found, f"no part {name}"
    return found[1]


def write() -> None:
    for name, (place, made) in PARTS.items():
        path = ROOT / place
        text = path.read_text(encoding="utf-8")
        start, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, after = text.partition(start)[0], text.partition(end)[2]
        path.write_text(f"{before}{start}\n\n{made()}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    write()
