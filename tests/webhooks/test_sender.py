"""One attempt over real sockets: what is sent, what is refused, what an answer means, and what bounds it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from standardwebhooks import WebhookVerificationError

from offramp.core.addresses import Allowed, parse_allowed
from offramp.core.webhooks import target_of
from offramp.egress.guard import ADDRESSES_MAX
from offramp.egress.http import RESPONSE_BYTES_MAX, HttpSender
from offramp.egress.signing import Signer
from offramp.execution.clock import SystemClock
from offramp.ports.outbox import Message
from tests.webhooks.receiver import OLD_SECRET, SECRET, receiving

MESSAGE = Message("run_1-7", '{"type":"run.completed","data":{"answer":"größer"}}'.encode())
LOOPBACK = parse_allowed("127.0.0.1")
PEM = Path(__file__).with_name("receiver.example.pem")


@pytest.fixture
async def make():
    made = []

    def sender(allowed=LOOPBACK, timeout=10.0, secrets=(SECRET,), tls=None):
        made.append(HttpSender(Signer(secrets), allowed, SystemClock(), timeout, tls))
        return made[-1]

    yield sender
    for each in made:
        await each.close()


@pytest.fixture
def names(monkeypatch):
    """What names resolve to, in turn; `asked` are the look-ups."""

    kept = SimpleNamespace(asked=[], answers={})

    def getaddrinfo(host, port, **_):
        kept.asked.append(host)
        if host not in kept.answers:
            raise socket.gaierror(-2, "Name or service not known")
        answers = kept.answers[host]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in each], socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr("offramp.egress.guard.socket.getaddrinfo", getaddrinfo)
    return kept


async def send(sender, url):
    return await sender.send(target_of(url), MESSAGE)


async def test_what_arrives(make, receiver):
    answer = await send(make(), receiver.url)
    assert answer.result == "delivered"
    request = receiver.next()
    assert request.path == "/hooks?token=hidden"
    assert request.body == MESSAGE.body
    assert request.id == "run_1-7"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["user-agent"].startswith("offramp/")
    assert request.verified()["data"] == {"answer": "größer"}
    with pytest.raises(WebhookVerificationError):
        request.verified(OLD_SECRET)
    request.body += b" "
    with pytest.raises(WebhookVerificationError):
        request.verified()


async def test_while_secrets_rotate_either_verifies(make, receiver):
    await send(make(secrets=(SECRET, OLD_SECRET)), receiver.url)
    request = receiver.next()
    assert len(request.headers["webhook-signature"].split(" ")) == 2
    assert request.verified(SECRET) == request.verified(OLD_SECRET)


@pytest.mark.parametrize(
    ("status", "headers", "result", "retry_after"),
    [
        (200, {}, "delivered", None),
        (299, {}, "delivered", None),
        (410, {"retry-after": "3"}, "gone", None),
        (404, {}, "refused", None),
        (400, {}, "refused", None),
        (500, {}, "refused", None),
        (429, {"Retry-After": "120"}, "refused", 120.0),
        (503, {"retry-after": "soon"}, "refused", None),
        (304, {}, "refused", None),
    ],
)
async def test_what_a_status_means(make, receiver, status, headers, result, retry_after):
    receiver.answer = lambda _: (status, headers)
    answer = await send(make(), receiver.url)
    assert (answer.result, answer.detail, answer.retry_after) == (result, str(status), retry_after)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(make, receiver, status):
    with receiving() as other:
        receiver.answer = lambda _: (status, {"location": other.url})
        answer = await send(make(), receiver.url)
        assert (answer.result, answer.detail) == ("refused", str(status))
        assert not other.seen


async def test_nothing_of_an_answer_is_kept_for_the_next(make, receiver):
    receiver.answer = lambda _: (204, {"set-cookie": "a=b"})
    sender = make()
    for _ in range(2):
        await send(sender, receiver.url)
    assert "cookie" not in receiver.seen[1].headers


async def test_no_proxy_of_the_environment_is_used(make, receiver, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await send(make(), receiver.url)).result == "delivered"


async def test_a_receiver_that_does_not_answer_in_time(make, receiver):
    release = threading.Event()
    receiver.answer = lambda _: release.wait(20) and 204
    answer = await send(make(timeout=0.3), receiver.url)
    release.set()
    assert answer.result == "timeout"
    assert "0.3 s" in answer.detail


@contextlib.asynccontextmanager
async def raw(handle):
    """A server that does with a connection whatever it likes; its URL."""
    tasks = set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await handle(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


async def test_headers_that_trickle_without_end_are_cut_off(make):
    async def trickle(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw(trickle) as url:
        assert (await send(make(timeout=0.5), url)).result == "timeout"


async def test_a_body_without_end_is_cut_off_and_its_status_counts(make):
    sent = []

    async def flood(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            await writer.drain()
            sent.append(4096)

    async with raw(flood) as url:
        answer = await send(make(), url)
    assert answer.result == "delivered"
    # What was on its way in the sockets' buffers when the sender stopped reading was sent, too.
    assert RESPONSE_BYTES_MAX <= sum(sent) < 64 << 20


async def test_a_body_that_stalls_does_not_undo_its_status(make, monkeypatch):
    monkeypatch.setattr("offramp.egress.http.RESPONSE_S_MAX", 0.05)

    async def stall(_, writer):
        writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 10\r\n\r\nabc")
        await asyncio.Event().wait()

    async with raw(stall) as url:
        assert (await send(make(), url)).result == "delivered"


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x16\x03\x01", b"x" * 300_000])
async def test_what_is_no_http_is_a_failure(make, answer):
    async def say(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with raw(say) as url:
        assert (await send(make(), url)).result == "unreachable"


async def test_nobody_listens(make):
    bound = socket.create_server(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    bound.close()
    assert (await send(make(), f"http://127.0.0.1:{port}/")).result == "unreachable"


# The guard.


async def test_loopback_is_refused_unless_it_is_allowed(make, receiver):
    answer = await send(make(allowed=Allowed()), receiver.url)
    assert answer.result == "forbidden"
    assert "127.0.0.1 is a loopback address" in answer.detail
    assert not receiver.seen


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.7"],
        ["::ffff:10.0.0.7"],
        ["169.254.169.254"],
        ["fd00::1"],
        ["fe80::1%lo"],
        ["93.184.215.14", "10.0.0.7"],
        ["2606:4700::1111", "::1"],
    ],
)
async def test_a_name_with_any_forbidden_address_is_not_connected_to(make, names, monkeypatch, addresses):
    async def connect(*_, **__):
        raise AssertionError("connected")

    monkeypatch.setattr("httpcore.AnyIOBackend.connect_tcp", connect)
    names.answers["evil.example"] = [addresses]
    assert (await send(make(), "http://evil.example/")).result == "forbidden"


async def test_a_name_is_looked_up_once_and_that_address_is_connected_to(make, names, receiver):
    # It would lead elsewhere the second time: DNS rebinding.
    names.answers["rebind.example"] = [["127.0.0.1"], ["10.0.0.7"]]
    answer = await send(make(), f"http://rebind.example:{receiver.port}/")
    assert answer.result == "delivered"
    assert names.asked == ["rebind.example"]
    assert receiver.next().headers["host"] == f"rebind.example:{receiver.port}"


async def test_every_attempt_is_looked_up_and_judged_anew(make, names, receiver):
    names.answers["rebind.example"] = [["127.0.0.1"], ["10.0.0.7"]]
    sender, url = make(), f"http://rebind.example:{receiver.port}/"
    assert [(await send(sender, url)).result for _ in range(2)] == ["delivered", "forbidden"]
    assert len(receiver.seen) == 1


async def test_an_allowed_name_may_lead_anywhere(make, names, receiver):
    names.answers["hooks.internal"] = [["127.0.0.1"]]
    answer = await send(make(parse_allowed("hooks.internal")), f"http://hooks.internal:{receiver.port}/")
    assert answer.result == "delivered"


async def test_a_port_that_is_not_allowed_is_not_connected_to(make, names, receiver):
    names.answers["hooks.internal"] = [["127.0.0.1"]]
    sender = make(parse_allowed("hooks.internal", "443"))
    answer = await send(sender, f"http://hooks.internal:{receiver.port}/")
    assert (answer.result, receiver.seen) == ("forbidden", [])
    assert "OFFRAMP_WEBHOOK_PORTS" in answer.detail


async def test_the_next_address_is_tried_where_one_does_not_answer(make, names, receiver):
    # Nothing listens at the other addresses of the loopback network.
    names.answers["many.example"] = [["127.9.9.9", "127.9.9.8", "127.0.0.1", "127.9.9.7", "127.9.9.6"]]
    sender = make(parse_allowed("127.0.0.0/8"))
    assert (await send(sender, f"http://many.example:{receiver.port}/")).result == "delivered"
    names.answers["more.example"] = [[f"127.9.9.{number}" for number in range(1, ADDRESSES_MAX + 1)] + ["127.0.0.1"]]
    assert (await send(sender, f"http://more.example:{receiver.port}/")).result == "unreachable"


async def test_a_name_that_is_unknown(make, names):
    answer = await send(make(), "http://nowhere.example/")
    assert answer.result == "unreachable"
    assert "cannot be resolved" in answer.detail


# TLS.


def serving_tls(asked):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    return context


async def test_tls_is_with_the_name_though_the_connection_is_to_the_address(make, names):
    names.answers["receiver.example"] = names.answers["other.example"] = [["127.0.0.1"]]
    asked = []
    trusting = ssl.create_default_context(cafile=PEM)
    with receiving(serving_tls(asked)) as receiver:
        sender = make(tls=trusting)
        answer = await send(sender, f"https://receiver.example:{receiver.port}/")
        assert answer.result == "delivered"
        assert asked == ["receiver.example"]
        assert receiver.next().headers["host"] == f"receiver.example:{receiver.port}"
        answer = await send(sender, f"https://other.example:{receiver.port}/")
        assert answer.result == "unreachable"
        assert "certificate" in answer.detail


async def test_a_certificate_that_nobody_vouches_for_is_refused(make, names):
    names.answers["receiver.example"] = [["127.0.0.1"]]
    with receiving(serving_tls([])) as receiver:
        answer = await send(make(), f"https://receiver.example:{receiver.port}/")
        assert answer.result == "unreachable"
        assert not receiver.seen
