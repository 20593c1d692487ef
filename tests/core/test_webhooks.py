from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.addresses import WEBHOOK_PORTS, Allowed, parse_allowed
from offramp.core.events import TYPES
from offramp.core.run import Webhook
from offramp.core.webhooks import (
    BODY_BYTES_MAX,
    DELAYS_S,
    EVENT_NAMES,
    GIVE_UP_AFTER_S,
    JITTER,
    Answer,
    Attempt,
    Progress,
    after,
    delay_s,
    flaws,
    message,
    parse_secrets,
    refused,
    target_of,
)

NOW = 1_700_000_000.0
FAILED = Answer("refused", "500")
SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.com", ("https", "example.com", 443, "/")),
        ("HTTPS://Example.COM./a%20b?c=d&e", ("https", "example.com", 443, "/a%20b?c=d&e")),
        ("http://example.com:8080/", ("http", "example.com", 8080, "/")),
        ("http://[2606:4700::1111]:81/x", ("http", "2606:4700::1111", 81, "/x")),
        ("https://xn--bcher-kva.example/", ("https", "xn--bcher-kva.example", 443, "/")),
        ("https://my_host.internal/@a:b", ("https", "my_host.internal", 443, "/@a:b")),
    ],
)
def test_a_url_leads_to_one_place(url, target):
    assert tuple(target_of(url)) == target


def test_the_host_header():
    assert target_of("https://example.com:443/").authority == "example.com"
    assert target_of("http://example.com:443/").authority == "example.com:443"
    assert target_of("http://[2606:4700::1111]/").authority == "[2606:4700::1111]"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com",
        "ftp://example.com",
        "file:/etc/passwd",
        "https://",
        "https:///path",
        "https://user@example.com",
        "https://user:secret@example.com",
        "https://good.example\\@evil.example",
        "https://example.com /",
        "https://example.com\n/",
        "https://exam\tple.com/",
        "https://bücher.example",
        "https://example.com/#fragment",
        "https://example.com/#",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:http/",
        "https://example.com:/",
        "https://-example.com",
        "https://exa%6dple.com",
        "https://[::1",
        "https://[::1]x/",
        "https://[fe80::1%25eth0]/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://a..b/",
        "https://example.com/" + "a" * 2048,
    ],
)
def test_a_url_that_two_parsers_may_read_differently_is_refused_without_being_repeated(url):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - each has its own words
        target_of(url)
    assert "secret" not in str(caught.value)
    assert flaws(Webhook(url))[0][0] == "/webhook/url"


@given(st.text(max_size=80) | st.text(max_size=40).map("https://{}/".format))
def test_any_text_is_a_target_or_a_value_error(url):
    try:
        target = target_of(url)
    except ValueError:
        return
    assert target.scheme in {"http", "https"}
    assert target.host.isascii()
    assert 1 <= target.port <= 65535


def test_every_event_but_deltas_may_be_asked_for():
    assert set(EVENT_NAMES) == set(TYPES) - {"step.delta"}
    assert flaws(Webhook("https://example.com", EVENT_NAMES)) == []
    assert flaws(Webhook("https://example.com", (*EVENT_NAMES, "run.failed")))[0][0] == "/webhook/events"
    [(pointer, text)] = flaws(Webhook("https://example.com", ("run.failed", "run.complete")))
    assert pointer == "/webhook/events/1"
    assert "did you mean 'run.completed'?" in text


def test_what_a_service_refuses():
    loopback = Webhook("http://127.0.0.1:9000/")
    assert refused(Webhook("https://example.com"), signed=True, allowed=Allowed()) == []
    [(pointer, text)] = refused(Webhook("https://example.com"), signed=False, allowed=Allowed())
    assert pointer == "/webhook"
    assert "OFFRAMP_WEBHOOK_SECRET" in text
    for url in ("http://127.0.0.1:9000/", "http://localhost/", "http://[::ffff:a00:1]/", "http://169.254.169.254/"):
        [(pointer, text)] = refused(Webhook(url), signed=True, allowed=Allowed())
        assert pointer == "/webhook/url"
        assert "OFFRAMP_WEBHOOK_ALLOW" in text
    assert refused(loopback, signed=True, allowed=parse_allowed("127.0.0.0/8")) == []
    assert refused(Webhook("http://localhost/"), signed=True, allowed=parse_allowed("localhost")) == []
    assert len(refused(Webhook("nonsense"), signed=False, allowed=Allowed())) == 2


