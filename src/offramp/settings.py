"""Every setting, in one frozen object: from arguments, then `OFFRAMP_*` variables, then offramp.toml, then defaults.

Owns names, types, defaults and bounds. No other module reads the environment.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

from offramp.core.addresses import WEBHOOK_PORTS, parse_allowed, parse_listen, parse_ports, parse_root_path
from offramp.core.names import did_you_mean
from offramp.core.origins import parse_origins
from offramp.core.scaling import parse_workers
from offramp.core.webhooks import parse_secrets
from offramp.errors import SettingsError

LOG_FORMATS = ("text", "logfmt", "json")
_READ_ELSEWHERE = frozenset(
    f"OFFRAMP_{name}" for name in ("HOST", "PORT", "INSECURE", "URL", "API_KEY", "SUPERVISED", "CRASH_AT", "CRASH_MARK")
)
"""Variables of the command line only, and of communication between its processes and tests."""


def _setting(default: Any, low: float, high: float, doc: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "doc": doc})


def _flag(doc: str, *, default: bool = False) -> Any:
    return field(default=default, metadata={"doc": doc, "flag": True})


def _text(
    default: str,
    doc: str,
    *,
    reads: Callable[[str], object] | None = None,
    secret: bool = False,
    shown: bool = True,
) -> Any:
    """`reads` raises ValueError for invalid text; a secret is refused in a file and never `shown`."""
    return field(default=default, metadata={"doc": doc, "reads": reads, "secret": secret}, repr=shown and not secret)


def _log_format(text: str) -> None:
    if text not in LOG_FORMATS:
        raise ValueError(f"it is one of {', '.join(LOG_FORMATS)}, got {text!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings; each field is `OFFRAMP_<NAME>` in the environment and `<name>` in offramp.toml.

    `Settings.describe()` lists every field with its bounds and meaning. docs/reference/settings.md is made from it.
    """

    data: str = _text(".offramp", "folder of the embedded engine's database")
    engine: str = _text(
        "embedded:",
        "engine of deep runs: embedded: (SQLite under `data`), or temporal://host:port/namespace?task_queue=…",
    )
    temporal_api_key: str = _text("", "API key for the Temporal service, if it requires one", secret=True)
    store: str = _text(
        "",
        "store of runs and events: empty for SQLite under `data`, or redis://user:password@host:port/db?prefix=…",
        shown=False,
    )
    objects: str = _text(
        "", "store of large values: a folder, s3://bucket/prefix, gs://… or az://…; empty means the main store"
    )
    objects_above: int = _setting(
        256 << 10, 1024, 1 << 30, "bytes of an encoded step's or run's result above which it is stored in `objects`"
    )
    objects_patience: float = _setting(
        120.0, 0.0, 86_400.0, "seconds that a finished step waits for unavailable `objects`; then it fails"
    )
    max_budget: float = _setting(60.0, 0.0, 3600.0, "seconds; the largest budget a request may ask for")
    max_body_bytes: int = _setting(1 << 20, 1024, 1 << 30, "bytes of a request's body")
    max_result_bytes: int = _setting(
        8 << 20, 1024, 1 << 30, "bytes of a step's or a run's encoded result; a larger one fails it"
    )
    record_arguments: int = _setting(
        1 << 20,
        0,
        8 << 20,
        "bytes of a step's encoded arguments up to which they are recorded whole, to be read with `include=steps`; of "
        "larger ones the beginning; 0 records none",
    )
    tenant_runs: int = _setting(20_000, 1, 10_000_000, "runs of one tenant that are queued or running; past it 429")
    tenant_streams: int = _setting(
        5000, 1, 1_000_000, "event streams and WebSockets of one tenant in one gateway; past it 429"
    )
    tenant_share: float = _setting(
        0.5,
        0.01,
        1.0,
        "share of the queue, fast path, streams and readers left free by other tenants that one may use; past it "
        "429; 1 without API keys",
    )
    api_keys: str = _text("", "API keys, `[tenant/]name[+scope…]:secret` each, separated by commas", secret=True)
    api_keys_file: str = _text("", "file that `offramp keys` writes; empty means keys.json in `data`")
    allow_hosts: str = _text("", "host names, separated by commas, that a gateway without keys answers to; `*` is any")
    cors_origins: str = _text(
        "",
        "origins, separated by commas, whose web pages may use the API, such as https://app.example; `*` is any, only "
        "without API keys",
        reads=parse_origins,
    )
    root_path: str = _text(
        "",
        "path under which a proxy serves the gateway, such as /agents: links begin with it; requests may or may not",
        reads=parse_root_path,
    )
    workers: str = _text(
        "",
        "worker processes of `serve`: a number up to 1,024, 0 if they are started elsewhere, or a range such as 2..8; "
        "empty means 1, or the sum of the classes' `min_warm`",
        reads=parse_workers,
    )
    workers_idle: float = _setting(
        60.0, 0.1, 86_400.0, "seconds without need after which `serve` keeps fewer workers, within the range"
    )
    worker_runs: int = _setting(100, 1, 100_000, "deep runs that one worker executes at once")
    fast_runs: int = _setting(1000, 1, 100_000, "fast runs of one gateway at once; past it the lowest class goes deep")
    queue_runs: int = _setting(10_000, 1, 10_000_000, "deep runs that may wait for a worker; past it waits, then 503")
    process_deaths: int = _setting(
        3, 1, 1_000_000, "processes that may die or hang in a row while a run is the only suspect; then it fails"
    )
    threads: int = _setting(64, 1, 1024, "threads for sync steps, per process; as many again replace held ones")
    processes: int = _setting(
        0, 0, 256, "processes for lane='process', per process; 0 means one per core; never below a class's `min_warm`"
    )
    spare_loops: int = _setting(3, 0, 64, "spare run loops while another is blocked")
    blocked_after: float = _setting(0.1, 0.01, 60.0, "seconds after which a blocked run loop is reported")
    lease: float = _setting(10.0, 0.5, 600.0, "seconds after which a silent process loses its runs")
    poll: float = _setting(1.0, 0.05, 60.0, "seconds between fallback polls for lost notifications")
    sync_every: float = _setting(0.1, 0.005, 10.0, "seconds after which writes are synced even if nothing waits")
    write_timeout: float = _setting(
        5.0, 0.1, 600.0, "seconds that a request waits for one write or read of the store; then 503"
    )
    start_timeout: float = _setting(
        60.0, 0.1, 3600.0, "seconds that `on_start` hooks, `per_loop` clients and process lanes have to get ready"
    )
    drain_timeout: float = _setting(25.0, 0.0, 3600.0, "seconds that a stopping process has to hand over its runs")
    drain_on_signal: bool = _flag(
        "whether `app.asgi()` drains at once on the SIGTERM or SIGINT that its server handles; on or off", default=True
    )
    cancel_grace: float = _setting(
        5.0,
        0.0,
        600.0,
        "seconds for code to exit after a timeout, cancellation or deadline, cleanup aside; then it is abandoned",
    )
    heartbeat: float = _setting(5.0, 0.1, 60.0, "seconds between heartbeats in a silent stream")
    idempotency: float = _setting(86_400.0, 60.0, 31_536_000.0, "seconds an Idempotency-Key is kept")
    purge_every: float = _setting(60.0, 1.0, 86_400.0, "seconds between removals of runs past their retention")
    backlog_bytes: int = _setting(64 << 20, 1 << 16, 1 << 34, "bytes waiting to be written before emit() waits too")
    webhook_secret: str = _text(
        "",
        "secret that signs webhooks: whsec_ and base64; two, separated by a space, during rotation",
        reads=parse_secrets,
        secret=True,
    )
    webhook_allow: str = _text("", "non-public hosts, addresses and CIDRs that webhooks may go to", reads=parse_allowed)
    webhook_ports: str = _text(WEBHOOK_PORTS, "ports, and ranges of them, that webhooks may go to", reads=parse_ports)
    webhook_timeout: float = _setting(10.0, 0.1, 60.0, "seconds for one attempt to deliver a webhook message")
    webhook_attempts: int = _setting(64, 1, 10_000, "webhook messages that one process sends at once")
    webhook_attempts_per_host: int = _setting(4, 1, 1000, "webhook messages that one process sends to one host at once")
    trace_content: bool = _flag("whether traces show inputs, outputs and error messages, redacted and cut; on or off")
    trace_content_bytes: int = _setting(4096, 16, 1 << 20, "bytes of an input or output that a trace shows")
    worker_metrics: str = _text(
        "",
        "HOST:PORT (or PORT, on loopback) where a worker serves /metrics, /healthz and /readyz; "
        "worker N of `serve` takes PORT + N - 1",
        reads=parse_listen,
    )
    log_format: str = _text(
        "text", "log lines of `serve` and `worker`: text for a person, logfmt or json for a program", reads=_log_format
    )

    def __post_init__(self) -> None:
        """Check every value against its type and bounds."""
        for item in fields(self):
            object.__setattr__(self, item.name, _checked(item.name, getattr(self, item.name), item.metadata))

    @classmethod
    def load(
        cls,
        environment: Mapping[str, str] | None = None,
        file: Path | None = None,
        **given: Any,
    ) -> Settings:
        """Merge the sources; arguments that are None do not count.

        Args:
            environment: `os.environ` by default.
            file: `offramp.toml` in the working directory by default; it need not exist.
            given: settings by name, which win over all other sources.

        Raises:
            SettingsError: a name is unknown or a value is invalid; the message names the source.
        """
        environment = os.environ if environment is None else environment
        file = Path("offramp.toml") if file is None else file
        values = _from_file(file)
        for item in fields(cls):
            if item.metadata.get("secret") and item.name in values:
                raise SettingsError(f"{file.name}: {item.name} is a secret; give it as OFFRAMP_{item.name.upper()}")
        sources = dict.fromkeys(values, file.name)
        for item in fields(cls):
            variable = f"OFFRAMP_{item.name.upper()}"
            if environment.get(variable):
                values[item.name], sources[item.name] = environment[variable], variable
        values |= {name: value for name, value in given.items() if value is not None}
        unknown = set(values) - {item.name for item in fields(cls)}
        if unknown:
            name = min(unknown)
            source = f"{sources[name]}: " if name in sources and name not in given else ""
            hint = did_you_mean(name, [item.name for item in fields(cls)])
            raise SettingsError(f"{source}no setting {name!r}; {hint}")
        for item in fields(cls):
            if item.name in sources and given.get(item.name) is None:
                try:
                    _checked(item.name, values[item.name], item.metadata)
                except SettingsError as error:
                    raise SettingsError(f"{sources[item.name]}: {error}") from None
        return cls(**values)

    @classmethod
    def describe(cls) -> list[tuple[str, Any, str, str]]:
        """`(name, default, bounds, meaning)` of every setting."""
        return [
            (
                item.name,
                item.default,
                f"{item.metadata['low']:g} to {item.metadata['high']:g}" if "low" in item.metadata else "",
                item.metadata["doc"],
            )
            for item in fields(cls)
        ]


