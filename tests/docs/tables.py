"""The parts of the docs that are made from the code. `python tests/docs/tables.py` writes them anew.

A part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; test_tables.py compares it with what is made here.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from offramp.core import events, webhooks
from offramp.core.run import Route, links
from offramp.core.spec import DEMOTION_MESSAGE
from offramp.settings import Settings
from offramp.telemetry.instruments import GATEWAY, RUNTIME

ROOT = Path(__file__).resolve().parents[2]
RUN = "run_01M80556NBCJM5ZX4VNNF0PSDB"
AT = "2026-11-21T22:55:43.275Z"
KEY = "write:fa8d97716c33ac4c:0"
ERROR = {"code": "step-failed", "message": "ConnectionError: refused", "step": "write", "attempt": 1}

EXAMPLES: list[events.Body] = [
    events.RunAccepted(
        "research", None, "fast", "interactive", Route("fast", ["a budget of 2 s (class 'interactive')"])
    ),
    events.StepStarted("write", KEY, 1),
    events.StepDelta("write", KEY, 1, msgspec.Raw(b'"Why? "')),
    events.StepRetrying("write", KEY, 1, ERROR, 412.5),
    events.StepCompleted("write", KEY, 2, 281.4),
    events.StepFailed("write", KEY, 3, 12.0, ERROR | {"attempt": 3}),
    events.WaitStarted("signal", "approved", "offramp.signal:9d8f3f3f0f6a1c55:0", "2026-11-24T22:55:43.275Z"),
    events.WaitEnded("signal", "approved", "offramp.signal:9d8f3f3f0f6a1c55:0", "received"),
    events.RunDemoted("budget", 2000.0, 2000.326, DEMOTION_MESSAGE, links(RUN)),
    events.RunResumed("worker-1-eb1bfd708d2b", 8, "demotion"),
    events.RunCompleted(result=msgspec.Raw(b'"Why? 10 notes say it."')),
    events.RunFailed(ERROR),
    events.RunCancelled(
        {"code": "cancelled", "message": "RunCancelled: the run was cancelled", "step": None, "attempt": None}
    ),
    events.RunExpired({"code": "deadline", "message": "RunExpired: …", "step": None, "attempt": None}),
]

METRICS = {"Of every process that executes runs": RUNTIME, "Of a gateway": GATEWAY}

# Where each bound of docs/limits.md lives, how it is shown, what it bounds, and how it can be changed.
LIMITS: list[tuple[str, list[tuple[str, str, str]]]] = [
    (
        "Declarations",
        [
            ("core.names:NAME_LENGTH_MAX", "", "characters of a name of an app, pipeline, step or class"),
            ("core.spec:MESSAGE_LENGTH_MAX", "", "characters of a `demotion_message`"),
            ("core.retry:RETRY_ATTEMPTS_MAX", "", "attempts of a `Retry`"),
            ("core.models:ADAPTERS_MAX", "", "annotations whose pydantic adapter is kept; others are made anew"),
            ("core.planner:CLASSES_MAX", "", "classes of objects below `Any` of which a process keeps what it knows"),
            ("core.sla:PRIORITY_MAX", "", "largest `priority` of an SLA class, and its negative the smallest"),
            ("core.sla:BUDGET_DEFAULT_S", "s", "budget where nothing says another"),
            ("core.spec:RETENTION_DEFAULT_S", "s", "retention where the pipeline says no other"),
            ("core.spec:SHORT_TIMEOUT_S", "s", "a step with `short=True` may take"),
        ],
    ),
    (
        "Requests",
        [
            ("gateway.connections:HEAD_BYTES_MAX", "bytes", "of a request's line and headers; then 431"),
            ("gateway.connections:CROWDED_HEAD_S_MAX", "s", "the same where no connection fits; then it is closed"),
            ("gateway.connections:HEAD_S_MAX", "s", "for a request's line and headers to arrive; then 408"),
            ("gateway.connections:BODY_S_MAX", "s", "for a body to arrive, and more by what it brings; then 408"),
            ("gateway.connections:BODY_BYTES_PER_S_MIN", "bytes", "of a body that give it another second"),
            ("gateway.lingering:LINGER_S", "s", "in which what a refused client still sends is thrown away"),
            ("gateway.server:KEEP_ALIVE_S", "s", "an idle connection is kept"),
            ("gateway.descriptors:FILES_RESERVED", "", "open files kept from connections; a quarter, if that is less"),
            ("gateway.descriptors:STREAMS_SHARE_MAX", "", "of the connections that fit may be streams; then 503"),
            (
                "gateway.accepting:REFUSED_MAX",
                "",
                "connections past those that fit at a time: probes are answered, others get 503",
            ),
            ("gateway.submission:DEPTH_MAX", "", "levels of objects and lists in a body"),
            ("gateway.submission:SESSION_ID_LENGTH_MAX", "", "characters of a `session_id`"),
            ("gateway.submission:METADATA_PAIRS_MAX", "", "pairs of metadata"),
            ("gateway.submission:METADATA_KEY_LENGTH_MAX", "", "characters of a key of metadata"),
            ("gateway.submission:METADATA_VALUE_LENGTH_MAX", "", "characters of a value of metadata"),
            (
                "gateway.negotiation:LIST_LENGTH_MAX",
                "",
                "characters of all `Prefer`, or all `Accept`, headers; then 431",
            ),
            ("gateway.negotiation:LIST_PARTS_MAX", "", "commas and semicolons in them; then 431"),
            ("gateway.negotiation:IDEMPOTENCY_KEY_LENGTH_MAX", "", "characters of an `Idempotency-Key`"),
            ("ports.mailbox:SIGNALS_MAX", "", "signals that one run may be sent"),
            ("ports.mailbox:SIGNALS_BYTES_MAX", "bytes", "of the values of all of them"),
            ("gateway.runs:LIMIT_MAX", "", "runs in a page of `GET /v1/runs`"),
            ("gateway.runs:LIMIT_DEFAULT", "", "runs in a page without `limit`"),
        ],
    ),
    (
        "Large values",
        [
            ("ports.blobs:PART_BYTES_MAX", "bytes", "of a part in which a result is passed on"),
            ("stores.blobs.blobs:THREADS", "", "reads and writes of one process at once"),
            ("execution.values:READS_AT_ONCE", "", "of one run's values that are read before its body is called"),
            ("execution.values:AGAIN_MOST_S", "s", "between attempts to reach objects that are away"),
            ("stores.blobs.remote:CONNECT_S", "s", "to connect to a bucket's server"),
            ("stores.blobs.remote:REQUEST_S", "s", "for one request to it"),
            ("stores.blobs.remote:RETRIES", "", "of a request that fails, by obstore"),
            ("stores.blobs.remote:RETRY_S", "s", "after which a request is not sent again"),
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
            ("gateway.keyring:CHECK_EVERY_S", "s", "a change of that file may go unnoticed"),
            ("paths.bounds:COUNT_AGAIN_S", "s", "open runs that other gateways took may go uncounted"),
            (
                "engines.embedded.queue_bound:COUNT_EVERY_S",
                "s",
                "runs in the queue that other gateways took may go uncounted",
            ),
            ("core.slo:TENANT_MINUTES", "", "minutes that a tenant's outcomes are counted together"),
        ],
    ),
    (
        "Answers and streams",
        [
            ("core.events:EMITTED_BYTES_MAX", "bytes", "of an emitted value as JSON; a larger one fails its step"),
            ("core.events:RESULT_INLINE_BYTES_MAX", "bytes", "of a result in `run.completed` and in listings"),
            ("core.recorded:MESSAGE_LENGTH_MAX", "", "characters of an error's message"),
            (
                "core.recorded:ARGUMENTS_BYTES_MAX",
                "bytes",
                "of an exception's arguments, of its attributes, of its notes and of its text, for a replay",
            ),
            ("core.recorded:CAUSES_MAX", "", "members of a group, or exceptions within one another, that are kept"),
            ("core.recorded:FAILURE_BYTES_MAX", "bytes", "about, of all that is kept of one error with its causes"),
            ("core.exact:DEPTH_MAX", "", "levels of containers in an exception's argument that comes back"),
            ("core.retry:CHAIN_MAX", "", "exceptions within one another that a `Retry` looks at"),
            (
                "execution.process_child:TRACEBACK_LENGTH_MAX",
                "",
                "characters of a traceback that a process lane notes on an exception",
            ),
            ("gateway.streams:RETRY_MS", "ms", "a reader is told to wait before it connects again"),
            ("gateway.streams:STALL_S_MAX", "s", "a stream's reader may take nothing"),
            ("gateway.ws:SLOW_S_MAX", "s", "a WebSocket's reader may take for one batch of events"),
            ("gateway.ws:MESSAGE_BYTES_MAX", "bytes", "of a WebSocket message from a client"),
            ("paths.deliver:TAIL_EVENTS_MAX", "", "newest events of a followed run in memory; older ones are read"),
            ("paths.deliver:TAIL_BYTES_MAX", "bytes", "of the same"),
        ],
    ),
    (
        "Webhooks",
        [
            ("core.webhooks:URL_LENGTH_MAX", "", "characters of a URL"),
            ("core.webhooks:BODY_BYTES_MAX", "bytes", "of a message with the run's result; a larger one goes without"),
            ("core.webhooks:GIVE_UP_AFTER_S", "s", "an event is tried again"),
            ("core.webhooks:SECRETS_MAX", "", "secrets that sign at a time"),
            ("egress.http:RESPONSE_BYTES_MAX", "bytes", "of an answer's body that are read"),
            ("egress.http:RESPONSE_S_MAX", "s", "that reading it takes"),
            ("egress.guard:ADDRESSES_MAX", "", "addresses of one host that are tried"),
            ("egress.guard:LOOKUPS", "", "hosts that are looked up at once"),
            ("paths.webhooks:CLAIM_MARGIN_S", "s", "a claim lasts longer than an attempt may take"),
            ("paths.webhooks:STOP_GRACE_S", "s", "attempts get to end when their process stops"),
            ("ports.outbox:CANDIDATES_MAX", "", "due entries that one claim looks at"),
            ("ports.outbox:UNDELIVERED_KEPT_S", "s", "an undelivered run is kept past its retention"),
        ],
    ),
    (
        "Telemetry",
        [
            ("telemetry.setup:CLOSE_S_MAX", "s", "that exporting what is left may hold up a process's end"),
            ("telemetry.setup:LANE_CLOSE_S_MAX", "s", "the same for a lane's process"),
            ("telemetry.setup:LANE_DELAY_MS", "ms", "spans of a lane's process wait to be exported"),
            ("telemetry.setup:TOLD_EVERY_S", "s", "between two lines of log about a backend that does not answer"),
            ("telemetry.tracing:WEBHOOK_CHILD_S_MAX", "s", "after its acceptance a run's webhooks are in its trace"),
            ("telemetry.tracing:PATH_LENGTH_MAX", "", "characters of a request's path that its span shows"),
            ("telemetry.context:SESSION_LENGTH_MAX", "", "characters of a session that comes as baggage"),
            ("telemetry.content:DECODED_BYTES_MAX", "bytes", "of a value that is looked through to be shown"),
            ("cli.check_telemetry:ANSWER_S_MAX", "s", "`offramp doctor` waits for the backend"),
        ],
    ),
    (
        "On Temporal",
        [
            ("ports.bodies:PAYLOAD_BYTES_MAX", "bytes", "of a step's arguments, its result, an input, a signal"),
            (
                "engines.temporal.body:DRAWN_MAX",
                "",
                "drawn values that a step's activity carries",
            ),
            ("engines.temporal.relay:HANDING_MAX", "", "runs that a worker hands to Temporal at a time"),
            ("engines.temporal.payloads:PAGE_BYTES_MAX", "bytes", "of a journal that a body reads at a time"),
            ("engines.temporal.body:STEP_MARGIN_S", "s", "an activity gets past its step's timeout"),
            ("engines.temporal.body:SHORT_MARGIN_S", "s", "a local activity gets past its step's timeout"),
            ("engines.temporal.known:LOCAL_S_MAX", "s", "for one attempt of a local activity of ours"),
            ("engines.temporal.engine:BODIES_CACHED_MAX", "", "bodies that a worker keeps; others are rebuilt"),
            ("engines.temporal.hop:SHARE_S_MAX", "s", "Temporal has to take a run whose steps are still in flight"),
            ("engines.temporal.steps:RECORDS_KEPT", "", "run records that a worker remembers"),
            ("ports.store:ENTRUSTED_GRACE_S", "s", "an engine gets past a deadline to end its run"),
        ],
    ),
    (
        "On Redis",
        [
            ("stores.redis.writer:BATCH_OPERATIONS_MAX", "", "operations that one script call applies"),
            ("stores.redis.writer:BATCH_BYTES_MAX", "bytes", "of these, unless one alone has more"),
            ("stores.redis.writer:RUN_EVENT_BYTES_MAX", "bytes", "of a run's events; then it cannot emit any more"),
            ("stores.redis.writer:MEMORY_SHARE_MAX", "", "of `maxmemory`; then no new run is taken"),
            ("stores.redis.writer:PATIENCE_S", "s", "requests wait for a server that is away; then 503"),
            ("stores.redis.writer:WRITE_TIMEOUT_S", "s", "the answer to a batch may take; then it is sent again"),
            ("stores.redis.writer:FSYNC_TIMEOUT_S", "s", "the server's disk may take with `fsync=`; then the same"),
            ("stores.redis.writer:BATCH_KEPT_S", "s", "the server remembers a writer's last batch"),
            ("stores.redis.writer:CLOSE_TIMEOUT_S", "s", "what is pending may take when a process stops"),
            ("stores.redis.writer:GIVEN_UP_MAX", "", "claims remembered of which the server refused a write for good"),
            ("stores.redis.connection:CONNECT_TIMEOUT_S", "s", "a connection may take"),
            ("stores.redis.connection:ANSWER_TIMEOUT_S", "s", "the answer to a read may take"),
            ("stores.redis.connection:READ_RETRIES", "", "times that a read is sent again"),
            ("stores.redis.leases:LEASE_TIMEOUT_S", "s", "the answer to a renewal may take"),
            ("stores.redis.leases:CLAIM_MAX", "", "runs that one claim takes"),
            ("stores.redis.reader:READERS", "", "connections that read"),
            ("stores.redis.store:EVENTS_READ_MAX", "", "events in one read"),
            ("stores.redis.store:EVENTS_READ_BYTES", "bytes", "of the same, after which no more are added"),
            ("stores.redis.store:EVENTS_LOOKED_AT_MAX", "", "events that one script looks at when deltas are skipped"),
            ("stores.redis.store:LIST_LOOKS_MAX", "", "runs that one page of a listing looks at"),
            ("stores.redis.store:PURGE_RUNS_MAX", "", "runs that one script removes"),
            ("stores.redis.store:UNPURGED_KEPT_S", "s", "past their time keys expire by themselves"),
            ("cli.check_redis:ANSWER_S_MAX", "s", "`offramp doctor` waits for an answer of Redis"),
            ("stores.redis.hints:PENDING_MAX", "", "hints that wait to be sent; more are not kept"),
            ("stores.redis.hints:SETTLE_S", "s", "runs that are followed are collected before they are subscribed to"),
            ("stores.redis.hints:HINT_BYTES_MAX", "bytes", "of a message that is read"),
            ("stores.redis.hints:PING_EVERY_S", "s", "the server gets to answer a PING of the subscribed connection"),
            ("stores.redis.hints:RETRY_CAP_S", "s", "at most between two attempts to subscribe again"),
        ],
    ),
    (
        "Inside",
        [
            (
                "gateway.runs:LOOKS_PER_TIMEOUT",
                "",
                "looks in a `write_timeout` whether the end of a run cannot be written",
            ),
            ("stores.sqlite.writer:TROUBLE_S_MIN", "s", "after the last write that was refused `/readyz` stays 503"),
            ("paths.demote:BOUNDARY_GRACE_S", "s", "a body without a step in flight gets at a demotion"),
            ("paths.slo:WRITE_EVERY_S", "s", "outcomes may be missing from `/v1/slo`; what a crash loses of them"),
            ("paths.purge:DUTY_S", "s", "others wait for a purging process that was killed"),
            ("paths.purge:REST", "", "times what a step of a purge took, it rests before the next"),
            ("paths.purge:REST_S_MAX", "s", "of the same at most"),
            ("paths.upkeep:LEARN_EVERY_S", "s", "another process may not know how long runs took; what a crash loses"),
            ("paths.slo:LOOK_EVERY_S", "s", "the metrics of service levels may be old"),
            ("core.slo:KEPT_MINUTES", "", "minutes for which outcomes are counted"),
            ("paths.demote:PARK_AFTER_S", "s", "a deep run only waits before it is parked"),
            ("paths.demote:PARK_FOR_S_MIN", "s", "a wait has left for its run to be parked"),
            ("core.ending:CLEANUP_S_MAX", "s", "all cleanups of a run may take together, and one `timeout` may be"),
            ("execution.ending:STRIKE_S_MAX", "s", "the replay of a run that is to end may take before it is ended"),
            ("ports.store:ENTRUSTED_GRACE_S", "s", "Temporal gets past a deadline to end a run, cleanup included"),
            ("execution.scope:DIVERGENCE_GRACE_S", "s", "a replay may stand still before it counts as divergence"),
            (
                "paths.replay:CUTS_MAX",
                "",
                "places at which `testing.replays` calls a run again as if interrupted",
            ),
            ("rehearsal:SEEDS_TRIED_MAX", "", "hash seeds that are looked at for one in which sets have another order"),
            ("rehearsal:TIMEOUT_S", "s", "for the replays of `testing.replays` and `offramp check` in another process"),
            ("execution.scope:TIMEOUT_GRACE_S", "s", "the same at a step that a timer may still end"),
            ("execution.timers:NOTED_AFTER_S", "s", "old a body's timer is when its time is written down"),
            ("execution.timers:FRONTIER_S", "s", "after the last recorded result a replay's timers count from that"),
            ("execution.turns:SETTLE_TURNS", "", "turns of the loop that a body of several tasks gets between results"),
            ("execution.turns:IDLE_TURNS_MAX", "", "turns of the loop a replay waits for the recorded order"),
            ("execution.threads:HELD_FACTOR", "", "times `threads` threads there may be, held ones among them"),
            ("execution.leftovers:LINES_MAX", "", "lines of held threads that `/readyz` and a log line name"),
            ("execution.processes:START_TIMEOUT_S", "s", "for a lane process to start"),
            ("core.claims:SUSPECT_DEATHS", "", "deaths, then a run is tried among half of those that it died with"),
            ("core.claims:HEADS_MAX", "", "queued suspects that one claim looks at"),
            ("paths.deep:STEPLESS_DEATHS_FACTOR", "", "times `process_deaths` where no step was in flight"),
            ("execution.processes:LEAVE_S_MAX", "s", "for a traced one to end"),
            ("engines.embedded.engine:CLAIM_MAX", "", "runs taken by one claim"),
            ("ports.hints:IDS_MAX", "", "runs named by one hint"),
            ("stores.sqlite.custody:CHECK_S_MAX", "s", "the first process looks for damage after an unclean end"),
            ("stores.sqlite.custody:LOCK_S_MAX", "s", "a process waits for one that looks for damage or restores"),
            ("stores.sqlite.machine:BEAT_S", "s", "a process shows so often that its machine has the database open"),
            ("stores.sqlite.machine:SILENT_S", "s", "another machine is silent for so long before it opens here"),
            ("stores.sqlite.machine:GONE_S", "s", "the same by the clocks of both, and then nothing is waited for"),
            ("stores.sqlite.writer:BATCH_OPERATIONS_MAX", "", "operations in one commit"),
            ("stores.sqlite.batch:CHUNK_BYTES_MAX", "bytes", "of events in one row, about"),
            ("stores.sqlite.database:READERS", "", "threads that read, with a connection each"),
            ("stores.sqlite.listing:LIST_LOOKS_MAX", "", "runs that one page of a listing by several filters looks at"),
            (
                "stores.sqlite.purge:PURGE_ROWS_MAX",
                "",
                "rows that one step of a purge removes, or pages of larger ones",
            ),
            ("stores.sqlite.purge:PURGE_ROWS_MIN", "", "of the same, where steps take long"),
            ("stores.sqlite.purge:STEP_S", "s", "a step of a purge may take before the next one removes less"),
            ("stores.sqlite.purge:TOMBSTONE_S", "s", "a run without its data is still known by its id"),
            ("stores.sqlite.purge:SPARE_PAGES", "", "free pages that stay in the file"),
            ("stores.sqlite.purge:SPARE_SHARE", "", "the same, of the pages in use"),
            ("stores.sqlite.purge:CUT_PAGES_MAX", "", "free pages that one step cuts off the file"),
            ("stores.sqlite.purge:CUT_PAGES_MIN", "", "of the same, where steps take long"),
            (
                "stores.sqlite.purge:CHECKPOINT_STEPS",
                "",
                "steps of a purge from one copy of the WAL into the file to the next",
            ),
            ("cli.supervisor:ABORT_S", "s", "a worker that hung gets to write its stacks before it is killed"),
            ("cli.waterfall:ROWS_MAX", "", "steps and waits that `offramp show` draws"),
            ("cli.supervisor:BACKOFF_MAX_S", "s", "between two starts of a worker that keeps dying"),
            ("cli.supervisor:KILL_MARGIN_S", "s", "a worker gets past its drain before it is killed"),
            ("gateway.probes:TURN_S_MAX", "s", "a worker's control loop may take to answer `/healthz`"),
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
            f"### {name}\n\n{(kind.__doc__ or '').strip()} Adds {adds}.\n\n"
            f"```json\n{json.dumps(example, ensure_ascii=False)}\n```"
        )
    return "\n\n".join(parts)


def limits_tables() -> str:
    parts = []
    for title, limits in LIMITS:
        rows = [f"## {title}", "", "| name | in | value | bounds |", "|---|---|---|---|"]
        for place, unit, meaning in limits:
            module, _, constant = place.partition(":")
            value = getattr(importlib.import_module(f"offramp.{module}"), constant)
            shown = _shown(value) + (f" {unit}" if unit else "")
            rows.append(f"| `{constant}` | `{module.replace('.', '/')}.py` | {shown} | {meaning} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


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
    "settings": ("docs/settings.md", settings_table),
    "events": ("docs/events.md", events_list),
    "limits": ("docs/limits.md", limits_tables),
    "delays": ("docs/webhooks.md", delays_table),
    "metrics": ("docs/metrics.md", metrics_tables),
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
