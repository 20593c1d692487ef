"""Every name of metrics, labels, spans and attributes, in one table."""

RUNS_ACCEPTED = "offramp_runs_accepted"
RUNS_ENDED = "offramp_runs_ended"
RUN_DURATION = "offramp_run_duration_seconds"
FIRST_EVENT = "offramp_first_event_seconds"
QUEUE_WAIT = "offramp_queue_wait_seconds"
RUNS_LIVE = "offramp_runs_live"
RUNS_WAITING = "offramp_runs_waiting"
RUNS_PURGED = "offramp_runs_purged"
DEMOTIONS = "offramp_demotions"
DEMOTION_DELAY = "offramp_demotion_delay_seconds"
DEMOTION_GAP = "offramp_demotion_gap_seconds"
STEPS = "offramp_steps"
STEP_RETRIES = "offramp_step_retries"
STEP_TIMEOUTS = "offramp_step_timeouts"
STEPS_ABANDONED = "offramp_steps_abandoned"
THREADS_HELD = "offramp_threads_held"
LOOP_BLOCKS = "offramp_loop_blocks"
LOOP_BLOCKED = "offramp_loop_blocked_seconds"
COMMIT_DURATION = "offramp_commit_duration_seconds"
COMMIT_OPERATIONS = "offramp_commit_operations"
LEASES_LOST = "offramp_leases_lost"
COLD_START = "offramp_cold_start_seconds"
WORKERS_WARM = "offramp_workers_warm"
WORKERS_WANTED = "offramp_workers_wanted"
WEBHOOK_ATTEMPTS = "offramp_webhook_attempts"
WEBHOOKS_GIVEN_UP = "offramp_webhooks_given_up"
WEBHOOK_DELAY = "offramp_webhook_delay_seconds"
SLA_TARGET = "offramp_sla_target_seconds"
SLO_RUNS = "offramp_slo_runs"
SLO_WITHIN_TARGET = "offramp_slo_within_target_ratio"
SLO_BURN_RATE = "offramp_slo_burn_rate"
HTTP_REQUESTS = "offramp_http_requests"
HTTP_RESPONSE = "offramp_http_response_seconds"
OPEN_STREAMS = "offramp_open_streams"
EVENTS_SENT = "offramp_events_sent"

PIPELINE = "pipeline"
STEP = "step"
CLASS = "class"
PATH = "path"
OUTCOME = "outcome"
REASON = "reason"
RESULT = "result"
KIND = "kind"
WINDOW = "window"
METHOD = "method"
ROUTE = "route"
STATUS = "status"
TRANSPORT = "transport"

# Traces. The GenAI conventions are in development: these are the names of this version.
GENAI_CONVENTIONS = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"

SCOPE = "offramp"
"""The instrumentation scope of our spans."""

# Spans; a name follows after a space, unless the value is a whole name.
SPAN_RUN = "invoke_workflow"
SPAN_STEP = {"step": "offramp.step", "tool": "execute_tool", "agent": "invoke_agent", "llm": "chat"}
SPAN_WAIT = "offramp.wait"
SPAN_SEND = "send"
SPAN_PROCESS = "process"
SPAN_WEBHOOK = "offramp.webhook"

# Events on spans.
EVENT_DEMOTED = "run.demoted"
EVENT_RETRYING = "step.retrying"
EVENT_EXCEPTION = "exception"

# The session, on every span, under the name that each backend groups by.
BAGGAGE_SESSION = "agent_session_id"
SESSION = (BAGGAGE_SESSION, "gen_ai.conversation.id", "session.id", "langsmith.metadata.thread_id")

# Runs.
RUN_ID = "offramp.run.id"
RUN_PATH = "offramp.path"
RUN_CLASS = "offramp.class"
RUN_VERSION = "offramp.pipeline.version"
RUN_OUTCOME = "offramp.run.outcome"
RUN_ATTACHED = "offramp.run.attached"
ROUTE_REASONS = "offramp.route.reasons"
ROUTE_PREDICTED_MS = "offramp.route.predicted_ms"
BUDGET_MS = "offramp.budget_ms"
ELAPSED_MS = "offramp.elapsed_ms"
DEMOTION_REASON = "offramp.demotion.reason"
REPLAYED_STEPS = "offramp.replayed_steps"
ERROR_CODE = "offramp.error.code"
ERROR_STEP = "offramp.error.step"
TENANT = "offramp.tenant"

# Steps and waits.
STEP_NAME = "offramp.step.name"
STEP_KEY = "offramp.step.key"
STEP_LANE = "offramp.step.lane"
STEP_LABEL = "offramp.step.label"
STEP_ATTEMPT = "offramp.step.attempt"
STEP_ATTEMPTS = "offramp.step.attempts"
STEP_OUTCOME = "offramp.step.outcome"
DELAY_MS = "offramp.delay_ms"
QUEUE_WAIT_MS = "offramp.queue_wait_ms"
HANDOFF_MS = "offramp.handoff_ms"
WAIT_FOR = "offramp.wait.for"
WAIT_OUTCOME = "offramp.wait.outcome"

# Webhooks, and why one span is linked to another.
WEBHOOK_EVENT = "offramp.webhook.event"
WEBHOOK_ATTEMPT = "offramp.webhook.attempt"
WEBHOOK_RESULT = "offramp.webhook.result"
LINK = "offramp.link"

# GenAI conventions, see GENAI_CONVENTIONS.
OPERATION = "gen_ai.operation.name"
WORKFLOW = "gen_ai.workflow.name"
AGENT = "gen_ai.agent.name"
TOOL = "gen_ai.tool.name"
TOOL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_RESULT = "gen_ai.tool.call.result"
OPERATION_OF = {"tool": "execute_tool", "agent": "invoke_agent", "llm": "chat"}
NAME_OF = {"tool": TOOL, "agent": AGENT}

# OpenInference (arize-ai.github.io/openinference).
SPAN_KIND = "openinference.span.kind"
SPAN_KIND_OF = {"step": "CHAIN", "tool": "TOOL", "agent": "AGENT", "llm": "LLM"}
INPUT, INPUT_TYPE = "input.value", "input.mime_type"
OUTPUT, OUTPUT_TYPE = "output.value", "output.mime_type"
JSON = "application/json"

# OpenTelemetry's stable conventions.
ERROR_TYPE = "error.type"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
URL_PATH = "url.path"
URL_SCHEME = "url.scheme"
SERVER_ADDRESS = "server.address"
MESSAGING_SYSTEM = "messaging.system"
MESSAGING_OPERATION = "messaging.operation.type"
MESSAGING_DESTINATION = "messaging.destination.name"