class Given(TypedDict, total=False):
    """The fields of `Settings` as keyword arguments; None stands for a setting that is not given."""

    data: str | os.PathLike[str] | None
    engine: str | None
    temporal_api_key: str | None
    store: str | None
    objects: str | os.PathLike[str] | None
    objects_above: int | None
    objects_patience: float | None
    max_budget: float | None
    max_body_bytes: int | None
    max_result_bytes: int | None
    record_arguments: int | None
    tenant_runs: int | None
    tenant_streams: int | None
    tenant_share: float | None
    api_keys: str | None
    api_keys_file: str | os.PathLike[str] | None
    allow_hosts: str | None
    cors_origins: str | None
    root_path: str | None
    workers: str | None
    workers_idle: float | None
    worker_runs: int | None
    fast_runs: int | None
    queue_runs: int | None
    process_deaths: int | None
    threads: int | None
    processes: int | None
    spare_loops: int | None
    blocked_after: float | None
    lease: float | None
    poll: float | None
    sync_every: float | None
    write_timeout: float | None
    start_timeout: float | None
    drain_timeout: float | None
    drain_on_signal: bool | None
    cancel_grace: float | None
    heartbeat: float | None
    idempotency: float | None
    purge_every: float | None
    backlog_bytes: int | None
    webhook_secret: str | None
    webhook_allow: str | None
    webhook_ports: str | None
    webhook_timeout: float | None
    webhook_attempts: int | None
    webhook_attempts_per_host: int | None
    trace_content: bool | None
    trace_content_bytes: int | None
    worker_metrics: str | None
    log_format: str | None


