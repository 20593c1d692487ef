"""The files of deploy/ as data, and what they have to agree with: settings, commands, bounds of time and memory."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import yaml

from offramp.cli.supervisor import KILL_MARGIN_S
from offramp.engines.temporal.connection import CLOSE_S_MAX as TEMPORAL_S
from offramp.execution.loops import LoopThread
from offramp.execution.processes import LEAVE_S_MAX
from offramp.gateway.wire.server import CLOSE_S_MIN
from offramp.paths.webhooks import STOP_GRACE_S
from offramp.settings import Settings, unread
from offramp.stores.blobs.address import parse_objects
from offramp.stores.redis.address import Address
from offramp.stores.redis.writer import CLOSE_TIMEOUT_S as WRITER_S
from offramp.telemetry.setup import CLOSE_S_MAX as SPANS_S
from tests.cli.parsed import parse

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BASE = DEPLOY / "kubernetes" / "base"
TEMPORAL = DEPLOY / "kubernetes" / "temporal"

# What a process may take from the end of its drain to its exit, if all that can go wrong does: Redis is down, steps
# block every run loop, a backend for spans is dead.
LOOP_S = inspect.signature(LoopThread.close).parameters["timeout_s"].default
THREADS_S = 3.0  # that renew leases and watch loops
CLOSING_S = WRITER_S + LOOP_S * (2 + Settings().spare_loops) + THREADS_S + LEAVE_S_MAX + 0.5 + SPANS_S
GATEWAY_CLOSING_S = CLOSING_S + KILL_MARGIN_S + CLOSE_S_MIN + STOP_GRACE_S + LOOP_S
WORKER_CLOSING_S = CLOSING_S + TEMPORAL_S

PINNED = re.compile(r"[\w./-]+:(?!latest\b)[\w.-]*\d[\w.-]*")


def load(file):
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def documents(file):
    return [each for each in yaml.safe_load_all(file.read_text(encoding="utf-8")) if each]


def variables(file):
    """The variables of an env file."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def settings(environment):
    """The settings that these variables give; each is read by something, and is one that fits."""
    assert unread(environment) == []
    documented = (ROOT / "docs" / "reference" / "telemetry.md").read_text(encoding="utf-8")
    for name in environment:
        assert name.startswith("OFFRAMP_") or f"`{name}`" in documented, f"nothing says what {name} is"
    made = Settings.load(environment, Path("absent.toml"))
    Address.parse(made.store)
    parse_objects(made.objects, environment)
    return made


def commanded(words):
    """What `offramp` makes of a container's arguments; the App is one that the image has."""
    given = parse(words)
    module, _, name = given["target"].partition(":")
    package, _, rest = module.partition(".")
    source = copied()[package] / f"{rest}.py"
    assert re.search(rf"^{name} = App\(", source.read_text(encoding="utf-8"), re.MULTILINE)
    return given


def instructions():
    """The Dockerfile's, each as (word, rest), continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in lines.splitlines() if line.strip()]


def copied():
    """What the image has below /app, by name: folders of the repository."""
    pairs = [rest.split() for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    return {target: ROOT / source for *sources, target in pairs for source in sources if "/" in source}


def quantity_bytes(text):
    """Kubernetes' 256Mi, Docker's 512m."""
    number, unit = re.fullmatch(r"(\d+)([KMG]i|[kmg])", text).groups()
    return int(number) << {"k": 10, "m": 20, "g": 30}[unit[0].lower()]