@pytest.mark.parametrize(
    ("url", "ports", "refusal"),
    [
        ("https://example.com", WEBHOOK_PORTS, None),
        ("http://example.com", WEBHOOK_PORTS, None),
        ("https://example.com:1024", WEBHOOK_PORTS, None),
        ("https://example.com:65535", WEBHOOK_PORTS, None),
        ("https://example.com:1023", WEBHOOK_PORTS, "port 1023"),
        ("http://example.com:22", WEBHOOK_PORTS, "port 22"),
        ("http://example.com:25", "25, 443", None),
        ("http://example.com", "443", "port 80"),
    ],
)
def test_messages_go_to_the_ports_that_are_allowed(url, ports, refusal):
    found = refused(Webhook(url), signed=True, allowed=parse_allowed("", ports))
    assert [pointer for pointer, _ in found] == ["/webhook/url"] * (refusal is not None)
    assert all(f"{refusal} is not among those of OFFRAMP_WEBHOOK_PORTS" in text for _, text in found)


def test_secrets():
    other = "whsec_" + base64.b64encode(bytes(64)).decode()
    assert parse_secrets("") == []
    assert parse_secrets(f" {SECRET}  {other}\n") == [SECRET, other]
    short = "whsec_" + base64.b64encode(bytes(23)).decode()
    for wrong in ("hunter2", SECRET.removeprefix("whsec_"), short, SECRET + "!", f"{SECRET} hunter2"):
        with pytest.raises(ValueError, match="base64 of 24 to 64 bytes") as caught:
            parse_secrets(wrong)
        assert wrong not in str(caught.value)
    with pytest.raises(ValueError, match="at most 4"):
        parse_secrets(" ".join([SECRET] * 5))


def test_the_result_is_left_out_of_a_large_message():
    empty = len(message("run.completed", "now", {"id": "run_1", "result": ""}))
    for spare, kept in ((0, True), (1, False)):
        result = "x" * (BODY_BYTES_MAX - empty + spare)
        body = message("run.completed", "now", {"id": "run_1", "result": result})
        data = json.loads(body)["data"]
        assert ("result" in data) is kept
        assert len(body) <= BODY_BYTES_MAX
        assert data["id"] == "run_1"


# What follows from an attempt.


def test_delivered_and_gone():
    before = Progress(3, attempts=5, failing_since=NOW - 100)
    attempt = Attempt(7, NOW - 200, NOW)
    assert after(before, attempt, Answer("delivered"), 0.5) == (Progress(7), False)
    assert after(before, attempt, Answer("gone"), 0.5) == (Progress(7, done=True), False)


@given(st.integers(0, 100), st.floats(0, 1, exclude_max=True))
def test_delays_follow_the_table(attempts, jitter):
    usual = DELAYS_S[min(attempts, len(DELAYS_S) - 1)]
    assert usual * (1 - JITTER) <= delay_s(attempts, jitter) <= usual * (1 + JITTER)


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=30, max_size=30), st.floats(0, 20))
def test_an_event_is_attempted_for_a_day_and_then_given_up(jitters, took):
    progress, now, given_up, times = Progress(3), NOW, False, []
    for jitter in jitters:
        times.append(now)
        progress, given_up = after(progress, Attempt(4, NOW, now + took), FAILED, jitter)
        if given_up:
            break
        assert progress.cursor == 3
        now = progress.due_at
    assert given_up
    assert progress.cursor == 4
    assert progress.due_at is None
    assert 11 <= len(times) <= 18
    assert NOW + GIVE_UP_AFTER_S <= times[-1] + took <= NOW + GIVE_UP_AFTER_S + 40


def test_a_receiver_that_asks_for_time_gets_it_up_to_the_end():
    attempt = Attempt(4, NOW, NOW)
    assert after(Progress(), attempt, Answer("refused", "429", 700.0), 0.5)[0].due_at == NOW + 700
    assert after(Progress(), attempt, Answer("refused", "503", 1.0), 0.5)[0].due_at == NOW + DELAYS_S[0]
    assert after(Progress(), attempt, Answer("refused", "503", 1e9), 0.5)[0].due_at == NOW + GIVE_UP_AFTER_S


def test_each_event_has_its_own_day_while_the_receiver_stays_away():
    # The first event was given up; this one happened later and is not given up with it.
    before = Progress(4, 0, failing_since=NOW)
    late = NOW + GIVE_UP_AFTER_S
    progress, given_up = after(before, Attempt(9, late - 3600, late), FAILED, 0.5)
    assert not given_up
    assert progress.due_at == late + DELAYS_S[0]
    # One that happened at the beginning gets its one attempt.
    progress, given_up = after(before, Attempt(5, NOW, late + 1), FAILED, 0.5)
    assert given_up
    assert progress == Progress(5, 0, NOW)


def test_a_service_that_was_down_for_days_does_not_give_up_at_once():
    progress, given_up = after(Progress(), Attempt(5, NOW - 10 * GIVE_UP_AFTER_S, NOW), FAILED, 0.5)
    assert not given_up
    assert progress.due_at == NOW + DELAYS_S[0]
