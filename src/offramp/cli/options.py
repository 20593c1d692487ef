"""The options and arguments that several commands share, each declared once.

The option of a setting has no default: without it, the value comes from `OFFRAMP_*`, offramp.toml, then `Settings`.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from offramp.cli.completion import complete_pipeline, complete_served_pipeline, complete_target
from offramp.settings import Settings

_DESCRIBED = {name: (default, doc) for name, default, _, doc in Settings.describe()}


def setting(name: str, *flags: str, metavar: str | None = None, panel: str | None = None) -> Any:
    """The option of a field of `Settings`, with its meaning, default and variable."""
    default, doc = _DESCRIBED[name]
    shown = f"{default:g}" if isinstance(default, (int, float)) else default or "none"
    return typer.Option(
        *(flags or (f"--{name.replace('_', '-')}",)),
        envvar=f"OFFRAMP_{name.upper()}",
        help=doc[:1].upper() + doc[1:] + ".",
        show_default=shown,
        metavar=metavar,
        rich_help_panel=panel,
    )


Target = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:APP",
        help="Your App: a dotted module or a path to a .py file, then its name ('app' if left out).",
        autocompletion=complete_target,
    ),
]
LocalPipeline = Annotated[
    str | None,
    typer.Argument(
        metavar="PIPELINE", help="Which pipeline; not needed if it is the only one.", autocompletion=complete_pipeline
    ),
]
ServedPipeline = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="Which pipeline.", autocompletion=complete_served_pipeline)
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id, run_… .")]
Data = Annotated[str | None, setting("data", metavar="DIR")]
# No variable: that of a setting is read as such, and does not contradict the folder of an embedded engine's URL.
WorkerData = Annotated[
    str | None,
    typer.Option("--data", metavar="DIR", help="Folder of the database, with Temporal.", show_default=False),
]
Engine = Annotated[str | None, setting("engine", metavar="URL")]
Store = Annotated[str | None, setting("store", metavar="URL")]
Objects = Annotated[str | None, setting("objects", metavar="PLACE")]
WriteTimeout = Annotated[float | None, setting("write_timeout", metavar="SECONDS")]
DrainTimeout = Annotated[float | None, setting("drain_timeout", metavar="SECONDS")]
Host = Annotated[
    str, typer.Option("--host", envvar="OFFRAMP_HOST", help="Address to listen on; beyond this machine it needs keys.")
]
Port = Annotated[
    int, typer.Option("--port", envvar="OFFRAMP_PORT", min=0, max=65_535, help="Port to listen on; 0 for any free one.")
]


def _unless_default(context: typer.Context, option: typer.CallbackParam, value: str) -> str | None:
    """None for an option that was not given: offramp.toml may have another value than its default."""
    source = context.get_parameter_source(str(option.name))
    return None if source is None or source.name == "DEFAULT" else value


Workers = Annotated[
    str | None,
    typer.Option(
        "--workers",
        envvar="OFFRAMP_WORKERS",
        metavar="N|A..B",
        help="Worker processes beside the gateway, at least the sum of the classes' min_warm, at most 1,024; 2..8 for "
        "as many as the queue needs; 0 if they are started elsewhere.",
        callback=_unless_default,
    ),
]
WorkerMetrics = Annotated[str | None, setting("worker_metrics", metavar="HOST:PORT")]
LogFormat = Annotated[str | None, setting("log_format", metavar="FORMAT")]
TenantShare = Annotated[float | None, setting("tenant_share", metavar="SHARE")]
MaxBudget = Annotated[float | None, setting("max_budget", metavar="SECONDS")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        help="Answer to this host name too while there are no API keys; repeatable.",
        show_default=False,
    ),
]
Cors = Annotated[
    list[str] | None,
    typer.Option(
        "--cors",
        metavar="ORIGIN",
        help="Let web pages of this origin use the API, such as https://app.example; repeatable; "
        "'*' is any, only without API keys.",
        show_default=False,
    ),
]
RootPath = Annotated[str | None, setting("root_path", metavar="PATH")]
Insecure = Annotated[
    bool, typer.Option("--insecure", envvar="OFFRAMP_INSECURE", help="Listen beyond this machine without API keys.")
]
Reload = Annotated[
    bool,
    typer.Option("--reload", help="For development: reload the App when its files change. No run is lost."),
]
URL_DEFAULT = "http://127.0.0.1:8000"
Url = Annotated[
    str,
    typer.Option("--url", envvar="OFFRAMP_URL", help="The gateway's address, with the prefix it is mounted under."),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="OFFRAMP_API_KEY",
        help="Sent as a bearer token. Better set by the variable: other users can see arguments.",
        show_default=False,
    ),
]
Input = Annotated[
    str,
    typer.Option("--input", "-i", metavar="JSON", help="The pipeline's arguments: JSON, @FILE, or - for stdin."),
]
Session = Annotated[
    str | None, typer.Option("--session", help="The conversation this run belongs to.", show_default=False)
]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget",
        metavar="SECONDS",
        help="How long the run may stay on the fast path.",
        show_default="the pipeline's",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        help="The same key with the same request again does nothing new.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]


def epilog(*examples: str, exits: str = "") -> str:
    """The end of a command's help: examples, each on its own line, and the exit codes."""
    # A paragraph that begins with a backspace is not wrapped, so that examples can be copied.
    shown = "\n\n".join(f"\b\n  {example}" for example in examples)
    return f"Examples:\n\n{shown}\n\n{exits}"
