"""Secrets are planted wherever one can be given, well-formed and not; nothing that comes out may hold any of them."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import subprocess
import sys

import httpx
import psutil
import pytest

from offramp import App, emit
from offramp.core.keys import parse_keys
from offramp.gateway.access import Access
from offramp.gateway.asgi import Gateway
from offramp.gateway.keyring import Keyring
from offramp.settings import Settings
from offramp.wiring import build
from tests.chaos.serving import Serving
from tests.fuzz.campaign import frames
from tests.fuzz.corpus import frame
from tests.fuzz.serving import APP
from tests.gateway.conftest import serving
from tests.servers import free_port
from tests.support import eventually
from tests.webhooks.receiver import receiving

PLANTED = "planted"
GOOD = f"{PLANTED}-good-0123456789"
WRONG = f"{PLANTED}-wrong-0123456789"
SIGNING = f"{PLANTED}-signing-key-of-thirty-two-bytes"
WEBHOOK_SECRET = "whsec_" + base64.b64encode(SIGNING.encode()).decode()
ENCODED = base64.b64encode(f"user:{PLANTED}".encode()).decode()
SHOWN_BY_NOBODY = (PLANTED, WEBHOOK_SECRET.removeprefix("whsec_"), ENCODED)
HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {'A' * 22}==",
)
CREDENTIALS = (
    f"Authorization: Bearer {WRONG}",
    f"Authorization: Bearer {WRONG} {WRONG}",
    f"Authorization: {WRONG}",
    f"Authorization: Basic {ENCODED}",
    f"Authorization: Bearer {GOOD}\r\nAuthorization: Bearer {WRONG}",
    f"Authorization: Bearer {WRONG}\x01",
    f"X-Api-Key: {WRONG}\r\nCookie: key={WRONG}",
)
RUNS = "/v1/pipelines/echo/runs"


def assert_clean(output, where):
    text = output.decode("latin-1") if isinstance(output, bytes) else output
    found = [secret for secret in SHOWN_BY_NOBODY if secret in text]
    assert not found, f"{found} in {where}: …{text[max(0, text.index(found[0]) - 300) :][:600]}"


@pytest.fixture
def app():
    app = App("secrets")

    @app.step
    async def say(text: str) -> str:
        emit(text)
        return text

    @app.pipeline
    async def echo(text: str) -> str:
        return await say(text)

    @app.pipeline(budget=0)
    async def later(text: str) -> str:
        return await say(text)

    return app


class Caller:
    """Sends bytes, so that no client's own log is in the way, and keeps all that came back."""

    def __init__(self, port):
        self._port = port
        self.answers = []

    async def send(self, data, then=b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        async with asyncio.timeout(20):
            writer.write(data)
            answer = b""
            if then:
                answer = await reader.readuntil(b"\r\n\r\n")
                writer.write(then)
            answer += await reader.read()
        writer.close()
        self.answers.append(answer)
        return answer

    async def ask(self, method, path, *headers, key=GOOD, body=None):
        head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
        head += [f"Authorization: Bearer {key}"] if key else []
        head += [] if any("Upgrade" in header for header in headers) else ["Connection: close"]
        content = b"" if body is None else json.dumps(body).encode()
        head += [] if body is None else ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        answer = await self.send("\r\n".join(head).encode() + b"\r\n\r\n" + content)
        return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]

    async def ask_everything(self, hook):
        """Every endpoint with a good key, some with every wrong one, and secrets where they do not belong."""
        key = f'Idempotency-Key: "{PLANTED}-key"'
        status, body = await self.ask("POST", RUNS, key, body={"input": {"text": "x"}, "webhook": {"url": hook}})
        assert status == 200, body
        run = json.loads(body)["id"]
        for path in ("", "/events", "/result"):
            assert (await self.ask("GET", f"/v1/runs/{run}{path}"))[0] == 200
        for path in (
            "/v1/runs",
            "/v1/pipelines",
            "/v1/pipelines/echo",
            "/metrics",
            "/openapi.json",
            "/docs",
            "/readyz",
        ):
            assert (await self.ask("GET", path))[0] == 200
        assert (await self.ask("POST", f"/v1/runs/{run}/signals/go", key, body=1))[0] == 409
        stream = "Accept: text/event-stream"
        assert (await self.ask("POST", RUNS, stream, key, body={"input": {"text": "x"}, "webhook": {"url": hook}}))[
            0
        ] == 200
        assert (await self.ask("POST", RUNS, key, body={"input": {"text": "y"}}))[0] == 422
        assert (await self.ask("POST", RUNS, f'Idempotency-Key: "{PLANTED}', body={"input": {"text": "y"}}))[0] == 400
        await self._refused(run)
        return run

    async def _refused(self, run):
        for credential in CREDENTIALS:
            for path in ("/v1/runs", f"/v1/runs/{run}/events", "/metrics"):
                assert (await self.ask("GET", path, credential, key=None))[0] in {400, 401}
            assert (await self.ask("GET", f"/v1/runs/{run}/ws", credential, *HANDSHAKE, key=None))[0] in {400, 401}
        for protocols in (f"offramp.v1, offramp.bearer.{WRONG}", f"offramp.bearer.{WRONG},,"):
            status, _ = await self.ask(
                "GET", f"/v1/runs/{run}/ws", f"Sec-WebSocket-Protocol: {protocols}", *HANDSHAKE, key=None
            )
            assert status in {400, 401}
        for query in (f"?api_key={WRONG}", f"?limit=1&key={WRONG}"):
            assert (await self.ask("GET", f"/v1/runs{query}"))[0] == 422
        for body in (
            {"input": {"text": "x"}, "api_key": WRONG},
            {"input": {"text": "x", "key": WRONG}},
            {"input": {"text": "x"}, "webhook": {"url": f"https://user:{WRONG}@example.com/"}},
            {"input": {"text": "x"}, "webhook": {"url": f"http://10.0.0.1/{WRONG}"}},
            {"input": {"text": "x"}, "webhook": {"url": f"nothing:{WRONG}"}},
        ):
            assert (await self.ask("POST", RUNS, body=body))[0] == 422
        for data in (f"GET /?k={WRONG} HTTP/9.9\r\n\r\n", f"GET / HTTP/1.1\r\nAuthorization : Bearer {WRONG}\r\n\r\n"):
            assert (await self.send(data.encode())).startswith(b"HTTP/1.1 400")

    async def talk(self, run):
        """A WebSocket whose key is in its subprotocols, which then says what it should not."""
        head = [f"GET /v1/runs/{run}/ws HTTP/1.1", "Host: 127.0.0.1", *HANDSHAKE]
        head += [f"Sec-WebSocket-Protocol: offramp.v1, offramp.bearer.{GOOD}"]
        output = frame(1, f'{{"type": "{WRONG}"}}'.encode())
        answer = await self.send("\r\n".join(head).encode() + b"\r\n\r\n", then=output)
        assert answer.startswith(b"HTTP/1.1 101")
        assert [opcode for opcode, _ in frames(answer.partition(b"\r\n\r\n")[2])][-1] == 8


