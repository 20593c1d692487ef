"""What a divergence says: both calls, each as its author knows it, and whether their arguments differ."""

from __future__ import annotations

import pytest

from offramp.core.divergence import differs
from offramp.core.journal import Entry

STEP = Entry("ask:11aa:0", "ask", "step")
VALUE = Entry("offramp.uuid4:22bb:1", "offramp.uuid4", "value")


@pytest.mark.parametrize(
    ("recorded", "what", "key", "message"),
    [
        (STEP, "calls step 'ask'", "ask:33cc:0", "has step 'ask' (ask:11aa:0): the arguments differ"),
        (STEP, "calls step 'told'", "told:11aa:0", "has step 'ask' (ask:11aa:0): the arguments are the same"),
        (STEP, "waits for signal 'go'", "offramp.signal:44dd:0", "has step 'ask' (ask:11aa:0)"),
        (STEP, "returned", None, "has step 'ask' (ask:11aa:0)"),
        (VALUE, "calls step 'ask'", "ask:33cc:0", "has offramp.uuid4() (offramp.uuid4:22bb:1)"),
    ],
    ids=["other arguments", "another step", "a wait", "a return", "a value"],
)
def test_both_calls_are_named(recorded, what, key, message):
    said = differs(recorded, what, key)
    assert said == f"the pipeline {what}{f' ({key})' if key else ''} where its journal {message}"
