"""Two tenants of one `offramp serve`: one fills its share, the other is served all the same."""

from __future__ import annotations

import contextlib
import sys

import httpx
import pytest

from tests.cli.harness import running

SECRETS = {"ann": "ann-0123456789abcdef", "bob": "bob-0123456789abcdef"}
KEYS = {"OFFRAMP_API_KEYS": ",".join(f"tenant-{name}/{name}:{secret}" for name, secret in SECRETS.items())}
ASYNC = {"Prefer": "respond-async"}
SSE = {"Accept": "text/event-stream"}


@contextlib.contextmanager
def clients(project, *options, env=KEYS, prefix=()):
    """One client for each key of a gateway without workers: what is deep waits."""
    with running(*options, "--port", "0", "--workers", "0", cwd=project, env=env, prefix=prefix) as command:
        url = command.wait_for(r"at (http://127.0.0.1:\d+),")[1]
        with contextlib.ExitStack() as stack:
            yield [
                stack.enter_context(
                    httpx.Client(
                        base_url=url,
                        headers={"Authorization": f"Bearer {secret}"},
                        timeout=20,
                        trust_env=False,
                        limits=httpx.Limits(max_connections=None),
                    )
                )
                for secret in SECRETS.values()
            ]


def submit(client, **headers):
    answer = client.post("/v1/pipelines/audit/runs", json={"input": {"gates": ["never"]}}, headers=ASYNC | headers)
    if answer.status_code == 429:
        assert answer.json()["type"] == "urn:offramp:error:tenant-busy"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "60", "nothing has left the queue"
    return answer.status_code


def opened(stack, client, method, path, **given):
    """The status of a stream that stays open until the stack closes."""
    answer = stack.enter_context(client.stream(method, path, headers=SSE, **given))
    if answer.status_code == 429:
        answer.read()
        assert answer.json()["type"] == "urn:offramp:error:tenant-busy"
        assert int(answer.headers["retry-after"]) >= 1
    return answer.status_code


def test_the_queue(project):
    with clients(project, "serve", "desk.py", env=KEYS | {"OFFRAMP_QUEUE_RUNS": "10"}) as (ann, bob):
        assert [submit(ann) for _ in range(7)] == [202] * 5 + [429] * 2
        assert [submit(bob) for _ in range(3)] == [202] * 2 + [429]


@pytest.mark.parametrize(
    ("env", "options", "statuses"),
    [
        (KEYS, ("--tenant-share", "0.2"), [202] * 2 + [429] * 10),
        (KEYS | {"OFFRAMP_TENANT_SHARE": "0.8"}, (), [202] * 8 + [429] * 4),
        (KEYS, ("--tenant-share", "1"), [202] * 10 + [503] * 2),
        ({}, (), [202] * 10 + [503] * 2),
    ],
    ids=["option", "variable", "whole", "without keys"],
)
def test_the_share_is_a_setting_and_the_whole_without_keys(project, env, options, statuses):
    env = env | {"OFFRAMP_QUEUE_RUNS": "10"}
    with clients(project, "serve", "desk.py", *options, env=env) as (ann, _):
        assert [submit(ann) for _ in range(12)] == statuses


def test_the_fast_path(project):
    (project / "offramp.toml").write_text("fast_runs = 4\n")
    hold = {"json": {"input": {"gates": ["never"]}, "class": "interactive"}}
    with clients(project, "serve", "desk.py") as (ann, bob), contextlib.ExitStack() as stack:
        path = "/v1/pipelines/audit/runs"
        assert [opened(stack, ann, "POST", path, **hold) for _ in range(3)] == [200, 200, 429]
        assert [opened(stack, bob, "POST", path, **hold) for _ in range(2)] == [200, 429]


@pytest.mark.skipif(sys.platform == "win32", reason="it has no limit on open files")
def test_streams(project):
    """240 open files: 180 for connections, of which 162 may be streams."""
    prefix = ("bash", "-c", 'ulimit -n 240; exec "$@"', "bash")
    with clients(project, "serve", "desk.py", prefix=prefix) as (ann, bob), contextlib.ExitStack() as stack:
        made = [
            client.post("/v1/pipelines/audit/runs", json={"input": {"gates": ["never"]}}, headers=ASYNC).json()
            for client in (ann, bob)
        ]
        events = [run["links"]["events"] for run in made]
        assert [opened(stack, ann, "GET", events[0]) for _ in range(82)] == [200] * 81 + [429]
        assert opened(stack, bob, "GET", events[1]) == 200
