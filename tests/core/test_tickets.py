from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core import tickets

SECRET, OTHER = b"s" * 32, b"o" * 32
RUN = "run_01D78XYFJ1PRM1WPBCBT3VHMNV"
ANN, BOB = "a" * 64, "b" * 64
UNTIL = 1_700_003_600
TICKET = tickets.sign(SECRET, RUN, ANN, UNTIL)


def test_a_ticket_is_good_for_its_run_and_key():
    ticket = tickets.read(TICKET)
    assert ticket.expires_at == UNTIL
    assert ticket.key == tickets.key_id(SECRET, ANN)
    assert tickets.is_signed(ticket, SECRET, RUN, ANN)


@pytest.mark.parametrize(
    ("secret", "run", "digest"),
    [(OTHER, RUN, ANN), (SECRET, RUN[:-1] + "W", ANN), (SECRET, RUN, BOB), (SECRET, RUN, "")],
    ids=["secret", "run", "key", "no key"],
)
def test_and_for_no_other(secret, run, digest):
    assert not tickets.is_signed(tickets.read(TICKET), secret, run, digest)


def test_no_bit_of_it_can_be_changed():
    data = bytearray(base64.urlsafe_b64decode(TICKET.removeprefix(tickets.PREFIX)))
    for place in range(len(tickets.key_id(SECRET, ANN)) * 8, len(data) * 8):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        text = tickets.PREFIX + base64.urlsafe_b64encode(changed).decode()
        assert not tickets.is_signed(tickets.read(text), SECRET, RUN, ANN)


@given(st.text(max_size=80) | st.text("AZaz09-_=+/", max_size=60).map(tickets.PREFIX.__add__))
def test_any_text_is_read_or_refused(text):
    ticket = tickets.read(text)
    assert ticket is None or not tickets.is_signed(ticket, SECRET, RUN, ANN)


@pytest.mark.parametrize("text", ["", TICKET[:-1], TICKET + "A", TICKET + "\n", TICKET[4:], "OFT_" + TICKET[4:]])
def test_another_form_is_no_ticket(text):
    assert tickets.read(text) is None