async def test_nothing_that_a_gateway_says_holds_a_secret(app, tmp_path, caplog):
    # An application that logs everything must not learn more than it should from the libraries below either.
    caplog.set_level(logging.DEBUG)
    data = tmp_path / "data"
    settings = {"webhook_secret": WEBHOOK_SECRET, "webhook_allow": "127.0.0.1", "data": str(data)}
    chosen = Settings.load({}, tmp_path / "none", **settings)
    access = Access(Keyring(parse_keys(f"ops:{GOOD}", "KEYS")))
    gateway = Gateway(lambda: build(app, chosen, role="local"), access)
    with receiving() as receiver:
        receiver.answer = lambda request: 410
        async with serving(gateway) as url:
            caller = Caller(httpx.URL(url).port)
            run = await caller.ask_everything(f"{receiver.url}&key={PLANTED}")
            await caller.talk(run)
            gone = f"http://127.0.0.1:{free_port()}/{PLANTED}"
            assert (await caller.ask("POST", RUNS, body={"input": {"text": "x"}, "webhook": {"url": gone}}))[0] == 200
            # Of the one that refused its messages and of the one that is not there.
            await eventually(lambda: "wants no more" in caplog.text and "did not reach" in caplog.text)
        for request in receiver.seen:
            assert_clean(request.body, "a webhook's body")
    for answer in caller.answers:
        assert_clean(answer, "an answer")
    assert len(caller.answers) > 40
    for record in caplog.records:
        assert_clean(f"{record.getMessage()} {record.exc_text}", f"a record of {record.name}")
    kept = b"".join(path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file())
    for secret in (GOOD, SIGNING, WEBHOOK_SECRET.removeprefix("whsec_"), f"{PLANTED}-key", WRONG):
        assert secret.encode() not in kept, f"{secret} is on disk"


def command(*arguments, cwd, **environment):
    """What a command says, on both streams."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
    done = subprocess.run(
        [sys.executable, "-m", "offramp", *arguments],
        cwd=cwd,
        env=plain | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


async def test_nothing_that_the_commands_say_holds_a_secret(tmp_path):
    secrets = {"api_keys": f"ops:{GOOD}", "webhook_secret": WEBHOOK_SECRET, "webhook_allow": "127.0.0.1"}
    variables = {f"OFFRAMP_{name.upper()}": value for name, value in secrets.items()}
    serving = Serving(tmp_path, app=APP, workers=1, lease=10, drain_timeout=5, webhook_secrets=WRONG, **secrets)
    serving.start()
    try:
        serving.wait_until_up()
        caller = Caller(serving.port)
        with receiving() as receiver:
            run = await caller.ask_everything(f"{receiver.url}&key={PLANTED}")
        await caller.talk(run)
        for process in serving.family():
            assert_clean(" ".join(process.cmdline()), f"the command line of {process.pid}")
        workers = [psutil.Process(pid).environ() for pid in serving.worker_pids()]
        assert [GOOD in " ".join(environment.values()) for environment in workers] == [False]
        client = {"OFFRAMP_URL": serving.url, "OFFRAMP_API_KEY": GOOD}
        for arguments in (("show", run), ("list", "--json"), ("follow", run)):
            code, output = command(*arguments, cwd=tmp_path, **client)
            assert code == 0, output
            assert_clean(output, arguments)
        code, output = command("list", cwd=tmp_path, **client | {"OFFRAMP_API_KEY": WRONG})
        assert code != 0
        assert_clean(output, "the answer to a wrong key")
        assert serving.terminate() == 0
    finally:
        serving.close()
    for answer in caller.answers:
        assert_clean(answer, "an answer")
    log = serving.log.read_text()
    assert "OFFRAMP_WEBHOOK_SECRETS is set, but nothing reads it" in log
    assert_clean(log, "the log")
    for arguments in (("doctor", str(APP)), ("doctor", str(APP), "--json")):
        _, output = command(*arguments, cwd=tmp_path, **variables, OFFRAMP_WEBHOOK_SECRETS=WRONG)
        assert_clean(output, arguments)
    for name in ("API_KEYS", "WEBHOOK_SECRET"):
        code, output = command("serve", str(APP), cwd=tmp_path, **{f"OFFRAMP_{name}": f"{WRONG} \x7f {WRONG}"})
        assert code == 2
        assert_clean(output, f"the refusal of a wrong {name}")