_FLAGS = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}


def unread(environment: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """`OFFRAMP_*` variables without effect, most likely misspelt, each with the nearest known one.

    They are not an error: an older version may meet a variable of a newer one.

    Args:
        environment: `os.environ` by default.
    """
    known = {f"OFFRAMP_{item.name.upper()}" for item in fields(Settings)} | _READ_ELSEWHERE
    given = os.environ if environment is None else environment
    strangers = sorted(name for name in given if name.startswith("OFFRAMP_") and name not in known)
    return [(name, did_you_mean(name.upper(), known)) for name in strangers]


def unread_warning(environment: Mapping[str, str] | None = None) -> str:
    """The same as one line for the log; empty if there are none."""
    return "; ".join(f"{name} is set, but nothing reads it: {hint}" for name, hint in unread(environment))


def _from_file(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{file.name} cannot be read: {error.strerror}") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file.name} is not TOML: {error}") from error


def _checked(name: str, value: Any, metadata: Mapping[str, Any]) -> Any:
    if "flag" in metadata:
        chosen = _FLAGS.get(str(value).strip().lower())
        if chosen is None:
            raise SettingsError(f"{name} must be on or off, got {value!r}; {metadata['doc']}")
        return chosen
    if "low" not in metadata:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if type(value) is int and metadata["reads"] is parse_workers:  # `workers = 4` in offramp.toml
            value = str(value)
        if not isinstance(value, str):
            got = type(value).__name__ if metadata["secret"] else repr(value)
            raise SettingsError(f"{name} must be text, got {got}")
        if metadata["reads"] is not None:
            try:
                metadata["reads"](value)
            except ValueError as error:
                raise SettingsError(f"{name}: {error}") from None
        return value
    wanted = type(metadata["low"])
    try:
        number = wanted(value)
        if isinstance(value, bool) or (isinstance(value, float) and number != value):
            raise ValueError(value)
    except (TypeError, ValueError):
        kind = "a whole number" if wanted is int else "a number"
        raise SettingsError(f"{name} must be {kind}, got {value!r}; {metadata['doc']}") from None
    if not metadata["low"] <= number <= metadata["high"]:
        raise SettingsError(
            f"{name} must be from {metadata['low']:g} to {metadata['high']:g}, got {value!r}; {metadata['doc']}"
        )
    return number
